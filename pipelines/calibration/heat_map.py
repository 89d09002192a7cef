"""The heat map of a calibration: a panel per setting, a row per layer, a column per noise level."""

from PIL import Image, ImageDraw, ImageFont

from vidguide.pipelines.calibration.result import Calibration, Fit

CELL, ROW, LABEL, MARGIN = 84, 20, 44, 16  # pixels: a cell, a layer's name, and the space between panels
PANELS_IN_A_ROW = 3
FONT_SIZE = 12
TOWARDS, AWAY = (33, 102, 172), (178, 24, 43)  # at the largest cosine
UNDEFINED = (225, 225, 225)
HEADING = "Colour: cosine of the model's error and the direction c - c~, blue to the truth, red away; full at {:.3f}"
CAPTION = "Number: w*, the scale of least squares; * where its 95% interval excludes 0. Last column: all levels"
Colour = tuple[int, int, int]
Rows = list[tuple[str, list[Fit]]]  # layers, and the fits at each level and at all


def heat_map(result: Calibration) -> Image.Image:
    """Draw the cosine of error and direction of every setting as colours, and w* as numbers."""
    grouped = list(panels(result).items())
    lines = [grouped[start : start + PANELS_IN_A_ROW] for start in range(0, len(grouped), PANELS_IN_A_ROW)]
    heights = [(max(len(rows) for _, rows in line) + 2) * ROW + MARGIN for line in lines]
    largest = max((abs(fit.cosine) for _, rows in grouped for _, fits in rows for fit in fits if fit.size), default=1)
    texts = [f"{result.model}: {result.clips}", HEADING.format(largest), CAPTION]
    font = ImageFont.load_default(FONT_SIZE)
    width = LABEL + CELL * (len(result.levels) + 1) + MARGIN
    top = MARGIN + ROW * len(texts) + MARGIN
    full = max(MARGIN + width * len(lines[0]), *(round(font.getlength(text)) + 2 * MARGIN for text in texts))
    image = Image.new("RGB", (full, top + sum(heights)), "white")
    draw = ImageDraw.Draw(image)
    for number, text in enumerate(texts):
        draw.text((MARGIN, MARGIN + number * ROW), text, "black", font)
    names = [f"{level.sigma:.2f}" for level in result.levels] + ["all"]
    for number, line in enumerate(lines):
        for column, (group, rows) in enumerate(line):
            draw_panel(draw, MARGIN + column * width, top + sum(heights[:number]), group, names, rows, largest)
    return image


def panels(result: Calibration) -> dict[str, Rows]:
    """Return the rows of each panel by its setting; settings without layers share a panel."""
    grouped: dict[str, Rows] = {}
    for candidate, fits in zip(result.candidates, result.fits, strict=True):
        alone = candidate.layers == "-"
        name, row = ("without layers", candidate.group) if alone else (candidate.group, candidate.layers)
        grouped.setdefault(name, []).append((row, fits))
    return grouped


def draw_panel(
    draw: ImageDraw.ImageDraw, left: int, top: int, group: str, names: list[str], rows: Rows, largest: float
) -> None:
    """Draw one panel: its name, the noise levels, and a row of cells per layer."""
    font = ImageFont.load_default(FONT_SIZE)
    draw.text((left, top), group, "black", font)
    for column, name in enumerate(["sigma", *names]):
        centre = left + LABEL + (column - 0.5) * CELL if column else left
        draw.text((centre, top + ROW), name, (90, 90, 90), font, anchor="ma" if column else "la")
    for number, (layers, fits) in enumerate(rows):
        y = top + (number + 2) * ROW
        draw.text((left, y + 3), layers, "black", font)
        for column, fit in enumerate(fits):
            draw_cell(draw, left + LABEL + column * CELL, y, fit, largest, font)


def draw_cell(draw: ImageDraw.ImageDraw, x: int, y: int, fit: Fit, largest: float, font: ImageFont.ImageFont) -> None:
    """Draw one cell: the colour of its cosine, and w*."""
    defined = fit.size > 0
    colour = blend(fit.cosine / largest) if defined else UNDEFINED
    text = f"{fit.scale:+.3f}{'*' if fit.points else ''}" if defined else "no direction"
    draw.rectangle((x, y, x + CELL - 2, y + ROW - 2), colour)
    dark = sum(colour) < 360
    draw.text((x + CELL // 2 - 1, y + ROW // 2 - 1), text, "white" if dark else "black", font, anchor="mm")


def blend(share: float) -> Colour:
    """Return the colour from white to `TOWARDS` for 0 to 1, and to `AWAY` for 0 to -1."""
    end, amount = (TOWARDS if share > 0 else AWAY), min(abs(share), 1.0)
    red, green, blue = (round(255 + amount * (channel - 255)) for channel in end)
    return red, green, blue
