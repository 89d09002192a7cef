"""What the commands share: their options, how they end on bad input, and a table."""

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vidguide.eval.report import console as terminal
from vidguide.eval.report.console import console

Model = Annotated[
    str, typer.Option("--model", "-m", help="Shipped name, preset (`vidguide models`), pipeline folder or hub id.")
]
Image = Annotated[Path | None, typer.Option("--image", help="First image, for a model that takes one.")]
Negative = Annotated[str | None, typer.Option("--negative", "-n", help="What the clip should not show.")]
Scale = Annotated[float | None, typer.Option("--cfg", help="guidance_scale of the pipeline's own CFG; 1 is off.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Frames = Annotated[int | None, typer.Option(help="Frames of the clip.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")]
Seed = Annotated[int, typer.Option(help="Of the noise.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Offload = Annotated[str, typer.Option(help="auto, none, model or sequential.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, only results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output.")]


def parse_size(size: str | None) -> dict[str, int]:
    """`WIDTHxHEIGHT` to keyword arguments."""
    if size is None:
        return {}
    width, times, height = size.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise ValueError(f"size={size!r}: must be WIDTHxHEIGHT, such as 832x480")
    return {"width": int(width), "height": int(height)}


# Bad input ends with one red line and exit code 2, not with a traceback.
plain_errors = functools.partial(
    terminal.plain_errors, 2, (ValueError, TypeError, OSError, LookupError, ImportError, FloatingPointError)
)


def show(rows: list[dict[str, str]]) -> None:
    """Print rows of the same keys as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
