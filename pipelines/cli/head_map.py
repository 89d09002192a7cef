"""profile(): the heads of a model as a picture of layers by heads."""

from contextlib import suppress
from typing import Any

from rich.table import Table
from rich.text import Text

from vidguide.guidances.head_probe import HeadMass, HeadProbe, ProbedError
from vidguide.pipelines.generate import generate

COLOURS = ("#2166ac", "#67a9cf", "#d1e5f0", "#fddbc7", "#ef8a62", "#b2182b")  # from within the frame to along time
ABOUT = (
    "Share of attention along time, of that along time and within the frame, in percent; * marks temporal heads, with "
    "more along time. On 64 queries a layer, in one pass."
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
    """One head: its number, on a colour."""
    along = head.within_column / max(head.within_column + head.within_frame, 1e-12)
    colour = COLOURS[min(int(along * len(COLOURS)), len(COLOURS) - 1)]
    mark = "*" if head.extent == "temporal" else " "
    return Text(f"{100 * along:3.0f}{mark}", style=f"{'black' if 0.3 < along < 0.7 else 'white'} on {colour}")
