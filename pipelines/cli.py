"""The command line: words in, a call of the library, files and a table out. No logic of its own."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from vidguide.eval.cli import app as evaluation

app = typer.Typer(
    help="Training-free guidance for video diffusion transformers.", no_args_is_help=True, add_completion=False
)
console, errors = Console(), Console(stderr=True)

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


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Bad input ends with one red line and exit code 2, not with a traceback."""
    try:
        yield
    except (ValueError, TypeError, OSError, LookupError, ImportError, FloatingPointError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def parse_size(size: str | None) -> dict[str, int]:
    """`WIDTHxHEIGHT` to keyword arguments."""
    if size is None:
        return {}
    width, times, height = size.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise ValueError(f"size={size!r}: must be WIDTHxHEIGHT, such as 832x480")
    return {"width": int(width), "height": int(height)}


def show(rows: list[dict[str, str]]) -> None:
    """Print rows of the same keys as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the clip shows.")] = None,
    model: Model = "tiny",
    image: Image = None,
    negative: Negative = None,
    guidance: Annotated[str | None, typer.Option("--guidance", "-g", help="nag:scale=11,tau=2.5+cfg:5")] = None,
    cfg: Scale = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help=".mp4, .mkv, .gif or .png.")] = Path("clip.mp4"),
    lossless: Annotated[bool, typer.Option(help="Also write an FFV1 .mkv beside the output.")] = False,
    again: Annotated[Path | None, typer.Option("--from", help="JSON of a clip, to make it again.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = "auto",
    trace: Annotated[bool, typer.Option("--trace", help="Print what the guidance did, step by step.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate a guided clip, and write the JSON that makes it again beside it."""
    with plain_errors():
        from vidguide.clip import check_output
        from vidguide.pipelines.arms import parse_or_own
        from vidguide.pipelines.generate import generate as run
        from vidguide.pipelines.provenance import arguments_from, differences, load_provenance

        check_output(output)
        before = None if again is None else load_provenance(again)
        if before is not None:
            arguments: dict[str, Any] = arguments_from(before, image)
        else:
            if prompt is None:
                raise ValueError("prompt: is missing; say what the clip shows, or give --from clip.json")
            arguments = dict(prompt=prompt, model=model, negative_prompt=negative, guidance_scale=cfg, seed=seed)
            arguments |= dict(image=image)
            arguments |= dict(steps=steps, frames=frames, device=device, dtype=dtype, offload=offload)
            arguments |= dict(guidance=parse_or_own(guidance, negative), **parse_size(size))
        clip = run(**arguments, progress=not (quiet or as_json))
        paths = [clip.save(output)] + ([clip.save(output.with_suffix(".mkv"))] if lossless else [])
        written = [str(path) for path in (*paths, output.with_suffix(".json"))]
        if as_json:
            typer.echo(json.dumps({**clip.provenance, "sha256": clip.sha256, "files": written}))
            return
        if trace:
            console.print(clip.provenance["trace"] or "no attention was changed in this run")
        if before is not None and before.get("sha256") == clip.sha256:
            console.print("the same frames, bit for bit")
        elif before is not None:
            reasons = differences(before, clip.provenance) or ["nothing that was written down has changed"]
            console.print("the frames differ from the original's: " + "; ".join(reasons), markup=False)
        console.print("wrote " + ", ".join(written))


@app.command()
def compare(
    prompt: Annotated[str, typer.Argument(help="What the clips show.")],
    guidance: Annotated[list[str] | None, typer.Option("--guidance", "-g", help="One per arm.")] = None,
    negative: Negative = None,
    model: Model = "tiny",
    image: Image = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("comparison"),
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate with several guidances at one seed: video side by side, contact sheet, table, and their evaluation."""
    with plain_errors():
        from vidguide.pipelines.compare import compare as run

        specs = guidance or (["none", "nag"] if negative else ["none"])
        settings: dict[str, Any] = dict(steps=steps, frames=frames, seed=seed, progress=not (quiet or as_json))
        settings |= dict(model=model, image=image, device=device, dtype=dtype, offload=offload, **parse_size(size))
        result = run(prompt, specs, negative_prompt=negative, **settings)
        written = [str(path) for path in (*result.save(output), output / "report.html")]
        rows = result.rows(result.evaluate(output))
        if as_json:
            typer.echo(json.dumps({"arms": rows, "files": written}))
            return
        show([{"arm": name, **{row["arm"]: row[name] for row in rows}} for name in rows[0] if name != "arm"])
        console.print("wrote " + ", ".join(written))


app.add_typer(evaluation, name="evaluate")


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML: model, prompts, seeds, arms and settings (README).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; what it has already is kept.")] = Path(
        "sweep"
    ),
    part: Annotated[str | None, typer.Option(help="2/4 makes the second of four parts, and scores nothing.")] = None,
    score: Annotated[bool, typer.Option(help="Score the clips and write the report in the end.")] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate every prompt and seed in every arm, and hold the arms against the first. Begin again where it ended."""
    with plain_errors():
        from vidguide.eval.cli import report
        from vidguide.eval.evaluating import require
        from vidguide.pipelines.sweep import evaluate, run
        from vidguide.pipelines.sweep_config import read_sweep

        score = score and part is None
        asked = read_sweep(config)
        if score:
            require()
        with Progress(
            *Progress.get_default_columns(), MofNCompleteColumn(), console=errors, disable=quiet or as_json
        ) as bar:
            task = bar.add_task("clips", total=None)
            made = run(asked, output, part=part, tell=lambda clip, total: bar.update(task, total=total, advance=1))
            bar.remove_task(task)
            task = bar.add_task("scores", total=len(made), visible=score)
            summary = evaluate(asked, output, lambda clip: bar.advance(task)) if score else None
        if as_json:
            typer.echo(json.dumps({"clips": [str(path) for path in made], **(summary.plain() if summary else {})}))
        elif summary and not quiet:
            report(summary, output)
        else:
            console.print(f"wrote {len(made)} clips in {output}", markup=False, soft_wrap=True)


@app.command()
def locate(
    model: Annotated[str, typer.Argument(help="Shipped name, preset, pipeline folder or hub id.")] = "tiny",
    every: Annotated[
        bool, typer.Option("--list", help="List the model families there are adapters for instead.")
    ] = False,
    heads: Annotated[
        bool, typer.Option("--profile", help="Measure instead which heads look within their frame, which along time.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="Of the run that --profile measures.")] = "a large circle moving right",
    at: Annotated[float, typer.Option(help="Fraction of the run at which --profile measures.")] = 0.5,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List the attention sites of a model: where text enters, what spans space and time."""
    with plain_errors():
        if heads:
            settings: dict[str, Any] = dict(model=model, steps=steps, frames=frames, device=device, **parse_size(size))
            show_heads(prompt, at, progress=not (quiet or as_json), as_json=as_json, **settings)
            return
        from vidguide import locate as find
        from vidguide.pipelines.load import load
        from vidguide.sites import listing

        sites = [] if every else find(load(model, device="cpu", progress=not as_json))
        rows = listing() if every else [{name: str(value) for name, value in vars(site).items()} for site in sites]
        if as_json:
            typer.echo(json.dumps(rows))
        else:
            show(rows)


def show_heads(prompt: str, at: float, as_json: bool, **settings: Any) -> None:
    """Measure a model's heads and print them as a picture, or as JSON."""
    from vidguide.pipelines.profile import ABOUT, picture, profile

    found = profile(prompt, at, **settings)
    if as_json:
        typer.echo(json.dumps([{**vars(head), "extent": head.extent} for head in found]))
    else:
        console.print(picture(found), crop=False)
        console.print(ABOUT)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that ship and the presets of few-step models: what each is, and how it is run."""
    with plain_errors():
        from vidguide.pipelines.listing import rows
        from vidguide.pipelines.presets import MODELS

        if as_json:
            typer.echo(json.dumps({name: model.values() for name, model in MODELS.items()}))
        else:
            show(rows(MODELS))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, devices, encoders, families and shipped models: what works here."""
    with plain_errors():
        from vidguide.pipelines.doctor import report

        topics = report()
        if as_json:
            typer.echo(json.dumps(topics))
            return
        for topic, facts in topics.items():
            show([{topic: name, "": value} for name, value in facts.items()])


if __name__ == "__main__":
    app()
