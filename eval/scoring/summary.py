"""Content of a report: means per arm, comparisons, failures, notes and library versions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.notes import count_clips
from vidguide.eval.scoring.preference import Preference, summarize_votes
from vidguide.eval.scoring.results import Row
from vidguide.eval.scoring.statistics import Estimate, estimate, mean_by_prompt
from vidguide.eval.scoring.verdict import Comparison, values_by_key

CONTENT_DEPENDS = "Temporal metrics depend on content: compare arms of the same prompts and seeds, not different sets."
SEVERAL_ARMS = "Each arm is compared with the first; p-values are corrected over the metrics of a pair, not over arms."
SEVERAL_VERSIONS = "The clips were scored with different library versions; score them again to compare small effects."


@dataclass(frozen=True, kw_only=True)
class ArmMean:
    """One metric in one arm: mean over prompts, number of clips by status, and the first reason for `undefined`."""

    arm: str
    metric: str
    estimate: Estimate
    scored: int
    undefined: int
    failed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Content of a report except its pictures.

    Attributes:
        rows: of the results.
        means: a mean per arm and metric.
        comparisons: of each further arm with the first.
        failures: (clip, reason) of clips and metrics that failed.
        notes: sentences to show with the numbers.
        versions: of the libraries in use.
        preference: statistics of votes on pairs of clips; None without votes.
    """

    rows: Sequence[Row]
    means: list[ArmMean]
    comparisons: list[Comparison]
    failures: list[tuple[str, str]]
    notes: list[str]
    versions: dict[str, str]
    preference: Preference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "standings": [asdict(mean) for mean in self.means],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "failures": [{"clip": clip, "reason": reason} for clip, reason in self.failures],
            "notes": self.notes,
            "versions": self.versions,
            "preference": None if self.preference is None else asdict(self.preference),
        }


def summarize(rows: Sequence[Row], comparisons: Sequence[Comparison] = ()) -> Summary:
    """Return the summary of scored clips."""
    return Summary(
        rows=rows,
        means=arm_means(rows),
        comparisons=list(comparisons),
        failures=list(dict.fromkeys((row["clip"], failure_reason(row)) for row in rows if row["status"] == "failed")),
        notes=summary_notes(rows, comparisons) + row_warnings(rows),
        versions=dict(rows[-1].get("versions", {})) if rows else {},
        preference=summarize_votes(rows, [name for each in comparisons for name in (each.reference, each.other)]),
    )


def arm_means(rows: Sequence[Row]) -> list[ArmMean]:
    """Return a mean for each arm and metric that has rows."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["arm"], row["metric"]), []).append(row)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    keys = [(arm, metric) for arm in arms for metric in METRICS]
    return [arm_mean(arm, metric, grouped[arm, metric]) for arm, metric in keys if (arm, metric) in grouped]


def arm_mean(arm: str, metric: str, rows: Sequence[Row]) -> ArmMean:
    """Return the mean of one metric in one arm."""
    statuses = [row["status"] for row in rows]
    reasons = [row["reason"] for row in rows if row["status"] == "undefined"]
    return ArmMean(
        arm=arm,
        metric=metric,
        estimate=estimate(list(mean_by_prompt(values_by_key(rows, metric)).values()), METRICS[metric].bounds),
        scored=statuses.count("ok"),
        undefined=statuses.count("undefined"),
        failed=statuses.count("failed"),
        reason=reasons[0] if reasons else "",
    )


def summary_notes(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the notes of all comparisons without duplicates, and those about the whole summary."""
    notes = list(dict.fromkeys(note for comparison in comparisons for note in comparison.notes))
    notes += [CONTENT_DEPENDS] if not comparisons else []
    notes += [SEVERAL_ARMS] if len(comparisons) > 1 else []
    versions = {tuple(sorted(row.get("versions", {}).items())) for row in rows}
    return notes + ([SEVERAL_VERSIONS] if len(versions) > 1 else [])


def failure_reason(row: Row) -> str:
    """Return why a row failed: the reason of the whole clip, or of one metric."""
    return str(row["reason"]) if "clip_sha256" not in row else f"{row['metric']}: {row['reason']}"


def row_warnings(rows: Sequence[Row]) -> list[str]:
    """Return the warnings of readers and metrics, each with the number of clips it applies to."""
    clips: dict[str, set[str]] = {}
    for row in rows:
        for warning in [*(row.get("marks") or []), *(row.get("details") or {}).get("remarks", [])]:
            clips.setdefault(warning, set()).add(row["clip"])
    return [f"{warning} ({count_clips(len(names))})" for warning, names in clips.items()]


def number(value: float | None) -> str:
    """Format a number with four significant digits; None becomes empty."""
    return "" if value is None else f"{value:.4g}"


def interval(estimate: Estimate) -> str:
    """Format an interval as `low to high`; empty where there is none."""
    return "" if estimate.low is None else f"{number(estimate.low)} to {number(estimate.high)}"
