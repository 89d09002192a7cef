"""A page of sections with charts and tables as one HTML file; templates/page.html has its markup."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidguide.eval.report.charts import Chart
from vidguide.eval.report.html_tables import Table


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a page.

    Attributes:
        title: heading; empty for none.
        paragraphs: texts. chart, table: below them. code: text as it is.
        links: texts, and what they link to.
    """

    title: str = ""
    paragraphs: Sequence[str] = ()
    chart: Chart | None = None
    table: Table | None = None
    code: str = ""
    links: Sequence[tuple[str, str]] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML."""
    return template_environment().get_template("page.html").render(title=title, sections=sections)


def template_environment() -> Any:
    """Return the environment of jinja2 in which all reports are rendered."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("vidguide.eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
