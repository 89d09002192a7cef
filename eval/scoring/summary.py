"""What a report says: means per arm, the comparison, failures, notes, and under which versions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.notes import clips as count_clips
from vidguide.eval.scoring.results import Row
from vidguide.eval.scoring.statistics import Estimate, by_prompt, estimate
from vidguide.eval.scoring.verdict import Comparison, values_of

CONTENT_BOUND = "Temporal metrics depend on content: compare arms of the same prompts and seeds, not different sets."
SEVERAL_ARMS = "Each arm is held against the first; p-values are corrected over the metrics of one pair, not over arms."


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One metric in one arm: mean over prompts, and how many clips have it."""

    arm: str
    metric: str
    estimate: Estimate
    scored: int
    undefined: int
    failed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that a report shows besides pictures."""

    rows: Sequence[Row]
    standings: list[Standing]
    comparisons: list[Comparison]
    failures: list[tuple[str, str]]
    notes: list[str]
    versions: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "standings": [asdict(standing) for standing in self.standings],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "failures": [{"clip": clip, "reason": reason} for clip, reason in self.failures],
            "notes": self.notes,
            "versions": self.versions,
        }


def summarise(rows: Sequence[Row], comparisons: Sequence[Comparison] = ()) -> Summary:
    """The summary of scored clips."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    standings = [
        standing(arm, name, found)
        for arm in arms
        for name in METRICS
        if (found := [row for row in rows if row["arm"] == arm and row["metric"] == name])
    ]
    failures = {(row["clip"], failure(row)): None for row in rows if row["status"] == "failed"}
    notes = list(dict.fromkeys(note for comparison in comparisons for note in comparison.notes))
    notes += [CONTENT_BOUND] if not comparisons else []
    notes += [SEVERAL_ARMS] if len(comparisons) > 1 else []
    environments = {tuple(sorted(row.get("versions", {}).items())) for row in rows}
    if len(environments) > 1:
        notes.append(
            "The clips were scored under different library versions; score them again to compare small effects."
        )
    versions = dict(rows[-1].get("versions", {})) if rows else {}
    notes += marks(rows)
    return Summary(
        rows=rows,
        standings=standings,
        comparisons=list(comparisons),
        failures=list(failures),
        notes=notes,
        versions=versions,
    )


def standing(arm: str, name: str, found: Sequence[Row]) -> Standing:
    """One metric in one arm."""
    statuses = [row["status"] for row in found]
    reasons = [row["reason"] for row in found if row["status"] == "undefined"]
    return Standing(
        arm=arm,
        metric=name,
        estimate=estimate(list(by_prompt(values_of(found, name)).values())),
        scored=statuses.count("ok"),
        undefined=statuses.count("undefined"),
        failed=statuses.count("failed"),
        reason=reasons[0] if reasons else "",
    )


def failure(row: Row) -> str:
    """Why a row failed: of the whole clip, or of one metric."""
    return str(row["reason"]) if "clip_sha256" not in row else f"{row['metric']}: {row['reason']}"


def marks(rows: Sequence[Row]) -> list[str]:
    """What was remarked while reading, with the number of clips it holds for."""
    clips: dict[str, set[str]] = {}
    for row in rows:
        for mark in [*(row.get("marks") or []), *(row.get("details") or {}).get("remarks", [])]:
            clips.setdefault(mark, set()).add(row["clip"])
    return [f"{mark} ({count_clips(len(names))})" for mark, names in clips.items()]


def number(value: float | None) -> str:
    """Four significant digits; nothing where there is no value."""
    return "" if value is None else f"{value:.4g}"


def interval(found: Estimate) -> str:
    """`low to high`; nothing where there is none."""
    return "" if found.low is None else f"{number(found.low)} to {number(found.high)}"
