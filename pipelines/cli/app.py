"""The command line: words in, a call of the library, files and a table out. No logic of its own."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, Progress

from vidguide.eval.cli import app as evaluation
from vidguide.eval.report.console import console, errors
from vidguide.pipelines.cli.inspect import doctor, locate, models
from vidguide.pipelines.cli.options import (
    AsJson,
    Device,
    Dtype,
    Frames,
    Image,
    Model,
    Negative,
    Offload,
    Quiet,
    Scale,
    Seed,
    Size,
    Steps,
    parse_size,
    plain_errors,
    show,
)

app = typer.Typer(
    help="Training-free guidance for video diffusion transformers.", no_args_is_help=True, add_completion=False
)


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
        from vidguide.pipelines.generate import generate as run
        from vidguide.pipelines.request.guidance_spec import parse_or_own
        from vidguide.pipelines.request.provenance import arguments_from, held_against, load_provenance

        check_output(output)
        before = None if again is None else load_provenance(again)
        if before is not None:
            arguments = arguments_from(before, image)
        elif prompt is not None:
            arguments = dict(prompt=prompt, model=model, negative_prompt=negative, guidance_scale=cfg, seed=seed)
            arguments |= dict(image=image, steps=steps, frames=frames, device=device, dtype=dtype, offload=offload)
            arguments |= dict(guidance=parse_or_own(guidance, negative), **parse_size(size))
        else:
            raise ValueError("prompt: is missing; say what the clip shows, or give --from clip.json")
        clip = run(**arguments, progress=not (quiet or as_json))
        paths = [clip.save(output)] + ([clip.save(output.with_suffix(".mkv"))] if lossless else [])
        written = [str(path) for path in (*paths, output.with_suffix(".json"))]
        if as_json:
            typer.echo(json.dumps({**clip.provenance, "sha256": clip.sha256, "files": written}))
            return
        if trace:
            console.print(clip.provenance["trace"] or "no attention was changed in this run")
        if before is not None:
            console.print(held_against(before, clip), markup=False)
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
        from vidguide.eval.evaluate import require
        from vidguide.pipelines.sweep.config import read_sweep
        from vidguide.pipelines.sweep.run import evaluate, run

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
            typer.echo(json.dumps({"clips": [str(path) for path in made], **(summary.to_dict() if summary else {})}))
        elif summary and not quiet:
            report(summary, output)
        else:
            console.print(f"wrote {len(made)} clips in {output}", markup=False, soft_wrap=True)


for command in (locate, models, doctor):
    app.command()(command)


if __name__ == "__main__":
    app()
