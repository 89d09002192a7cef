"""The report as one HTML file without scripts or external resources; templates/report.html has its markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report.charts import Chart, slope_chart
from vidguide.eval.report.clip_figures import ClipCollection, ClipFigure, collect_clips, collect_pairs
from vidguide.eval.report.headline import headline
from vidguide.eval.report.html_tables import Table, comparison_tables, means_table, plain_table, verdict_style
from vidguide.eval.report.loops import TOTAL_BYTES
from vidguide.eval.report.overview import panels, trade_off
from vidguide.eval.report.page import template_environment
from vidguide.eval.report.preference_tables import preference_notes, preference_tables
from vidguide.eval.report.settings import arm_settings
from vidguide.eval.report.tables import (
    arm_table,
    event_list,
    format_versions,
    metric_label,
    protocol,
    unmeasured_notes,
)
from vidguide.eval.scoring.summary import Summary
from vidguide.eval.scoring.verdict import Comparison, MetricComparison, direction


@dataclass(frozen=True, kw_only=True)
class Player:
    """A video or an image that opens a report, as a data URI or the path of a file next to the report."""

    source: str
    caption: str = ""
    silent: bool = True


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a report shows first: texts, players and images."""

    prompt: str
    negative_prompt: str | None = None
    players: list[Player] = field(default_factory=list)
    images: list[Player] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    caption: str
    chart: Chart


@dataclass(frozen=True)
class ComparisonSection:
    """The section of the report about two arms."""

    title: str
    tables: list[Table]
    slopes: list[Figure]


def to_html(summary: Summary, opening: Opening | None = None) -> str:
    """Return the report as HTML.

    Args:
        summary: content of the report.
        opening: what it shows first.
    """
    collection, difference_hrefs, mean_hrefs = clips_and_links(summary)
    tables_of_votes = preference_tables(summary.preference)
    content: dict[str, Any] = dict(
        opening=opening,
        headlines=[(headline(each), headline_style(each)) for each in summary.comparisons],
        notes=[*summary.notes, *unmeasured_notes(summary)],
        panels=panels(summary.comparisons, difference_hrefs),
        trade_off=trade_off(summary.comparisons),
        comparisons=[comparison_section(each, difference_hrefs, collection) for each in summary.comparisons],
        votes=[replace(plain_table(header, rows), title=title) for title, header, rows in tables_of_votes],
        vote_notes=preference_notes(summary.preference),
        collection=collection,
        size_limit=TOTAL_BYTES,
        arms=means_table(*arm_table(summary), mean_hrefs),
        events=event_list(summary),
        failures=summary.failures,
        metrics=METRICS,
        metric_label=metric_label,
        protocol=protocol(summary),
        settings=arm_settings(summary.rows),
        versions=format_versions(summary),
    )
    return template_environment().get_template("report.html").render(content)


def clips_and_links(summary: Summary) -> tuple[ClipCollection, dict[tuple[str, str], str], dict[str, str]]:
    """Return the clips to show, what each difference links to by arm and metric, and each mean by metric."""
    if summary.comparisons:
        collection, differences = collect_pairs(summary)
        return collection, differences, {}
    collection, means = collect_clips(summary)
    return collection, {}, means


def headline_style(comparison: Comparison) -> str:
    """Return the CSS class of a headline: that of its first conclusion."""
    styles = [verdict_style(line.verdict) for line in comparison.lines if line.primary]
    return next((style for style in styles if style != "same"), "same")


def comparison_section(
    comparison: Comparison, hrefs: Mapping[tuple[str, str], str], collection: ClipCollection
) -> ComparisonSection:
    """Return the paired tables, and the slope charts of the primary metrics."""
    title = f"{comparison.other} against {comparison.reference}"
    links = prompt_links(figures_of(collection, comparison))
    lines = [line for line in comparison.lines if line.primary and line.paired.by_prompt]
    return ComparisonSection(title, comparison_tables(comparison, hrefs), [slope_figure(line, links) for line in lines])


def figures_of(collection: ClipCollection, comparison: Comparison) -> list[ClipFigure]:
    """Return the clips of a comparison."""
    arms = [comparison.reference, comparison.other]
    return [figure for _, figures in collection.sections for figure in figures if figure.arms == arms]


def prompt_links(figures: Sequence[ClipFigure]) -> dict[str, str]:
    """Return what the line of each prompt links to: its first clip."""
    return {figure.key[0]: f"#{figure.anchor}" for figure in reversed(figures)}


def slope_figure(line: MetricComparison, links: Mapping[str, str]) -> Figure:
    """Return the slope chart of one metric."""
    chart = slope_chart(line.paired.by_prompt, direction(line.metric), line.metric, links)
    return Figure(f"{metric_label(line.metric)}, one line per prompt", chart)
