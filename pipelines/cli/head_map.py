"""profile(): the heads of a model as a picture of layers by heads."""

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
ABOUT = (
    f"Attention along time as a share of that along time and within the frame, each relative to evenly spread "
    f"attention, in percent. T: temporal head, S: spatial head (more than {LIFT:g} times even, on the larger of the "
    "two); unmarked: neither. On 64 queries a layer, in one pass."
)


def profile(prompt: str, at: float = 0.5, **settings: Any) -> list[HeadMass]:
    """Measure the heads of a model at a fraction of a run, see :class:`vidguide.guidances.head_probe.HeadProbe`.

    Args:
        prompt: what the clip shows.
        at: fraction of the run; the rest of it is not run.
        settings: as for :func:`vidguide.pipelines.generate.generate`: model, steps, pipe, ...
    """
    probe = HeadProbe(start=at)
    with suppress(ProbedError):
        generate(prompt, guidance=[probe], **settings)
    return probe.heads


def picture(heads: list[HeadMass]) -> Table:
    """Layers down, heads across."""
    count = 1 + max(head.head for head in heads)
    drawn = Table(box=None, padding=(0, 0))
    for name in ("layer", *map(str, range(count))):
        drawn.add_column(name, min_width=6 if name == "layer" else 4, no_wrap=True)
    for layer in dict.fromkeys(head.layer for head in heads):
        drawn.add_row(f"{layer:>5} ", *(cell(head) for head in heads if head.layer == layer))
    return drawn


def cell(head: HeadMass) -> Text:
    """Draw one head: the share of its lift along time on a colour, and its extent."""
    within, along = head.lifts
    share = along / max(along + within, 1e-12)
    colour = COLOURS[min(int(share * len(COLOURS)), len(COLOURS) - 1)]
    style = f"{'black' if 0.3 < share < 0.7 else 'white'} on {colour}"
    return Text(f"{100 * share:3.0f}{MARKS[head.extent]}", style=style)


def counts(heads: list[HeadMass]) -> str:
    """Count the heads of each extent, as in `temporal 3, spatial 12, neither 9`."""
    found = Counter(head.extent for head in heads)
    return ", ".join(f"{extent} {found[extent]}" for extent in MARKS)
