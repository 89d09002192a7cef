"""Heat maps as SVG, of what happened at each step and layer, or in each head. Drawing needs no package."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

from vidguide.clip import replace_whole

WIDTH, HEIGHT, MARGIN, LINE = 38, 17, 12, 18  # of a cell, around panels, and of a line of text, pixels
LARGEST = 0.6  # opacity of the largest value: dark and light text is legible on it
LETTER = 6.6  # width of a letter of 11 pixels, in pixels; wider than most
HUE = "#1f6feb"
PAGE = Template(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" width="$width" height="$height" role="img">'
    "<title>$title</title><style>text{font:11px system-ui,sans-serif;fill:#1d1d1f}.dim{fill:#5f5f66}"
    "rect.page{fill:#fff}rect.mark{fill:none;stroke:#b3261e;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#e9e9ec}.dim{fill:#a0a0a8}rect.page{fill:#16161a}"
    "rect.mark{stroke:#ff8a80}}text.dark{fill:#000}text.light{fill:#fff}</style>"
    '<rect class="page" width="$width" height="$height"/>$content</svg>\n'
)
TEXT = Template('<text x="$x" y="$y" text-anchor="$anchor" class="$style">$text</text>')
CELL = Template(
    '<g><title>$title</title><rect x="$x" y="$y" width="$width" height="$height" fill="$fill" fill-opacity="$opacity"/>'
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: its text, tooltip and colour.

    Attributes:
        text: in the cell. title: of the tooltip.
        fill: colour, `#rrggbb`. opacity: of the colour, 0 to 1. style: CSS class of the text, "dark" or "light" on a
            full colour, else that of the page.
        mark: whether it is framed.
    """

    text: str
    title: str
    fill: str = HUE
    opacity: float = 1.0
    style: str = ""
    mark: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One heat map.

    Attributes:
        title: what the cells are.
        rows, columns: names of them.
        cells: by index of row and column; there need not be one everywhere.
        axis: what the rows and columns are.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[int, int], Cell]
    axis: str = ""

    @property
    def indent(self) -> float:
        """Width of the names of the rows, in pixels."""
        return max(len(name) for name in (*self.rows, self.axis)) * LETTER + MARGIN

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        width = max(self.indent + WIDTH * len(self.columns), len(self.title) * LETTER)
        return width, 2 * LINE + HEIGHT * len(self.rows) + MARGIN


@dataclass(frozen=True)
class Picture:
    """An SVG image, which notebooks show.

    Attributes:
        svg: its source.
    """

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image, whole or not at all.

        Raises:
            ValueError: the suffix is not .svg. OSError: the file cannot be written.
        """
        target = check_svg(path)
        replace_whole(target, lambda temporary: temporary.write_text(self.svg, encoding="utf-8"))
        return target


def check_svg(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a path that an image can be written to, after making its folder; messages name the argument.

    Raises:
        ValueError: the suffix is not .svg. OSError: the folder cannot be made or written.
    """
    target = Path(path)
    if target.suffix.lower() != ".svg":
        raise ValueError(f"{name}={os.fspath(path)!r}: the suffix must be .svg")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise OSError(f"{name}={os.fspath(path)!r}: cannot be written; choose a file in a folder you may write to")
    return target


def scaled(value: float, largest: float, title: str, mark: bool = False) -> Cell:
    """Return the cell of a share, whose colour is full at the largest one."""
    opacity = min(max(value / largest, 0.0), 1.0) if largest > 0 else 0.0
    return Cell(text=f"{100 * value:.0f}%", title=title, opacity=LARGEST * opacity, mark=mark)


def draw(panels: Sequence[Panel], title: str, notes: Sequence[str] = ()) -> Picture:
    """Return an image of the panels below each other, under a title and followed by notes."""
    parts = [text(MARGIN, MARGIN + 10, title)]
    top = MARGIN + LINE * 1.5
    for panel in panels:
        parts.append(draw_panel(panel, top))
        top += panel.size[1] + MARGIN
    for number, note in enumerate(notes):
        parts.append(text(MARGIN, top + 10 + number * LINE, note, style="dim"))
    widths = [*(panel.size[0] for panel in panels), *(len(each) * LETTER for each in (title, *notes))]
    size = {"width": f"{max(widths) + 2 * MARGIN:.0f}", "height": f"{top + LINE * len(notes) + MARGIN:.0f}"}
    return Picture(PAGE.substitute(size, title=escape(title), content="".join(parts)))


def draw_panel(panel: Panel, top: float) -> str:
    """Return one panel: title, names of columns and rows, and cells; marks are above all cells."""
    left, first = MARGIN + panel.indent, top + 2 * LINE
    parts = [text(MARGIN, top + 10, panel.title), text(left - 6, top + LINE + 12, panel.axis, "end", "dim")]
    for column, name in enumerate(panel.columns):
        parts.append(text(left + (column + 0.5) * WIDTH, top + LINE + 12, name, "middle", "dim"))
    for row, name in enumerate(panel.rows):
        parts.append(text(left - 6, first + row * HEIGHT + 12, name, "end", "dim"))
    for (row, column), cell in sorted(panel.cells.items(), key=lambda item: item[1].mark):
        parts.append(draw_cell(cell, left + column * WIDTH, first + row * HEIGHT))
    return "".join(parts)


def draw_cell(cell: Cell, x: float, y: float) -> str:
    """Return one cell with its text, tooltip and mark."""
    place = {"x": f"{x + 0.5:.1f}", "y": f"{y + 0.5:.1f}", "width": f"{WIDTH - 1}", "height": f"{HEIGHT - 1}"}
    parts = [CELL.substitute(place, title=escape(cell.title), fill=escape(cell.fill), opacity=f"{cell.opacity:.3f}")]
    parts.append(text(x + WIDTH / 2, y + 12, cell.text, "middle", cell.style))
    if cell.mark:
        edges = " ".join(f'{name}="{value}"' for name, value in place.items())
        parts.append(f'<rect class="mark" {edges}/>')
    return "".join([*parts, "</g>"])


def text(x: float, y: float, content: str, anchor: str = "start", style: str = "") -> str:
    """Return a text."""
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "anchor": anchor, "style": style}
    return TEXT.substitute(place, text=escape(content))
