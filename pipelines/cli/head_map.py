"""profile(): how much each head of a model attends along time, as a table of layers by heads."""

from collections import Counter
from contextlib import suppress
from typing import Any

from rich.table import Table
from rich.text import Text

from vidguide.functional.head_mass import LIFT
from vidguide.guidances.head_probe import HeadMass, HeadProbe, ProbedError
from vidguide.pipelines.generate import generate
from vidguide.tracing.heat_map import Cell, Panel, Picture, draw

COLOURS = ("#2166ac", "#67a9cf", "#d1e5f0", "#fddbc7", "#ef8a62", "#b2182b")  # from within the frame to along time
MARKS = {"temporal": "T", "spatial": "S", "neither": " "}
LEGEND = (
    "Attention along time as a percentage of attention along time plus attention within the frame, each relative to "
    f"uniform attention. T: temporal head, S: spatial head (the larger of the two, more than {LIFT:g} times uniform); "
    "unmarked: neither. Measured on 64 queries per layer, in one pass."
)


def profile(prompt: str, at: float = 0.5, **settings: Any) -> list[HeadMass]:
    """Measure the heads of a model at a fraction of a run, see :class:`vidguide.guidances.head_probe.HeadProbe`.

    Args:
        prompt: what the clip shows.
        at: fraction of the run, 0 to 1; the run ends there.
        settings: as for :func:`vidguide.pipelines.generate.generate`.
    """
    probe = HeadProbe(start=at)
    with suppress(ProbedError):
        generate(prompt, guidance=[probe], **settings)
    return probe.heads


def head_table(heads: list[HeadMass]) -> Table:
    """Return a table with a row per layer and a column per head."""
    count = 1 + max(head.head for head in heads)
    table = Table(box=None, padding=(0, 0))
    for name in ("layer", *map(str, range(count))):
        table.add_column(name, min_width=6 if name == "layer" else 4, no_wrap=True)
    for layer in dict.fromkeys(head.layer for head in heads):
        table.add_row(f"{layer:>5} ", *(cell(head) for head in heads if head.layer == layer))
    return table


def cell(head: HeadMass) -> Text:
    """Return the percentage of one head on a colour, and the mark of its extent."""
    share, colour = share_along(head)
    style = f"{'black' if is_pale(share) else 'white'} on {colour}"
    return Text(f"{100 * share:3.0f}{MARKS[head.extent]}", style=style)


def share_along(head: HeadMass) -> tuple[float, str]:
    """Return the share of attention along time, and its colour."""
    within, along = head.lifts
    share = along / max(along + within, 1e-12)
    return share, COLOURS[min(int(share * len(COLOURS)), len(COLOURS) - 1)]


def is_pale(share: float) -> bool:
    """Return whether the colour of a share is so pale that its text is black."""
    return 0.3 < share < 0.7


def head_plot(heads: list[HeadMass]) -> Picture:
    """Return a picture with a row per layer and a column per head."""
    layers = list(dict.fromkeys(head.layer for head in heads))
    cells = {(layers.index(head.layer), head.head): plot_cell(head) for head in heads}
    columns = [str(head) for head in range(1 + max(head.head for head in heads))]
    rows, counts = [*map(str, layers)], count_extents(heads)
    panel = Panel(title=counts, rows=rows, columns=columns, cells=cells, axis="layer / head")
    notes = [f"{line}." for line in LEGEND.rstrip(".").split(". ")]
    return draw([panel], "attention of each head along time, percent", notes)


def plot_cell(head: HeadMass) -> Cell:
    """Return the percentage of one head on a colour, with the mark of its extent."""
    share, colour = share_along(head)
    text = f"{100 * share:.0f}{MARKS[head.extent].strip()}"
    title = f"layer {head.layer}, head {head.head}: {share:.1%}, {head.extent}"
    return Cell(text=text, title=title, fill=colour, style="dark" if is_pale(share) else "light")


def count_extents(heads: list[HeadMass]) -> str:
    """Count the heads of each extent, as in `temporal 3, spatial 12, neither 9`."""
    counter = Counter(head.extent for head in heads)
    return ", ".join(f"{extent} {counter[extent]}" for extent in MARKS)
