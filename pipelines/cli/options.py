"""Options, error handling and tables that the commands share."""

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vidguide.eval.report import console as terminal
from vidguide.eval.report.console import FULL_WIDTH, console

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Shipped name, preset (`vidguide models`), pipeline folder or Hugging Face repo id."
    ),
]
Image = Annotated[Path | None, typer.Option("--image", help="First image, for a model that takes one.")]
LastImage = Annotated[
    Path | None, typer.Option("--last-image", help="Last image, for a model that takes it besides the first.")
]
Video = Annotated[
    Path | None, typer.Option("--video", help="Video to start from, for a model that has a video-to-video pipeline.")
]
Strength = Annotated[
    float | None, typer.Option("--strength", help="Share of the steps taken from the video: above 0 to 1.")
]
Negative = Annotated[str | None, typer.Option("--negative", "-n", help="Negative prompt: what the clip should avoid.")]
Scale = Annotated[
    float | None, typer.Option("--cfg", help="Scale of the pipeline's classifier-free guidance; 1 switches it off.")
]
Steps = Annotated[int | None, typer.Option(help="Number of denoising steps.")]
Frames = Annotated[int | None, typer.Option(help="Number of frames.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 832x480.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the fastest available.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16. Default: bfloat16 on CUDA, float32 elsewhere.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress bars.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print results as JSON on standard output.")]


def parse_size(size: str | None) -> dict[str, int]:
    """Convert `WIDTHxHEIGHT` to keyword arguments, None to no arguments; raise ValueError for another form."""
    if size is None:
        return {}
    width, times, height = size.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise ValueError(f"size={size!r}: must be WIDTHxHEIGHT, such as 832x480")
    return {"width": int(width), "height": int(height)}


# Context manager: print one line in red and exit with code 2 on bad input, instead of a traceback.
plain_errors = functools.partial(
    terminal.plain_errors, 2, (ValueError, TypeError, OSError, LookupError, ImportError, FloatingPointError)
)


def table_of(rows: list[dict[str, str]]) -> Table:
    """Return rows with the same keys as a table, without columns that are empty in every row."""
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))
    return table


def fits(table: Table) -> bool:
    """Return whether the console shows a table without a cut or folded cell."""
    options = console.options.update(max_width=FULL_WIDTH)
    return Measurement.get(console, options, table).maximum <= console.width


def show(rows: list[dict[str, str]]) -> None:
    """Print rows with the same keys as a table; as paragraphs where a table of several columns is too wide."""
    table = table_of(rows)
    if len(rows[0]) <= 2 or fits(table):
        console.print(table)
        return
    for row in rows:
        (_, title), *cells = row.items()
        console.print(Text(title, style="bold"))
        console.print(Padding(Text("; ".join(f"{name}: {value}" for name, value in cells if value)), (0, 0, 0, 2)))
