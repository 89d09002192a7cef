"""Options, error handling and tables that the commands share."""

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vidguide.eval.report import console as terminal
from vidguide.eval.report.console import console

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Shipped name, preset (`vidguide models`), pipeline folder or Hugging Face repo id."
    ),
]
Image = Annotated[Path | None, typer.Option("--image", help="First image, for a model that takes one.")]
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


def show(rows: list[dict[str, str]]) -> None:
    """Print rows with the same keys as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
