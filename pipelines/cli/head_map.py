"""profile(): how much each head of a model attends along time, as a table of layers by heads."""

from collections import Counter
from contextlib import suppress
from typing import Any

from rich.table import Table
from rich.text import Text

from vidguide.functional.head_mass import LIFT
from vidguide.guidances.head_probe import HeadMass, HeadProbe, ProbedError
from vidguide.pipelines.generate import generate

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
    within, along = head.lifts
    share = along / max(along + within, 1e-12)
    colour = COLOURS[min(int(share * len(COLOURS)), len(COLOURS) - 1)]
    style = f"{'black' if 0.3 < share < 0.7 else 'white'} on {colour}"
    return Text(f"{100 * share:3.0f}{MARKS[head.extent]}", style=style)


def count_extents(heads: list[HeadMass]) -> str:
    """Count the heads of each extent, as in `temporal 3, spatial 12, neither 9`."""
    counter = Counter(head.extent for head in heads)
    return ", ".join(f"{extent} {counter[extent]}" for extent in MARKS)
