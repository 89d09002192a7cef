"""Compare two arms metric by metric, and say in words what may be concluded. A bought gain is not called a gain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidguide.eval.metrics.base import Guard
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.notes import remarks, repeats
from vidguide.eval.scoring.statistics import Key, Paired, holm, noise_floor, paired, wins

PRIMARY = ("temporal.warp_error", "world.attributes", "world.negative_present")
ALPHA = 0.05
INCOMPARABLE = "not comparable: the arms were scored by different definitions"
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of a comparison, with its verdict."""

    metric: str
    primary: bool
    paired: Paired
    wins: tuple[float, float, float] | None
    p_holm: float | None
    floor: float | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two arms, reference first; `failed` and `clips` count clips per arm, `notes` are sentences to print."""

    reference: str
    other: str
    lines: list[Line]
    clips: dict[str, int]
    failed: dict[str, int]
    notes: list[str] = field(default_factory=list)


def values_of(rows: Iterable[Row], metric: str) -> dict[Key, float]:
    """Defined values of one metric by prompt and seed; clips that share both are averaged."""
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
        reference, other: rows of results. names: of the arms.
        primary: metrics declared beforehand, over which p-values are corrected.
        again: rows of the reference arm made a second time, for the noise floor.

    Raises:
        ValueError: a primary metric that does not exist.
    """
    check_primary(primary)
    lines = compared(reference, other, primary, again)
    arms = dict(zip(names, (reference, other), strict=True))
    clips = {arm: len({row["clip"] for row in rows}) for arm, rows in arms.items()}
    failed = {arm: len({row["clip"] for row in rows if row["status"] == "failed"}) for arm, rows in arms.items()}
    notes = remarks([line.paired for line in lines], failed, bool(again)) + repeats(arms)
    return Comparison(reference=names[0], other=names[1], lines=lines, clips=clips, failed=failed, notes=notes)


def compared(
    reference: Sequence[Row], other: Sequence[Row], primary: Sequence[str], again: Sequence[Row]
) -> list[Line]:
    """A line per metric that any clip has."""
    both = (*reference, *other)
    present = {row["metric"] for row in both if row["status"] == "ok"}
    found = {name: paired(values_of(reference, name), values_of(other, name)) for name in METRICS if name in present}
    tested = {name: p for name, one in found.items() if name in primary and (p := one.p) is not None}
    corrected = holm(tested)
    lines = []
    for name, one in found.items():
        floor = noise_floor(values_of(reference, name), values_of(again, name)) if again else None
        said = verdict(name, found, corrected.get(name, one.p), floor, name in primary)
        line = Line(
            metric=name,
            primary=name in primary,
            paired=one,
            wins=wins([b - a for a, b in one.by_prompt.values()], direction(name)) if direction(name) else None,
            p_holm=corrected.get(name),
            floor=floor,
            verdict=said if alike(both, name) else INCOMPARABLE,
        )
        lines.append(line)
    return lines


def alike(rows: Iterable[Row], metric: str) -> bool:
    """Whether all values of a metric have one definition: version and weights."""
    return len({(row.get("version"), row.get("weights")) for row in rows if row["metric"] == metric}) <= 1


def check_primary(primary: Sequence[str]) -> None:
    """Refuse a primary metric that does not exist."""
    for name in primary:
        if name not in METRICS:
            raise ValueError(f"primary={name!r}: there is no such metric; there are {', '.join(METRICS)}")


def direction(name: str) -> int:
    """1 where higher is better, -1 where lower is, 0 for a guard."""
    return {"higher": 1, "lower": -1, "": 0}[METRICS[name].better]


def verdict(name: str, found: Mapping[str, Paired], p: float | None, floor: float | None, primary: bool) -> str:
    """What may be said about one metric, in a few words; both the interval and the p-value must agree to a gain."""
    difference = found[name].difference
    if difference.mean is None:
        return "not measured in both arms"
    if difference.low is None or difference.high is None:
        return "one prompt only: nothing can be said"
    if floor is not None and abs(difference.mean) < floor:
        return "within the noise floor"
    if difference.low <= 0 <= difference.high or (p is not None and p > ALPHA):
        return "inconclusive"
    if not direction(name):
        return "higher" if difference.mean > 0 else "lower"
    told = "" if primary else ", exploratory"
    if difference.mean * direction(name) < 0:
        return f"worse{told}"
    tripped = [guard.words for guard in METRICS[name].guards if lost(guard, found)]
    return f"confounded: {', '.join(dict.fromkeys(tripped))}" if tripped else f"better{told}"


def lost(guard: Guard, found: Mapping[str, Paired]) -> bool:
    """Whether the other arm lost more of what the guard watches than it may."""
    watched = found.get(guard.id)
    if watched is None or watched.difference.mean is None or watched.reference is None:
        return False
    change = watched.difference.mean
    if guard.relative:
        if not watched.reference:
            return False
        change /= abs(watched.reference)
    return change < guard.change if guard.change < 0 else change > guard.change
