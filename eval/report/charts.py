"""Geometry of the charts in the HTML report; templates/macros.html draws them as inline SVG.

The stylesheet of the page sets the colours, for light and dark mode. No name of a variant is in a chart, as it may be
of any length: the text next to the chart has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vidguide.eval.scoring.statistics import Estimate

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A straight line; `style` is its CSS class, `title` its tooltip, `href` what it links to."""

    start: Point
    end: Point
    style: str
    title: str = ""
    href: str = ""


@dataclass(frozen=True)
class Dot:
    """A filled circle; `style` is its CSS class, `title` its tooltip, `href` what it links to."""

    centre: Point
    style: str
    title: str = ""
    href: str = ""


@dataclass(frozen=True)
class Curve:
    """A line through points; `style` is its CSS class."""

    points: list[Point]
    style: str


@dataclass(frozen=True)
class Label:
    """A text; `anchor` is the SVG attribute text-anchor, `style` the CSS class."""

    position: Point
    anchor: str
    text: str
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart: size in pixels, a title for screen readers, and its elements in drawing order."""

    width: int
    height: int
    title: str
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def rescale(value: float, low: float, high: float, start: float, end: float) -> float:
    """Map a value linearly from low..high to start..end; an empty range maps to the centre."""
    return (start + end) / 2 if high <= low else start + (value - low) / (high - low) * (end - start)


def bounds(estimate: Estimate) -> list[float]:
    """Return mean, low and high of an estimate, as far as they are defined."""
    return [value for value in (estimate.mean, estimate.low, estimate.high) if value is not None]


def largest(values: Sequence[float]) -> float:
    """Return the largest absolute value, the limit of a symmetric scale; 1 if all are 0."""
    return max(map(abs, values), default=0.0) or 1.0


def interval_chart(
    difference: Estimate,
    style: str,
    *,
    limit: float | None = None,
    thresholds: Sequence[float] = (),
    width: int = 140,
    href: str = "",
) -> Chart | None:
    """Return a chart of a difference with its interval on a symmetric scale around zero; None without a difference.

    Args:
        difference: mean and interval.
        style: CSS class of both.
        limit: end of the scale; None for the largest of the values.
        thresholds: of a guard, in the unit of the difference.
        width: in pixels.
        href: what the mean links to.
    """
    if difference.mean is None:
        return None
    end = limit or largest([*bounds(difference), *thresholds])
    x = [rescale(value, -end, end, 6, width - 6) for value in bounds(difference)]
    lines = [Line((width / 2, 2), (width / 2, 20), "zero")]
    marks = [(rescale(value, -end, end, 6, width - 6), value) for value in thresholds]
    lines += [Line((at, 2), (at, 20), "threshold", f"threshold of the guard: {value:+.3g}") for at, value in marks]
    if difference.low is not None and difference.high is not None:
        lines.append(Line((x[1], 11), (x[2], 11), f"bar {style}"))
    title = f"difference {difference.mean:.4g}"
    return Chart(width=width, height=22, title=title, lines=lines, dots=[Dot((x[0], 11), style, title, href)])


def slope_chart(
    pairs: Mapping[str, tuple[float, float]], sign: int, title: str, links: Mapping[str, str] | None = None
) -> Chart:
    """Return a chart with one line per prompt from the reference's value, left, to the other's, right.

    Args:
        pairs: prompt to (reference, other).
        sign: 1 if higher is better, -1 if lower is.
        title: for screen readers.
        links: prompt to what its line links to.
    """
    values = [value for pair in pairs.values() for value in pair]
    low, high = min(values), max(values)
    lines = [Line((60, 16), (60, 184), "axis"), Line((260, 16), (260, 184), "axis")]
    for prompt, (left, right) in pairs.items():
        y0, y1 = (rescale(value, low, high, 180, 20) for value in (left, right))
        tooltip = f"{prompt}: {left:.4g} to {right:.4g}"
        href = (links or {}).get(prompt, "")
        lines.append(Line((60, y0), (260, y1), f"slope {change_style((right - left) * sign)}", tooltip, href))
    labels = [Label((54, y), "end", f"{value:.3g}") for y, value in ((184, low), (24, high))]
    return Chart(width=320, height=196, title=title, lines=lines, labels=labels)


def change_style(improvement: float) -> str:
    """Return the CSS class of an improvement (positive) or a degradation (negative)."""
    return "good" if improvement > 0 else "bad" if improvement < 0 else "same"


CURVE_STYLES = ("reference", "other")  # CSS classes of overlaid curves


def curve_chart(series: Sequence[Sequence[float | None]], title: str, mark: int | None = None) -> Chart | None:
    """Return a chart of values over time, overlaid, with gaps at None, on a scale that includes 0.

    Args:
        series: values of each variant; at most two.
        title: for screen readers.
        mark: index of the values to mark.

    Returns:
        the chart; None without any value.
    """
    defined = [value for values in series for value in values if value is not None]
    if not defined:
        return None
    low, high, last = min(0.0, *defined), max(defined), max(max(map(len, series)) - 1, 1)
    curves = [
        Curve([(rescale(i, 0, last, 50, 310), rescale(v, low, high, 84, 10)) for i, v in segment], f"curve {style}")
        for values, style in zip(series, CURVE_STYLES, strict=False)
        for segment in defined_segments(values)
    ]
    labels = [Label((46, y), "end", f"{value:.2g}") for y, value in ((88, low), (16, high))]
    lines = [Line((50, 84), (310, 84), "axis")]
    if mark is not None:
        x = rescale(mark, 0, last, 50, 310)
        lines.append(Line((x, 4), (x, 90), "mark", "worst frame"))
    return Chart(width=320, height=96, title=title, lines=lines, curves=curves, labels=labels)


def defined_segments(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Return the runs of values that are not None, each value with its index."""
    segments: list[list[tuple[int, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            segments.append([])
        else:
            segments[-1].append((index, value))
    return [segment for segment in segments if segment]


@dataclass(frozen=True)
class TradeOffPoint:
    """A variant in the trade-off chart: its letter, CSS class, and gain in both metrics, positive if better."""

    letter: str
    style: str
    gains: tuple[Estimate, Estimate]
    title: str


SPACE = 1.15  # of the scales of a trade-off, relative to the largest value, for the letters of the points


def trade_off_chart(points: Sequence[TradeOffPoint], title: str, threshold: float | None, ends: Sequence[str]) -> Chart:
    """Return a chart of variants by their gains in two metrics, each with both intervals; the reference is at 0.

    Args:
        points: the variants.
        title: for screen readers.
        threshold: gain in the second metric below which it violates a guard of the first; None for none.
        ends: texts at the right end of the first axis and at the upper end of the second.
    """
    across = SPACE * largest([value for point in points for value in bounds(point.gains[0])])
    up = SPACE * largest([value for point in points for value in bounds(point.gains[1])] + [threshold or 0.0])
    lines = [Line((20, 150), (400, 150), "axis"), Line((210, 16), (210, 284), "axis")]
    if threshold is not None:
        level = rescale(threshold, -up, up, 280, 20)
        lines.append(Line((20, level), (400, level), "threshold", f"threshold of the guard: {threshold:+.3g}"))
    dots, labels = [Dot((210, 150), "same", "reference")], [Label((404, 296), "end", ends[0])]
    labels.append(Label((216, 14), "start", ends[1]))
    for point in points:
        x = [rescale(value, -across, across, 26, 394) for value in bounds(point.gains[0])]
        y = [rescale(value, -up, up, 280, 20) for value in bounds(point.gains[1])]
        if len(x) == 3:
            lines.append(Line((x[1], y[0]), (x[2], y[0]), f"bar {point.style}", point.title))
        if len(y) == 3:
            lines.append(Line((x[0], y[1]), (x[0], y[2]), f"bar {point.style}", point.title))
        dots.append(Dot((x[0], y[0]), point.style, point.title))
        labels.append(Label((x[0] + 7, y[0] - 6), "start", point.letter, "letter"))
    return Chart(width=420, height=300, title=title, lines=lines, dots=dots, labels=labels)
