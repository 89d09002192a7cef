"""The overview: every variant's difference from the reference in each primary metric, and what is gained against what
is lost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report.amounts import amount, change, signed, subject
from vidguide.eval.report.charts import Chart, TradeOffPoint, bounds, interval_chart, largest, trade_off_chart
from vidguide.eval.report.html_tables import thresholds, verdict_style
from vidguide.eval.scoring.statistics import Estimate, oriented
from vidguide.eval.scoring.verdict import Comparison, MetricComparison, direction

WIDTH = 300  # of a chart, pixels


@dataclass(frozen=True)
class PanelRow:
    """One variant in one metric: its name, difference and verdict as text, CSS class, chart, and link of both."""

    name: str
    text: str
    verdict: str
    style: str
    chart: Chart | None
    href: str


@dataclass(frozen=True)
class Panel:
    """One primary metric: the reference's mean, the ends of the scale of all charts, and a row per variant."""

    metric: str
    reference: str
    scale: str
    rows: list[PanelRow]


@dataclass(frozen=True)
class TradeOff:
    """The trade-off chart, what its axes are, and the variant of each letter."""

    chart: Chart
    axes: str
    legend: list[tuple[str, str, str]]  # letter, name and CSS class


def primary_lines(comparison: Comparison) -> dict[str, MetricComparison]:
    """Return the primary metrics of a comparison that both arms have, by id."""
    return {line.metric: line for line in comparison.lines if line.primary and line.paired.difference.mean is not None}


def panels(comparisons: Sequence[Comparison], hrefs: dict[tuple[str, str], str]) -> list[Panel]:
    """Return a panel per primary metric, with a common scale for all variants.

    Args:
        comparisons: of each variant with the reference.
        hrefs: what the mean links to, by variant and metric.
    """
    metrics = dict.fromkeys(metric for comparison in comparisons for metric in primary_lines(comparison))
    return [panel(metric, comparisons, hrefs) for metric in metrics]


def panel(metric: str, comparisons: Sequence[Comparison], hrefs: dict[tuple[str, str], str]) -> Panel:
    """Return the panel of one metric."""
    lines = {c.other: line for c in comparisons if (line := primary_lines(c).get(metric))}
    limits = {c.other: thresholds(lines[c.other], c) for c in comparisons if c.other in lines}
    values = [value for name, line in lines.items() for value in (*bounds(line.paired.difference), *limits[name])]
    limit, rows = largest(values), []
    for name, line in lines.items():
        difference, style = line.paired.difference, verdict_style(line.verdict)
        href = hrefs.get((name, metric), "")
        chart = interval_chart(difference, style, limit=limit, thresholds=limits[name], width=WIDTH, href=href)
        rows.append(PanelRow(name, change(metric, difference), line.verdict, style, chart, href))
    means = dict.fromkeys(amount(metric, line.paired.reference) for line in lines.values())
    reference = f"{comparisons[0].reference}: {' or '.join(means)}"
    return Panel(metric, reference, f"{signed(metric, -limit)} to {signed(metric, limit)}", rows)


def trade_off(comparisons: Sequence[Comparison]) -> TradeOff | None:
    """Return the trade-off of the metric in which a variant gains most and that in which one loses most.

    Gains are compared by effect size. None with fewer than two primary metrics with a better direction.
    """
    axes = choose_axes(comparisons)
    if axes is None:
        return None
    points, legend = [], []
    for number, comparison in enumerate(comparisons):
        lines = primary_lines(comparison)
        if not set(axes) <= set(lines):
            continue
        letter = letter_of(number)
        first, second = (gain(lines[metric]) for metric in axes)
        style = f"series-{number % 6}"
        title = f"{comparison.other}: {'; '.join(change(m, lines[m].paired.difference) for m in axes)}"
        points.append(TradeOffPoint(letter, style, (first, second), title))
        legend.append((letter, comparison.other, style))
    across, up = (subject(metric) for metric in axes)
    guards = [guard.change for guard in METRICS[axes[0]].guards if guard.id == axes[1] and not guard.relative]
    threshold = guards[0] * direction(axes[1]) if guards else None
    chart = trade_off_chart(points, f"{across} against {up}", threshold, (f"{across}: better →", f"{up}: better ↑"))
    dashes = "" if threshold is None else f" Dashed: {axes[1]} violates a guard of {axes[0]}."
    return TradeOff(chart, f"{axes[0]} to the right, {axes[1]} upward; the reference is at the centre.{dashes}", legend)


def choose_axes(comparisons: Sequence[Comparison]) -> tuple[str, str] | None:
    """Return the metric with the largest gain of any variant, and of the others the one with the largest loss."""
    sizes: dict[str, list[float]] = {}
    for comparison in comparisons:
        for metric, line in primary_lines(comparison).items():
            if direction(metric):
                sizes.setdefault(metric, []).append(effect(line) * direction(metric))
    if len(sizes) < 2:
        return None
    first = max(sizes, key=lambda metric: max(sizes[metric]))
    second = min((metric for metric in sizes if metric != first), key=lambda metric: min(sizes[metric]))
    return first, second


def effect(line: MetricComparison) -> float:
    """Return the effect size of a metric; infinite for equal differences other than 0."""
    mean = line.paired.difference.mean or 0.0
    return math.copysign(math.inf, mean) if line.effect_size is None and mean else line.effect_size or 0.0


def gain(line: MetricComparison) -> Estimate:
    """Return the difference of a metric, positive if better."""
    return oriented(line.paired.difference, 1 if direction(line.metric) > 0 else -1)


def letter_of(number: int) -> str:
    """Return A to Z, then A1 to Z1 and so on."""
    return ascii_uppercase[number % 26] + (str(number // 26) if number >= 26 else "")
