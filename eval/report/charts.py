"""Small charts as inline SVG, coloured by the page's style, so that they are right in light and dark."""

import html
from collections.abc import Mapping, Sequence

Point = tuple[float, float]


def scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    """The value's place between start and end; the middle where the range is empty."""
    return (start + end) / 2 if high <= low else start + (value - low) / (high - low) * (end - start)


def svg(width: int, height: int, body: str, label: str) -> str:
    """An SVG that shrinks with the page and has a text for those who do not see it."""
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{html.escape(label)}">'
    return f"{head}<title>{html.escape(label)}</title>{body}</svg>"


def line(start: Point, end: Point, kind: str) -> str:
    """A straight line of a class."""
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" class="{kind}"/>'


def interval(mean: float | None, low: float | None, high: float | None, kind: str) -> str:
    """A difference and its interval around zero, on a scale of its own; `kind` colours it."""
    if mean is None:
        return ""
    ends = [value for value in (mean, low, high) if value is not None]
    reach = max(map(abs, ends)) or 1.0
    places = [scaled(value, -reach, reach, 6, 134) for value in ends]
    body = line((70, 2), (70, 20), "zero")
    if low is not None and high is not None:
        body += line((places[1], 11), (places[2], 11), f"bar {kind}")
    body += f'<circle cx="{places[0]:.1f}" cy="11" r="4" class="dot {kind}"/>'
    return svg(140, 22, body, f"difference {mean:.4g}")


def slopes(pairs: Mapping[str, tuple[float, float]], names: tuple[str, str], sign: int, title: str) -> str:
    """One line per prompt from the reference's value to the other's; `sign` is 1 where higher is better."""
    values = [value for pair in pairs.values() for value in pair]
    low, high = min(values), max(values)
    body = line((60, 16), (60, 184), "axis") + line((260, 16), (260, 184), "axis")
    for prompt, (left, right) in pairs.items():
        change = (right - left) * sign
        kind = "good" if change > 0 else "bad" if change < 0 else "same"
        y0, y1 = (scaled(value, low, high, 180, 20) for value in (left, right))
        body += f"<g><title>{html.escape(prompt)}: {left:.4g} to {right:.4g}</title>"
        body += line((60, y0), (260, y1), f"slope {kind}") + "</g>"
    labels = [(60, 200, "middle", names[0]), (260, 200, "middle", names[1])]
    for x, y, anchor, text in [*labels, (54, 184, "end", f"{low:.3g}"), (54, 24, "end", f"{high:.3g}")]:
        body += f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text[:24])}</text>'
    return svg(320, 208, body, title)


def curve(values: Sequence[float | None], title: str) -> str:
    """Values over time, with gaps where there is none; the scale starts at 0 where none is below."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(0.0, *known), max(known)
    pieces: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            pieces.append([])
            continue
        x = scaled(index, 0, max(len(values) - 1, 1), 50, 310)
        pieces[-1].append(f"{x:.1f},{scaled(value, low, high, 84, 10):.1f}")
    body = line((50, 84), (310, 84), "axis")
    body += "".join(f'<polyline points="{" ".join(piece)}" class="curve"/>' for piece in pieces if piece)
    body += (
        f'<text x="46" y="88" text-anchor="end">{low:.2g}</text><text x="46" y="16" text-anchor="end">{high:.2g}</text>'
    )
    return svg(320, 96, body, title)
