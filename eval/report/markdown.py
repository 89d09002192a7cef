"""The report as Markdown, without pictures."""

from collections.abc import Sequence

from vidguide.eval.report.headline import headline
from vidguide.eval.report.markdown_table import markdown_table
from vidguide.eval.report.preference_tables import preference_notes, preference_tables
from vidguide.eval.report.tables import (
    arm_table,
    comparison_table,
    event_list,
    format_versions,
    nonempty_columns,
    protocol,
    set_table,
    unmeasured_notes,
)
from vidguide.eval.scoring.notes import SETS
from vidguide.eval.scoring.summary import Summary


def to_markdown(summary: Summary) -> str:
    """Return the report as Markdown."""
    parts = ["# Evaluation"]
    for comparison in summary.comparisons:
        parts.append(headline(comparison))
        parts.append(f"`{comparison.other}` against `{comparison.reference}`; ↑ higher is better, ↓ lower.")
        parts.append(compact_table(*comparison_table(comparison)))
        if comparison.sets:
            parts += [SETS, compact_table(*set_table(comparison))]
    parts += votes_section(summary)
    if notes := [*summary.notes, *unmeasured_notes(summary)]:
        parts.append(bullet_list(notes))
    parts += ["## Arms", compact_table(*arm_table(summary))]
    if events := event_list(summary):
        parts += [
            "## Cuts, flashes and repetitions, frames from 0",
            bullet_list([f"{clip}: {text}" for clip, text in events]),
        ]
    if summary.failures:
        parts += ["## Failed", bullet_list([f"{clip}: {reason}" for clip, reason in summary.failures])]
    if summary.comparisons:
        parts += ["## Protocol", protocol(summary)]
    parts += ["## Versions", format_versions(summary)]
    return "\n\n".join(parts) + "\n"


def votes_section(summary: Summary) -> list[str]:
    """Return the statistics of votes; empty without votes."""
    parts = []
    for title, header, rows in preference_tables(summary.preference):
        parts += [f"## {title}", compact_table(header, rows)]
    notes = preference_notes(summary.preference)
    return [*parts, bullet_list(notes)] if notes else parts


def compact_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of the columns that are not empty."""
    columns = nonempty_columns(header, rows)
    return markdown_table([header[i] for i in columns], [[row[i] for i in columns] for row in rows])


def bullet_list(items: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {item}" for item in items)
