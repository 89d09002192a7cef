"""Compare two arms metric by metric, and state what may be concluded.

An improvement is reported as `confounded` if a guard metric degraded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidguide.eval.metrics.base import Guard
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.notes import comparison_notes, repetition_notes
from vidguide.eval.scoring.statistics import Estimate, Key, PairedComparison, compare_pairs, holm, noise_floor, win_rate

PRIMARY = ("temporal.warp_error", "world.attributes", "world.negative_present")
ALPHA = 0.05
INCOMPARABLE = "not comparable: the arms were scored by different definitions"
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """One metric of a comparison, with its verdict.

    Attributes:
        metric: its id.
        primary: whether it was declared as primary beforehand.
        paired: the paired statistics.
        wins: win rate with its interval; None for a guard.
        p_holm: p-value corrected over the primary metrics; None for others.
        floor: noise floor; None if it was not measured.
        verdict: what may be concluded.
    """

    metric: str
    primary: bool
    paired: PairedComparison
    wins: tuple[float, float, float] | None
    p_holm: float | None
    floor: float | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of two arms.

    Attributes:
        reference, other: names of the arms.
        lines: one comparison per metric.
        clips, failed: number of clips, and of failed clips, by arm.
        notes: sentences to show with the numbers.
    """

    reference: str
    other: str
    lines: list[MetricComparison]
    clips: dict[str, int]
    failed: dict[str, int]
    notes: list[str] = field(default_factory=list)


def values_by_key(rows: Iterable[Row], metric: str) -> dict[Key, float]:
    """Return the defined values of one metric by prompt and seed; clips that share both are averaged."""
    grouped: dict[Key, list[float]] = {}
    for row in rows:
        if row["metric"] == metric and row["status"] == "ok":
            grouped.setdefault((row["prompt_id"], row["seed"]), []).append(row["value"])
    return {key: sum(group) / len(group) for key, group in grouped.items()}


def compare(
    reference: Sequence[Row],
    other: Sequence[Row],
    names: tuple[str, str],
    primary: Sequence[str] = PRIMARY,
    again: Sequence[Row] = (),
) -> Comparison:
    """Compare the scored clips of two arms.

    Args:
        reference, other: rows of the results.
        names: of the two arms.
        primary: metrics declared beforehand, over which p-values are corrected.
        again: rows of a repetition of the reference arm, for the noise floor.

    Raises:
        ValueError: an unknown primary metric.
    """
    check_primary(primary)
    lines = compare_metrics(reference, other, primary, again)
    arms = dict(zip(names, (reference, other), strict=True))
    clips = {arm: len({row["clip"] for row in rows}) for arm, rows in arms.items()}
    failed = {arm: len({row["clip"] for row in rows if row["status"] == "failed"}) for arm, rows in arms.items()}
    notes = comparison_notes([line.paired for line in lines], failed, bool(again)) + repetition_notes(arms)
    return Comparison(reference=names[0], other=names[1], lines=lines, clips=clips, failed=failed, notes=notes)


def compare_metrics(
    reference: Sequence[Row], other: Sequence[Row], primary: Sequence[str], again: Sequence[Row]
) -> list[MetricComparison]:
    """Return a comparison for each metric that any clip has."""
    rows = (*reference, *other)
    scored = {row["metric"] for row in rows if row["status"] == "ok"}
    names = [name for name in METRICS if name in scored]
    pairs = {name: compare_pairs(values_by_key(reference, name), values_by_key(other, name)) for name in names}
    corrected = holm({name: p for name, pair in pairs.items() if name in primary and (p := pair.p) is not None})
    lines = []
    for name, pair in pairs.items():
        floor = noise_floor(values_by_key(reference, name), values_by_key(again, name)) if again else None
        conclusion = verdict(name, pairs, corrected.get(name, pair.p), floor, name in primary)
        line = MetricComparison(
            metric=name,
            primary=name in primary,
            paired=pair,
            wins=win_rate([b - a for a, b in pair.by_prompt.values()], direction(name)) if direction(name) else None,
            p_holm=corrected.get(name),
            floor=floor,
            verdict=conclusion if same_definition(rows, name) else INCOMPARABLE,
        )
        lines.append(line)
    return lines


def same_definition(rows: Iterable[Row], metric: str) -> bool:
    """Return whether all values of a metric have the same version and weights."""
    return len({(row.get("version"), row.get("weights")) for row in rows if row["metric"] == metric}) <= 1


def check_primary(primary: Sequence[str]) -> None:
    """Refuse an unknown primary metric."""
    for name in primary:
        if name not in METRICS:
            raise ValueError(f"primary={name!r}: no such metric; must be one of {', '.join(METRICS)}")


def direction(name: str) -> int:
    """Return 1 if higher is better, -1 if lower is, 0 for a guard."""
    return {"higher": 1, "lower": -1, "": 0}[METRICS[name].better]


def verdict(
    name: str, pairs: Mapping[str, PairedComparison], p: float | None, floor: float | None, primary: bool
) -> str:
    """Return what may be concluded about one metric, in a few words.

    Args:
        name: of the metric.
        pairs: comparisons of all metrics, for the guards.
        p: its p-value, corrected for a primary metric.
        floor: its noise floor; None if it was not measured.
        primary: whether it was declared as primary.
    """
    difference = pairs[name].difference
    if difference.mean is None:
        return "not measured in both arms"
    if not is_significant(difference, p, floor):
        return no_conclusion(difference, floor)
    if not direction(name):
        return "higher" if difference.mean > 0 else "lower"
    suffix = "" if primary else ", exploratory"
    if difference.mean * direction(name) < 0:
        return f"worse{suffix}"
    violations = [guard.violation for guard in METRICS[name].guards if is_violated(guard, pairs)]
    return f"confounded: {', '.join(dict.fromkeys(violations))}" if violations else f"better{suffix}"


def is_significant(difference: Estimate, p: float | None, floor: float | None) -> bool:
    """Return whether a difference exceeds the noise floor, and both its interval and p-value exclude 0."""
    if difference.mean is None or difference.low is None or difference.high is None:
        return False
    if floor is not None and abs(difference.mean) < floor:
        return False
    return not difference.low <= 0 <= difference.high and (p is None or p <= ALPHA)


def no_conclusion(difference: Estimate, floor: float | None) -> str:
    """Return the verdict on a difference that is not significant."""
    if difference.mean is None or difference.low is None:
        return "one prompt only: nothing can be said"
    if floor is not None and abs(difference.mean) < floor:
        return "within the noise floor"
    return "inconclusive"


def is_violated(guard: Guard, pairs: Mapping[str, PairedComparison]) -> bool:
    """Return whether the guard metric changed by more than its limit from the reference arm to the other."""
    pair = pairs.get(guard.id)
    if pair is None or pair.difference.mean is None or pair.reference is None:
        return False
    change = pair.difference.mean
    if guard.relative:
        if not pair.reference:
            return False
        change /= abs(pair.reference)
    return change < guard.change if guard.change < 0 else change > guard.change
