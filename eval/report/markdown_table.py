"""The writer of Markdown tables, shared by reports, benchmarks and the list of models."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without a trailing newline; pipes and line breaks in cells are escaped."""
    lines = [to_line(header), f"|{'---|' * len(header)}", *(to_line(row) for row in rows)]
    return "\n".join(lines)


def to_line(cells: Sequence[str]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"
