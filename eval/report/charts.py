"""Geometry of the small charts in the HTML report; templates/macros.html draws them as inline SVG.

The stylesheet of the page sets the colours, for light and dark mode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A straight line; `style` is its CSS class, `title` its tooltip."""

    start: Point
    end: Point
    style: str
    title: str = ""


@dataclass(frozen=True)
class Dot:
    """A filled circle; `style` is its CSS class."""

    centre: Point
    style: str


@dataclass(frozen=True)
class Label:
    """A text; `anchor` is the SVG attribute text-anchor."""

    position: Point
    anchor: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart: size in pixels, a title for screen readers, and its elements in drawing order."""

    width: int
    height: int
    title: str
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    curves: list[list[Point]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def rescale(value: float, low: float, high: float, start: float, end: float) -> float:
    """Map a value linearly from low..high to start..end; an empty range maps to the centre."""
    return (start + end) / 2 if high <= low else start + (value - low) / (high - low) * (end - start)


def interval_chart(mean: float | None, low: float | None, high: float | None, style: str) -> Chart | None:
    """Return a chart of a difference with its interval on a symmetric scale around zero; None without a difference."""
    if mean is None:
        return None
    values = [value for value in (mean, low, high) if value is not None]
    limit = max(map(abs, values)) or 1.0
    x = [rescale(value, -limit, limit, 6, 134) for value in values]
    lines = [Line((70, 2), (70, 20), "zero")]
    if low is not None and high is not None:
        lines.append(Line((x[1], 11), (x[2], 11), f"bar {style}"))
    return Chart(width=140, height=22, title=f"difference {mean:.4g}", lines=lines, dots=[Dot((x[0], 11), style)])


def slope_chart(
    pairs: Mapping[str, tuple[float, float]], names: tuple[str, str], sign: int, title: str, max_label: int = 24
) -> Chart:
    """Return a chart with one line per prompt from the reference arm's value to the other's.

    Args:
        pairs: prompt to (reference, other).
        names: of the two arms.
        sign: 1 if higher is better, -1 if lower is.
        title: for screen readers.
        max_label: number of characters after which an arm's name is cut.
    """
    values = [value for pair in pairs.values() for value in pair]
    low, high = min(values), max(values)
    lines = [Line((60, 16), (60, 184), "axis"), Line((260, 16), (260, 184), "axis")]
    for prompt, (left, right) in pairs.items():
        y0, y1 = (rescale(value, low, high, 180, 20) for value in (left, right))
        tooltip = f"{prompt}: {left:.4g} to {right:.4g}"
        lines.append(Line((60, y0), (260, y1), f"slope {change_style((right - left) * sign)}", tooltip))
    labels = [Label((x, 200), "middle", name[:max_label]) for x, name in zip((60, 260), names, strict=True)]
    labels += [Label((54, y), "end", f"{value:.3g}") for y, value in ((184, low), (24, high))]
    return Chart(width=320, height=208, title=title, lines=lines, labels=labels)


def change_style(improvement: float) -> str:
    """Return the CSS class of an improvement (positive) or a degradation (negative)."""
    return "good" if improvement > 0 else "bad" if improvement < 0 else "same"


def curve_chart(values: Sequence[float | None], title: str) -> Chart | None:
    """Return a chart of values over time with gaps at None, on a scale that includes 0; None without any value."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    low, high = min(0.0, *defined), max(defined)
    segments: list[list[Point]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            segments.append([])
        else:
            x = rescale(index, 0, max(len(values) - 1, 1), 50, 310)
            segments[-1].append((x, rescale(value, low, high, 84, 10)))
    labels = [Label((46, y), "end", f"{value:.2g}") for y, value in ((88, low), (16, high))]
    axis = [Line((50, 84), (310, 84), "axis")]
    return Chart(width=320, height=96, title=title, lines=axis, curves=[s for s in segments if s], labels=labels)
