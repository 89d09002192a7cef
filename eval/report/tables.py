"""The tables and sentences of a report, as plain text for every output format."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report.amounts import change, format_needed
from vidguide.eval.scoring.notes import PROTOCOL, VOTES
from vidguide.eval.scoring.sets import SetDistance
from vidguide.eval.scoring.summary import ArmMean, Summary, interval, number
from vidguide.eval.scoring.verdict import Comparison, MetricComparison

ARROWS = {"higher": "↑", "lower": "↓", "": ""}
INTERVAL = "95% interval"
SHOWN_CLIPS = 20  # clips


def metric_label(metric: str) -> str:
    """Return the id of a metric with an arrow in its better direction."""
    return f"{metric} {ARROWS[METRICS[metric].better]}".strip()


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the paired table; row i is about `comparison.lines[i]`."""
    arms = (comparison.reference, comparison.other)
    header = ["metric", "verdict", *arms, "difference", INTERVAL, "wins", "prompts", "p", "p (corrected)"]
    header += ["effect size", "prompts needed", "noise floor"]
    return header, [comparison_row(line) for line in comparison.lines]


def comparison_row(line: MetricComparison) -> list[str]:
    """Return the row of one metric in the paired table."""
    wins = f"{line.wins[0]:.0%} ({line.wins[1]:.0%} to {line.wins[2]:.0%})" if line.wins else ""
    pair, difference = line.paired, line.paired.difference
    return [
        *(metric_label(line.metric), line.verdict, number(pair.reference), number(pair.other)),
        *(number(difference.mean), interval(difference), wins, str(difference.prompts)),
        *(number(pair.p), number(line.p_corrected), format_effect_size(line.effect_size)),
        *(format_needed(line.needed_prompts), number(line.floor)),
    ]


def change_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the paired table for 80 columns: verdict, and difference with interval."""
    rows = [
        [metric_label(line.metric), line.verdict, change(line.metric, line.paired.difference)]
        for line in comparison.lines
    ]
    return ["metric", "verdict", "difference [95% interval]"], rows


def format_effect_size(value: float | None) -> str:
    """Format an effect size with its sign."""
    return "" if value is None else f"{value:+.2f}"


def set_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the distances between the arms as sets of clips, and of each to ideal renderings."""
    header = [
        "set of clips",
        comparison.reference,
        comparison.other,
        "distance or difference",
        INTERVAL,
        "prompts",
        "p",
    ]
    return header, [set_row(distance) for distance in comparison.sets]


def set_row(distance: SetDistance) -> list[str]:
    """Return the row of one distance."""
    means = ["" if side is None else number(side.mean) for side in (distance.reference, distance.other)]
    change = distance.difference
    label = f"{distance.name} {ARROWS[distance.better]}".strip()
    return [label, *means, number(change.mean), interval(change), str(change.prompts), number(distance.p)]


def arm_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the means per arm; a metric that is undefined in a whole arm has no row."""
    header = ["metric", "arm", "mean", INTERVAL, "prompts", "clips", "undefined", "failed", "why undefined"]
    return header, [arm_row(mean) for mean in summary.means if not is_unmeasured(mean)]


def arm_row(mean: ArmMean) -> list[str]:
    """Return the row of one metric in one arm."""
    counts = [str(mean.estimate.prompts), str(mean.scored), str(mean.undefined or ""), str(mean.failed or "")]
    label = metric_label(mean.metric)
    return [label, mean.arm, number(mean.estimate.mean), interval(mean.estimate), *counts, mean.reason]


def is_unmeasured(mean: ArmMean) -> bool:
    """Return whether a metric is undefined in every clip of an arm that did not fail."""
    return not mean.scored and bool(mean.undefined)


def unmeasured_notes(summary: Summary) -> list[str]:
    """Return a sentence per reason for metrics that are undefined in a whole arm."""
    reasons: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for mean in filter(is_unmeasured, summary.means):
        metrics, arms = reasons.setdefault(mean.reason, ({}, {}))
        metrics[mean.metric] = arms[mean.arm] = None
    return [
        f"Not measured in {', '.join(arms)}: {', '.join(metrics)}: {reason}."
        for reason, (metrics, arms) in reasons.items()
    ]


def event_list(summary: Summary) -> list[tuple[str, str]]:
    """Return (clip, its cuts, flashes and repetitions with frame numbers) of the first clips that have any."""
    events: dict[str, list[str]] = {}
    for row in summary.rows:
        if row["metric"] in EVENTS and row["value"]:
            key, describe = EVENTS[row["metric"]]
            events.setdefault(row["clip"], []).extend(describe(event) for event in row["details"][key])
    return [(clip, "; ".join(items)) for clip, items in list(events.items())[:SHOWN_CLIPS]]


def describe_break(event: Mapping[str, Any]) -> str:
    """Return a break as text, such as `cut at frame 40` or `flash at frames 5, 6`."""
    return f"{event['kind']} at frame{'s' if len(event['frames']) > 1 else ''} {', '.join(map(str, event['frames']))}"


def describe_repetition(event: Mapping[str, Any]) -> str:
    """Return a repetition as text, such as `loop: frames 5 to 15 repeat 0 to 10`."""
    first, last = (event["turn"] - event[end] if event["turn"] else event[end] - event["period"] for end in ENDS)
    return f"{event['kind']}: frames {event['first']} to {event['last']} repeat {first} to {last}"


# Metric to the key of its events in the details, and to the function that describes one.
EVENTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "temporal.breaks": ("breaks", describe_break),
    "temporal.periodicity": ("repetitions", describe_repetition),
}
ENDS = ("first", "last")


def nonempty_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the indices of the columns that are not empty in every row."""
    return [index for index in range(len(header)) if any(row[index] for row in rows)]


def protocol(summary: Summary) -> str:
    """Return how arms were compared; empty without a comparison."""
    if not summary.comparisons:
        return ""
    primary = [line.metric for line in summary.comparisons[0].lines if line.primary]
    text = PROTOCOL.format(primary=", ".join(primary) or "none")
    return text + (VOTES if summary.preference else "")


def format_versions(summary: Summary) -> str:
    """Return the library versions as one line."""
    return ", ".join(f"{name} {version}" for name, version in summary.versions.items())
