"""The heat map of a calibration: a panel per setting, a row per layer, a column per noise level."""

from PIL import Image, ImageDraw, ImageFont

from vidguide.pipelines.calibration.result import Calibration, Fit

CELL, ROW, MARGIN = 84, 20, 16  # pixels: a cell, and the space between panels
PANELS_IN_A_ROW = 3
FONT_SIZE = 12
TOWARDS, AWAY = (33, 102, 172), (178, 24, 43)  # at the largest cosine
UNDEFINED, GREY = (225, 225, 225), (90, 90, 90)
HEADING = "Colour: cosine of the model's error and the direction c - c~, blue to the truth, red away; full at {:.3f}"
CAPTION = "Number: w*, the scale of least squares; * where its 95% interval excludes 0. Last column: all levels"
Colour = tuple[int, int, int]
Rows = list[tuple[str, list[Fit]]]  # layers, and the fits at each level and at all


def heat_map(result: Calibration) -> Image.Image:
    """Draw the cosine of error and direction of every setting as colours, and w* as numbers."""
    grouped = list(panels(result).items())
    lines = [grouped[start : start + PANELS_IN_A_ROW] for start in range(0, len(grouped), PANELS_IN_A_ROW)]
    heights = [(max(len(rows) for _, rows in line) + 2) * ROW + MARGIN for line in lines]
    canvas = Canvas(result, grouped)
    heading = [f"{result.model}: {result.clips}", HEADING.format(canvas.largest), CAPTION]
    top = 2 * MARGIN + ROW * len(heading)
    width = max(MARGIN + canvas.width * len(lines[0]), *(canvas.length(text) + 2 * MARGIN for text in heading))
    image = Image.new("RGB", (width, top + sum(heights)), "white")
    canvas.draw = ImageDraw.Draw(image)
    for number, text in enumerate(heading):
        canvas.text(MARGIN, MARGIN + number * ROW, text)
    for number, line in enumerate(lines):
        for column, (group, rows) in enumerate(line):
            canvas.panel(MARGIN + column * canvas.width, top + sum(heights[:number]), group, rows)
    return image


def panels(result: Calibration) -> dict[str, Rows]:
    """Return the rows of each panel by its setting; settings without layers share a panel."""
    grouped: dict[str, Rows] = {}
    for candidate, fits in zip(result.candidates, result.fits, strict=True):
        alone = candidate.layers == "-"
        name, row = ("without layers", candidate.group) if alone else (candidate.group, candidate.layers)
        grouped.setdefault(name, []).append((row, fits))
    return grouped


class Canvas:
    """Draws panels of equal width.

    Attributes:
        names: of the columns. largest: cosine of full colour. width: of a panel, pixels. draw: set before drawing.
    """

    draw: ImageDraw.ImageDraw

    def __init__(self, result: Calibration, grouped: list[tuple[str, Rows]]) -> None:
        every = [row for _, rows in grouped for row in rows]
        cosines = [abs(fit.cosine) for _, fits in every for fit in fits if fit.size]
        self.font = ImageFont.load_default(FONT_SIZE)
        self.names = [*(f"{level.sigma:.2f}" for level in result.levels), "all"]
        self.largest = max(cosines, default=1.0) or 1.0
        self.label = max(self.length(text) for text in ("sigma", *(layers for layers, _ in every))) + MARGIN // 2
        self.width = self.label + CELL * len(self.names) + MARGIN

    def length(self, text: str) -> int:
        """Return the length of a text in pixels."""
        return round(self.font.getlength(text))

    def text(self, x: float, y: float, text: str, colour: str | Colour = "black", anchor: str = "la") -> None:
        """Draw a text at a position; the anchor is Pillow's."""
        self.draw.text((x, y), text, colour, self.font, anchor=anchor)

    def panel(self, left: int, top: int, group: str, rows: Rows) -> None:
        """Draw one panel: its name, the noise levels, and a row of cells per layer."""
        self.text(left, top, group)
        self.text(left, top + ROW, "sigma", GREY)
        cells = left + self.label
        for column, name in enumerate(self.names):
            self.text(cells + (column + 0.5) * CELL, top + ROW, name, GREY, "ma")
        for number, (layers, fits) in enumerate(rows):
            y = top + (number + 2) * ROW
            self.text(left, y + 3, layers)
            for column, fit in enumerate(fits):
                self.cell(cells + column * CELL, y, fit)

    def cell(self, x: int, y: int, fit: Fit) -> None:
        """Draw one cell: the colour of its cosine, and w*."""
        colour = blend(fit.cosine / self.largest) if fit.size else UNDEFINED
        text = f"{fit.scale:+.3f}{'*' if fit.points else ''}" if fit.size else "no direction"
        self.draw.rectangle((x, y, x + CELL - 2, y + ROW - 2), colour)
        self.text(x + CELL // 2 - 1, y + ROW // 2 - 1, text, "white" if sum(colour) < 360 else "black", "mm")


def blend(share: float) -> Colour:
    """Return the colour from white to `TOWARDS` for 0 to 1, and to `AWAY` for 0 to -1."""
    end, amount = (TOWARDS if share > 0 else AWAY), min(abs(share), 1.0)
    red, green, blue = (round(255 + amount * (channel - 255)) for channel in end)
    return red, green, blue
