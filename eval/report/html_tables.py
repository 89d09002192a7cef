"""The tables of the HTML report: cells with charts, links, and the definition of a metric at its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vidguide.eval.metrics.base import Metric
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report.charts import Chart, interval_chart
from vidguide.eval.report.tables import INTERVAL, comparison_table, nonempty_columns, set_table
from vidguide.eval.scoring.notes import SETS
from vidguide.eval.scoring.verdict import Comparison, MetricComparison, direction

VERDICT_STYLES = {"better": "good", "worse": "bad", "confounded": "warn", "not comparable": "warn"}
PRIMARY = "Primary metrics"
GUARDS = "Guards: metrics that must not degrade"
EXPLORATORY = "Exploratory metrics: hypotheses, not results"


@dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes:
        text: of the cell.
        label: name of its column, which a narrow screen shows next to it.
        style: CSS class.
        chart: shown in place of the text.
        href: what the text links to.
        metric: whose definition unfolds from the text.
    """

    text: str
    label: str = ""
    style: str = ""
    chart: Chart | None = None
    href: str = ""
    metric: Metric | None = None


@dataclass(frozen=True)
class Table:
    """A table; `title` is its heading, `note` a text before it, and `style` its CSS class, which may all be empty."""

    header: list[str]
    rows: list[list[Cell]]
    title: str = ""
    note: str = ""
    style: str = ""


def verdict_style(verdict: str) -> str:
    """Return the CSS class of a verdict; exploratory ones have no colour."""
    if "exploratory" in verdict:
        return "same"
    if "undecided" in verdict:
        return "warn"
    return next((style for prefix, style in VERDICT_STYLES.items() if verdict.startswith(prefix)), "same")


def thresholds(line: MetricComparison, comparison: Comparison) -> list[float]:
    """Return the differences at which a metric violates a guard of any metric of the comparison."""
    guards = {guard for other in comparison.lines for guard in METRICS[other.metric].guards if guard.id == line.metric}
    mean = abs(line.paired.reference or 0.0)
    return sorted({guard.change * (mean if guard.relative else 1.0) for guard in guards})


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of the columns that are not empty."""
    columns = nonempty_columns(header, rows)
    return Table([header[i] for i in columns], [[Cell(row[i], header[i]) for i in columns] for row in rows])


def means_table(header: Sequence[str], rows: Sequence[Sequence[str]], hrefs: Mapping[str, str]) -> Table:
    """Return the table of means per arm, with the definition of each metric in its first row.

    Args:
        header, rows: as text; the first column is the label of the metric.
        hrefs: what the mean of a metric links to.
    """
    table, defined, lines = plain_table(header, rows), set(), []
    for cells in table.rows:
        metric = cells[0].text.split()[0]
        first = replace(cells[0], metric=None if metric in defined else METRICS[metric])
        linked = [replace(c, href=hrefs.get(metric, "")) if c.label == "mean" else c for c in cells[1:]]
        lines.append([first, *linked])
        defined.add(metric)
    return replace(table, rows=lines)


def comparison_tables(comparison: Comparison, hrefs: Mapping[tuple[str, str], str]) -> list[Table]:
    """Return the paired tables of the primary metrics, the guards and the exploratory metrics, and that of the sets.

    Args:
        comparison: of two arms.
        hrefs: what a difference links to, by arm and metric.
    """
    header, rows = comparison_table(comparison)
    lines = list(zip(comparison.lines, rows, strict=True))
    tables = []
    for title, style in ((PRIMARY, "primary"), (GUARDS, "guards"), (EXPLORATORY, "quiet")):
        selected = [(line, row) for line, row in lines if style_of(line) == style]
        if selected:
            tables.append(paired_table(title, style, header, selected, comparison, hrefs))
    if comparison.sets:
        tables.append(replace(plain_table(*set_table(comparison)), title="Arms as sets of clips", note=SETS))
        tables[-1] = replace(tables[-1], style="quiet")
    return tables


def style_of(line: MetricComparison) -> str:
    """Return the CSS class of the table that a metric belongs to."""
    if line.primary:
        return "primary"
    return "guards" if direction(line.metric) == 0 else "quiet"


def paired_table(
    title: str,
    style: str,
    header: Sequence[str],
    lines: Sequence[tuple[MetricComparison, Sequence[str]]],
    comparison: Comparison,
    hrefs: Mapping[tuple[str, str], str],
) -> Table:
    """Return the paired table of some metrics, with a chart after each interval."""
    columns = nonempty_columns(header, [row for _, row in lines])
    names = [name for i in columns for name in ([header[i], ""] if header[i] == INTERVAL else [header[i]])]
    rows = []
    for line, texts in lines:
        href = hrefs.get((comparison.other, line.metric), "")
        limits = thresholds(line, comparison)
        linked = {"difference": href, comparison.reference: href, comparison.other: href}
        rows.append([cell for i in columns for cell in paired_cells(line, header[i], texts[i], linked, limits)])
    return Table(names, rows, title, style=style)


def paired_cells(
    line: MetricComparison, column: str, text: str, hrefs: Mapping[str, str], limits: Sequence[float]
) -> list[Cell]:
    """Return the cell of a column of the paired table; for the interval also the cell of its chart.

    Args:
        hrefs: what the difference and the means link to, by column.
    """
    style = verdict_style(line.verdict)
    cell = Cell(text, column, href=hrefs.get(column, "") if text else "")
    if column == INTERVAL:
        chart = interval_chart(line.paired.difference, style, thresholds=limits, href=hrefs["difference"])
        return [cell, Cell("", chart=chart)]
    changes: dict[str, dict[str, object]] = {
        "metric": {"metric": METRICS[line.metric]},
        "verdict": {"style": style},
    }
    return [replace(cell, **changes.get(column, {}))]  # type: ignore[arg-type]
