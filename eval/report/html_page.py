"""The report as one HTML file without scripts or external resources; templates/report.html has its markup."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report.charts import Chart, curve_chart, interval_chart, slope_chart
from vidguide.eval.report.contact_sheets import (
    clip_of,
    contact_sheet,
    data_uri,
    extreme_prompts,
    extreme_rows,
    worst_rows,
)
from vidguide.eval.report.tables import (
    INTERVAL,
    arm_table,
    comparison_table,
    event_list,
    format_versions,
    metric_label,
    nonempty_columns,
    protocol,
    set_table,
    unmeasured_notes,
)
from vidguide.eval.scoring.notes import SETS
from vidguide.eval.scoring.summary import Summary
from vidguide.eval.scoring.verdict import Comparison, MetricComparison, direction

VERDICT_STYLES = {"better": "good", "worse": "bad", "confounded": "warn", "not comparable": "warn"}


@dataclass(frozen=True)
class Cell:
    """A table cell: text with a CSS class, or a chart."""

    text: str
    style: str = ""
    chart: Chart | None = None


@dataclass(frozen=True)
class TableRow:
    """A table row; `style` is its CSS class."""

    cells: list[Cell]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `title` is its heading and `note` a text before it, both of which may be empty."""

    header: list[str]
    rows: list[TableRow]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart, or an image given as data URI, with its caption."""

    caption: str
    chart: Chart | None = None
    image: str = ""


@dataclass(frozen=True)
class Gallery:
    """Figures under a heading of their own."""

    title: str
    figures: list[Figure]


@dataclass(frozen=True)
class ComparisonSection:
    """The section of the report about two arms."""

    title: str
    tables: list[Table]
    slopes: list[Figure]


def to_html(summary: Summary, head: str = "") -> str:
    """Return the report as HTML.

    Args:
        summary: content of the report.
        head: HTML to show first; it is not escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vidguide.eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    clips_title, galleries = clip_galleries(summary)
    return environment.get_template("report.html").render(
        head=head,
        notes=[*summary.notes, *unmeasured_notes(summary)],
        comparisons=[comparison_section(comparison) for comparison in summary.comparisons],
        clips_title=clips_title,
        galleries=galleries,
        curves=error_curves(summary),
        arms=plain_table(*arm_table(summary)),
        events=event_list(summary),
        failures=summary.failures,
        definitions=[(metric_label(name), METRICS[name]) for name in dict.fromkeys(m.metric for m in summary.means)],
        protocol=protocol(summary),
        versions=format_versions(summary),
    )


def verdict_style(verdict: str) -> str:
    """Return the CSS class of a verdict; exploratory ones have no colour."""
    if "exploratory" in verdict:
        return "same"
    if "undecided" in verdict:
        return "warn"
    return next((style for prefix, style in VERDICT_STYLES.items() if verdict.startswith(prefix)), "same")


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of the columns that are not empty."""
    columns = nonempty_columns(header, rows)
    return Table([header[i] for i in columns], [TableRow([Cell(row[i]) for i in columns]) for row in rows])


def comparison_section(comparison: Comparison) -> ComparisonSection:
    """Return the paired tables of metrics and of guards, and the slope charts of the primary metrics."""
    header, rows = comparison_table(comparison)
    tables = []
    for title, guards in (("", False), ("Guards: metrics that must not degrade", True)):
        lines = list(zip(comparison.lines, rows, strict=True))
        selected = [(line, row) for line, row in lines if guards == (direction(line.metric) == 0)]
        if selected:
            tables.append(paired_table(title, header, selected))
    names = (comparison.reference, comparison.other)
    if comparison.sets:
        tables.append(replace(plain_table(*set_table(comparison)), title="Arms as sets of clips", note=SETS))
    slopes = [slope_figure(line, names) for line in comparison.lines if line.primary and line.paired.by_prompt]
    return ComparisonSection(f"{comparison.other} against {comparison.reference}", tables, slopes)


def paired_table(title: str, header: Sequence[str], lines: Sequence[tuple[MetricComparison, Sequence[str]]]) -> Table:
    """Return the paired table of some metrics, with a chart after each interval."""
    columns = nonempty_columns(header, [row for _, row in lines])
    names = [name for i in columns for name in ([header[i], ""] if header[i] == INTERVAL else [header[i]])]
    rows = []
    for line, texts in lines:
        cells = [cell for i in columns for cell in paired_cells(line, header[i], texts[i])]
        rows.append(TableRow(cells, "primary" if line.primary else ""))
    return Table(names, rows, title)


def paired_cells(line: MetricComparison, column: str, text: str) -> list[Cell]:
    """Return the cell of a column of the paired table; for the interval also the cell of its chart."""
    style = verdict_style(line.verdict)
    if column == "verdict":
        return [Cell(text, style)]
    if column != INTERVAL:
        return [Cell(text)]
    difference = line.paired.difference
    return [Cell(text), Cell("", chart=interval_chart(difference.mean, difference.low, difference.high, style))]


def slope_figure(line: MetricComparison, names: tuple[str, str]) -> Figure:
    """Return the slope chart of one metric."""
    chart = slope_chart(line.paired.by_prompt, names, direction(line.metric), line.metric)
    return Figure(f"{metric_label(line.metric)}, one line per prompt", chart)


def clip_galleries(summary: Summary) -> tuple[str, list[Gallery]]:
    """Return title and contact sheets of the extreme prompts of the first comparison, else of the extreme clips."""
    return prompt_galleries(summary) if summary.comparisons else extreme_galleries(summary)


def prompt_galleries(summary: Summary) -> tuple[str, list[Gallery]]:
    """Return the contact sheets of all arms, for the prompts with the largest differences of the first comparison."""
    extremes = extreme_prompts(summary.comparisons[0])
    if not extremes:
        return "", []
    metric, prompts = extremes
    arms = [summary.comparisons[0].reference, *(comparison.other for comparison in summary.comparisons)]
    galleries = []
    for prompt in prompts:
        sheets = [sheet_figure(clip_of(summary.rows, arm, prompt), arm) for arm in arms]
        galleries.append(Gallery(prompt, [sheet for sheet in sheets if sheet]))
    return f"Clips, largest improvement to largest degradation by {metric}", galleries


def extreme_galleries(summary: Summary) -> tuple[str, list[Gallery]]:
    """Return the contact sheets of the best and the worst clips by the first metric on which clips differ."""
    metric, rows = extreme_rows(summary.rows)
    sheets = [sheet_figure(Path(row["clip"]), f"{row['prompt_id']}: {row['value']:.4g}") for row in rows]
    figures = [sheet for sheet in sheets if sheet]
    return (f"Clips, best to worst by {metric}", [Gallery("", figures)]) if figures else ("", [])


def sheet_figure(clip: Path | None, caption: str) -> Figure | None:
    """Return the contact sheet of a clip; None if it cannot be read any more."""
    pixels = contact_sheet(clip) if clip else None
    return None if pixels is None else Figure(caption, image=data_uri(pixels))


def error_curves(summary: Summary) -> list[Figure]:
    """Return the per-frame curves of the clips with the largest warping error."""
    rows = worst_rows(summary.rows, "temporal.warp_error")
    return [
        Figure(f"{row['arm']}: {row['prompt_id']}", curve_chart(row["per_frame"], str(row["clip"]))) for row in rows
    ]
