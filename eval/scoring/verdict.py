"""Compare two arms metric by metric, and state what may be concluded.

An improvement is reported as `confounded` if a guard metric degraded, and as undecided on a guard that may have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidguide.eval.metrics.human_preference import PREFERENCE
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.comparability import clip_differences, same_definition
from vidguide.eval.scoring.intervals import ALPHA, prompts_for_p
from vidguide.eval.scoring.noninferiority import GuardDecision, decide, format_prompts
from vidguide.eval.scoring.notes import comparison_notes, repetition_notes
from vidguide.eval.scoring.preference import compare_votes
from vidguide.eval.scoring.sets import SetDistance, compare_sets
from vidguide.eval.scoring.statistics import (
    Estimate,
    Key,
    PairedComparison,
    benjamini_hochberg,
    compare_pairs,
    effect_size,
    holm,
    noise_floor,
    prompts_for_difference,
    win_rate,
)

PRIMARY = ("temporal.warp_error", "world.attributes", "world.negative_present")
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
        p_corrected: p-value corrected over the primary metrics (Holm), or over all others (Benjamini-Hochberg).
        floor: noise floor; None if it was not measured.
        effect_size: mean difference in units of the standard deviation over prompts.
        needed_prompts: number of prompts that show the observed difference with a probability of 80%; None for votes,
            which may need more raters instead.
        verdict: what may be concluded.
    """

    metric: str
    primary: bool
    paired: PairedComparison
    wins: tuple[float, float, float] | None
    p_corrected: float | None
    floor: float | None
    effect_size: float | None
    needed_prompts: int | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of two arms.

    Attributes:
        reference, other: names of the arms.
        lines: one comparison per metric.
        clips, failed: number of clips, and of failed clips, by arm.
        notes: sentences to show with the numbers.
        sets: distances between the arms as sets of clips.
    """

    reference: str
    other: str
    lines: list[MetricComparison]
    clips: dict[str, int]
    failed: dict[str, int]
    notes: list[str] = field(default_factory=list)
    sets: list[SetDistance] = field(default_factory=list)


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
    notes = comparison_notes([line.paired for line in lines], failed, clip_differences(reference, other), bool(again))
    notes += repetition_notes(arms)
    comparable = not clip_differences(reference, other)
    return Comparison(
        reference=names[0],
        other=names[1],
        lines=lines,
        clips=clips,
        failed=failed,
        notes=notes,
        sets=compare_sets(reference, other) if comparable else [],
    )


def compare_metrics(
    reference: Sequence[Row], other: Sequence[Row], primary: Sequence[str], again: Sequence[Row]
) -> list[MetricComparison]:
    """Return a comparison for each metric that any clip has."""
    rows = (*reference, *other)
    scored = {row["metric"] for row in rows if row["status"] == "ok"}
    names = [name for name in METRICS if name in scored]
    pairs = {name: compare_metric(reference, other, name) for name in names}
    corrected = correct_p_values(pairs, primary)
    different_clips = ", ".join(clip_differences(reference, other))
    primary_tests = max(sum(pairs[name].p is not None for name in primary if name in pairs), 1)
    lines = []
    for name, pair in pairs.items():
        tests = primary_tests if name in primary else 1
        floor = noise_floor(values_by_key(reference, name), values_by_key(again, name)) if again else None
        conclusion = verdict(name, pairs, corrected.get(name), floor, name in primary, tests)
        if different_clips:
            conclusion = f"not comparable: the clips differ in {different_clips}"
        differences = [b - a for a, b in pair.by_prompt.values()]
        line = MetricComparison(
            metric=name,
            primary=name in primary,
            paired=pair,
            wins=wins_of(name, pair),
            p_corrected=corrected.get(name),
            floor=floor,
            effect_size=effect_size(differences),
            needed_prompts=None if name == PREFERENCE else prompts_for_difference(differences, tests),
            verdict=conclusion if same_definition(rows, name) else INCOMPARABLE,
        )
        lines.append(line)
    return lines


def compare_metric(reference: Sequence[Row], other: Sequence[Row], name: str) -> PairedComparison:
    """Return the paired statistics of one metric; of votes, those on pairs of clips of both arms."""
    if name == PREFERENCE:
        return compare_votes(reference, other)
    return compare_pairs(values_by_key(reference, name), values_by_key(other, name))


def wins_of(name: str, pair: PairedComparison) -> tuple[float, float, float] | None:
    """Return the win rate over prompts, or over votes, with its interval; None for a guard, and without one."""
    difference = pair.difference
    if name == PREFERENCE:
        if pair.other is None or difference.low is None or difference.high is None:
            return None
        return pair.other, (1 + difference.low) / 2, (1 + difference.high) / 2
    return win_rate([b - a for a, b in pair.by_prompt.values()], direction(name)) if direction(name) else None


def correct_p_values(pairs: Mapping[str, PairedComparison], primary: Sequence[str]) -> dict[str, float]:
    """Return p-values corrected over the primary metrics by Holm, and over all others by Benjamini and Hochberg."""
    p_values = {name: pair.p for name, pair in pairs.items() if pair.p is not None}
    declared = {name: p for name, p in p_values.items() if name in primary}
    return holm(declared) | benjamini_hochberg({name: p for name, p in p_values.items() if name not in primary})


def check_primary(primary: Sequence[str]) -> None:
    """Refuse an unknown primary metric."""
    for name in primary:
        if name not in METRICS:
            raise ValueError(f"primary={name!r}: no such metric; must be one of {', '.join(METRICS)}")


def direction(name: str) -> int:
    """Return 1 if higher is better, -1 if lower is, 0 for a guard."""
    return {"higher": 1, "lower": -1, "": 0}[METRICS[name].better]


def verdict(
    name: str, pairs: Mapping[str, PairedComparison], p: float | None, floor: float | None, primary: bool, tests: int
) -> str:
    """Return what may be concluded about one metric, in a few words.

    Args:
        name: of the metric.
        pairs: comparisons of all metrics, for the guards.
        p: its corrected p-value.
        floor: its noise floor; None if it was not measured.
        primary: whether it was declared as primary.
        tests: number of tests over which p is corrected by Holm; 1 for a metric that is not primary.
    """
    difference = pairs[name].difference
    if difference.mean is None:
        return "not measured in both arms"
    if p is None or p > ALPHA or is_noise(difference, floor):
        return no_conclusion(difference, floor, prompts_for_p(tests))
    if not direction(name):
        return "higher" if difference.mean > 0 else "lower"
    suffix = "" if primary else ", exploratory"
    if difference.mean * direction(name) < 0:
        return f"worse{suffix}"
    return improvement([decision for guard in METRICS[name].guards if (decision := decide(guard, pairs))], suffix)


def is_noise(difference: Estimate, floor: float | None) -> bool:
    """Return whether a repetition of the reference arm differs as much."""
    return floor is not None and difference.mean is not None and abs(difference.mean) < floor


def no_conclusion(difference: Estimate, floor: float | None, needed: int) -> str:
    """Return the verdict on a difference that is not significant; fewer prompts than `needed` cannot be."""
    if difference.prompts < 2:
        return "one prompt only: nothing can be said"
    if is_noise(difference, floor):
        return "within the noise floor"
    if difference.prompts < needed:
        return f"too few prompts: p < 0.05 needs {needed}"
    return "inconclusive"


def improvement(decisions: Sequence[GuardDecision], suffix: str) -> str:
    """Return the verdict on an improvement: confounded, better, or better with undecided guards."""
    outside = [decision.guard.violation for decision in decisions if decision.side == "outside"]
    if outside:
        return f"confounded: {', '.join(dict.fromkeys(outside))}"
    undecided = [decision for decision in decisions if decision.side == "undecided"]
    if not undecided:
        return f"better{suffix}"
    risks = ", ".join(dict.fromkeys(decision.guard.violation for decision in undecided))
    needed = format_prompts(max(decision.prompts for decision in undecided))
    return f"better{suffix}, guard undecided: {risks} ({needed})"
