"""The command `vidguide calibrate`: which directions of guidance point to the truth, and at which scale."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vidguide.eval.report.console import console
from vidguide.eval.report.progress import Progress
from vidguide.pipelines.cli.options import (
    AsJson,
    Device,
    Dtype,
    Frames,
    Quiet,
    Seed,
    Size,
    Steps,
    parse_size,
    plain_errors,
)
from vidguide.pipelines.cli.setup_options import setup_from, setup_options


@setup_options
def calibrate(
    options: dict[str, Any],
    model: Annotated[
        str, typer.Argument(help="Shipped name, preset, pipeline folder or Hugging Face repo id.")
    ] = "tiny",
    clips: Annotated[
        Path | None, typer.Option("--clips", "-c", help="Folder of clips with prompts; shipped models have renders.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", "-p", help="JSON, JSONL or CSV: prompts by clip.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Number of clips. Default: 48 renders, or all.")] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option("--guidance", "-g", help="What to measure, such as emag:decay=0.8; repeat. Default: all."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to measure, such as 0-4 or 2/7/9. Default: all.")] = None,
    at: Annotated[str, typer.Option(help="Noise levels as fractions of the run.")] = "0.2/0.5/0.75",
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    seed: Seed = 0,
    batch: Annotated[int | None, typer.Option(help="Clips in one call. Default: 16 renders, or 1.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder: calibration.json, .md, .png, settings.json.")
    ] = Path("calibration"),
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure which directions of guidance point to the truth, and write settings for `-g emag:@settings.json`."""
    with plain_errors():
        from vidguide.pipelines.calibration.calibrate import calibrate as run
        from vidguide.pipelines.calibration.report import LEGEND, best_settings, save, table

        arguments: dict[str, Any] = dict(clips=clips, prompts=prompts, count=count, steps=steps, frames=frames)
        arguments |= dict(seed=seed, batch=batch, device=device, dtype=dtype, **parse_size(size))
        arguments |= dict(setup=setup_from(options))
        arguments |= dict(guidance=parse_all(guidance), at=parse_list("at", at, float))
        arguments |= dict(layers=None if layers is None else parse_list("layers", layers, int))
        with Progress("measurements", hidden=quiet or as_json) as progress:
            result = run(model, **arguments, progress=progress.update)
        files = [str(path) for path in save(result, output)]
        if as_json:
            typer.echo(json.dumps({**result.settings_file(), "files": files}))
            return
        console.print(table(result), crop=False)
        console.print("\n".join([LEGEND, *best_settings(result), *result.notes]), markup=False)
        console.print("wrote " + ", ".join(files), markup=False, soft_wrap=True)


def parse_all(specs: list[str] | None) -> list[Any] | None:
    """Return the guidances of all specs; None without specs."""
    from vidguide.pipelines.request.guidance_spec import parse

    return None if specs is None else [guidance for spec in specs for guidance in parse(spec)]


def parse_list(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """Convert `0.2/0.5` or a range of integers such as `0-4` to numbers.

    Raises:
        ValueError: naming the option.
    """
    from vidguide.pipelines.request.guidance_spec import parse_value

    try:
        values: tuple[Any, ...] = parse_value(text, (tuple[kind, ...],))  # type: ignore[valid-type]
    except ValueError as error:
        raise ValueError(f"{name}={text!r}: {error}") from None
    return values
