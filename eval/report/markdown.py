"""The summary as Markdown."""

from collections.abc import Sequence

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.notes import PROTOCOL
from vidguide.eval.scoring.summary import Summary, interval, number
from vidguide.eval.scoring.verdict import Comparison

ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def arrow(metric: str) -> str:
    """The metric's name with the direction that is good."""
    return f"{metric} {ARROWS[METRICS[metric].better]}".strip()


def comparison_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired table."""
    header = ["metric", "verdict", found.reference, found.other, "difference", "95% interval", "wins", "prompts"]
    rows = []
    for line in found.lines:
        won = f"{line.wins[0]:.0%} ({line.wins[1]:.0%} to {line.wins[2]:.0%})" if line.wins else ""
        pair = line.paired
        cells = [arrow(line.metric), line.verdict, number(pair.reference), number(pair.other)]
        cells += [number(pair.difference.mean), interval(pair.difference), won, str(pair.difference.prompts)]
        rows.append([*cells, number(line.p_holm), number(line.floor)])
    return [*header, "p (Holm)", "noise floor"], rows


def filled(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns that are not empty in every row."""
    return [index for index in range(len(header)) if any(row[index] for row in rows)]


def standing_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the means per arm."""
    header = ["metric", "arm", "mean", "95% interval", "prompts", "clips", "undefined", "failed", "why undefined"]
    rows = []
    for one in summary.standings:
        if not one.scored and one.undefined:
            continue
        found = one.estimate
        counts = [str(found.prompts), str(one.scored), str(one.undefined or ""), str(one.failed or "")]
        rows.append([arrow(one.metric), one.arm, number(found.mean), interval(found), *counts, one.reason])
    return header, rows


def unmeasured(summary: Summary) -> list[str]:
    """A sentence per reason for what has no value in any clip of an arm."""
    reasons: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for one in summary.standings:
        if not one.scored and one.undefined:
            names, arms = reasons.setdefault(one.reason, ({}, {}))
            names[one.metric] = arms[one.arm] = None
    return [f"Not measured in {', '.join(arms)}: {', '.join(names)}: {why}." for why, (names, arms) in reasons.items()]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of the columns that hold something."""
    kept = filled(header, rows)
    lines = [[line[index] for index in kept] for line in (header, ["---"] * len(header), *rows)]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def protocol(summary: Summary) -> str:
    """How arms were compared, in words; nothing where none were."""
    if not summary.comparisons:
        return ""
    primary = [line.metric for line in summary.comparisons[0].lines if line.primary]
    return PROTOCOL.format(primary=", ".join(primary) or "none")


def to_markdown(summary: Summary) -> str:
    """The whole report but its pictures."""
    parts = ["# Evaluation"]
    for found in summary.comparisons:
        parts.append(f"`{found.other}` against `{found.reference}`; ↑ higher is better, ↓ lower.")
        parts.append(table(*comparison_table(found)))
    if sentences := [*summary.notes, *unmeasured(summary)]:
        parts.append("\n".join(f"- {sentence}" for sentence in sentences))
    parts += ["## Arms", table(*standing_table(summary))]
    if summary.failures:
        parts += ["## Failed", "\n".join(f"- {clip}: {reason}" for clip, reason in summary.failures)]
    if told := protocol(summary):
        parts += ["## How it was compared", told]
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())]
    return "\n\n".join(parts) + "\n"
