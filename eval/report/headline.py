"""The headline: one sentence per comparison, made from the verdicts on its primary metrics."""

from vidguide.eval.report.amounts import amount, change, join_names, subject
from vidguide.eval.scoring.verdict import Comparison, MetricComparison

CONCLUSIONS = ("better", "worse", "confounded")  # beginnings of verdicts that state a difference
NO_PRIMARY = "no primary metric was measured in both"


def headline(comparison: Comparison) -> str:
    """Return what the verdicts on the primary metrics say, conclusions first."""
    lines = [line for line in comparison.lines if line.primary]
    names = f"{comparison.other} against {comparison.reference}"
    if not lines:
        return f"{names}: {NO_PRIMARY}."
    concluded = [line for line in lines if line.verdict.startswith(CONCLUSIONS)]
    texts = [conclusion(line, comparison) for line in concluded]
    return f"{names}: {'; '.join([*texts, *without_conclusion(lines)])}."


def conclusion(line: MetricComparison, comparison: Comparison) -> str:
    """Return both means, the difference with its interval, and the verdict."""
    pair = line.paired
    means = f"{comparison.other} {amount(line.metric, pair.other)}, {comparison.reference} "
    means += amount(line.metric, pair.reference)
    return f"{subject(line.metric)}: {means}: {change(line.metric, pair.difference)}, {line.verdict}"


def without_conclusion(lines: list[MetricComparison]) -> list[str]:
    """Return the metrics without a conclusion, those of equal verdicts together, each with its difference."""
    grouped: dict[str, list[MetricComparison]] = {}
    for line in lines:
        if not line.verdict.startswith(CONCLUSIONS):
            grouped.setdefault(line.verdict, []).append(line)
    return [f"{join_names([describe(line) for line in group])}: {verdict}" for verdict, group in grouped.items()]


def describe(line: MetricComparison) -> str:
    """Return what a metric is about, and its difference in parentheses if it has one."""
    difference = change(line.metric, line.paired.difference)
    return f"{subject(line.metric)} ({difference})" if difference else subject(line.metric)
