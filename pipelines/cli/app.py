"""The command line `vidguide`: parses options, calls the library and prints results."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidguide.eval.cli import GpusPerWorker, Ray, Workers
from vidguide.eval.cli import app as evaluate_app
from vidguide.eval.report.console import console, errors, resumable
from vidguide.eval.report.progress import Progress
from vidguide.pipelines.cli.calibrate import calibrate
from vidguide.pipelines.cli.inspect import doctor, locate, models
from vidguide.pipelines.cli.options import (
    AsJson,
    Device,
    Dtype,
    Frames,
    Image,
    LastImage,
    Model,
    Negative,
    Quiet,
    Scale,
    Seed,
    Size,
    Steps,
    Strength,
    Video,
    parse_size,
    plain_errors,
    show,
)
from vidguide.pipelines.cli.plan import plan
from vidguide.pipelines.cli.serve import serve
from vidguide.pipelines.cli.setup_options import setup_from, setup_options
from vidguide.pipelines.cli.tune import tune
from vidguide.version import __version__

if TYPE_CHECKING:
    from vidguide.eval.pool.protocol import Backend
    from vidguide.eval.scoring.summary import Summary
    from vidguide.pipelines.sweep.config import Sweep
    from vidguide.pipelines.sweep.run import SweepRun
    from vidguide.tracing.run import Trace

app = typer.Typer(no_args_is_help=True)


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"vidguide {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: vidguide compare 'a large circle' -n red -g none -g nag")
def vidguide(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Training-free guidance for video diffusion transformers.

    Exit codes: 0 success, 2 wrong input or some clips failed (listed), 130 interrupted; `evaluate` has its own.
    """


@app.command(epilog="Example: vidguide generate 'a large circle moving right' -n red -o clip.mp4")
@setup_options
def generate(
    options: dict[str, Any],
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What the clip shows; several prompts make several clips.")
    ] = None,
    model: Model = "tiny",
    image: Image = None,
    last_image: LastImage = None,
    video: Video = None,
    strength: Strength = None,
    negative: Negative = None,
    guidance: Annotated[
        str | None, typer.Option("--guidance", "-g", help="Guidances, such as nag:scale=11,tau=2.5+cfg:5, or none.")
    ] = None,
    cfg: Scale = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    seed: Seed = 0,
    num_videos_per_prompt: Annotated[int, typer.Option(help="Clips of each prompt, at further seeds.")] = 1,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="File to write: .mp4, .mkv (lossless), or without audio .gif, .png (sheet)."
        ),
    ] = Path("clip.mp4"),
    lossless: Annotated[bool, typer.Option(help="Also write a lossless .mkv (FFV1, FLAC).")] = False,
    recorded: Annotated[
        Path | None, typer.Option("--from", help="JSON of a clip to reproduce, with its settings.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    trace: Annotated[
        Path | None, typer.Option(help="SVG to write: what the guidance changed, by step and layer; also printed.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate a clip, and write a JSON with everything needed to reproduce it."""
    with plain_errors():
        from vidguide.clip import check_output
        from vidguide.pipelines.generate import generate as run
        from vidguide.pipelines.request.guidance_spec import parse_unless_default
        from vidguide.pipelines.request.provenance import arguments_from, compare_clip, load_provenance

        check_output(output)
        check_trace(trace)
        if recorded is None and not prompt:
            raise ValueError("prompt: is missing; say what the clip shows, or pass --from clip.json")
        provenance = None if recorded is None else load_provenance(recorded)
        inputs: dict[str, Any] = dict(image=image, last_image=last_image, video=video)
        arguments: dict[str, Any]
        if provenance is not None:
            given: dict[str, Any] = {"prompt": prompt, "negative": negative, "guidance": guidance, "cfg": cfg}
            given |= {"model": model, "steps": steps, "frames": frames, "size": size, "seed": seed, "dtype": dtype}
            given |= {"num-videos-per-prompt": num_videos_per_prompt, "strength": strength}
            check_only_from({**given, **options})
            arguments = arguments_from(provenance, **inputs) | ({} if device is None else {"device": device})
        else:
            texts: Any = prompt[0] if prompt and (len(prompt), num_videos_per_prompt) == (1, 1) else prompt
            arguments = dict(prompt=texts, model=model, negative_prompt=negative, guidance_scale=cfg, seed=seed)
            arguments |= dict(**inputs, strength=strength, steps=steps, frames=frames, device=device, dtype=dtype)
            arguments |= dict(setup=setup_from(options), num_videos_per_prompt=num_videos_per_prompt)
            arguments |= dict(guidance=parse_unless_default(guidance, negative), **parse_size(size))
        traces: list[Trace] = []
        made = run(**arguments, on_trace=traces.append, progress=not (quiet or as_json))
        clips: list[Any] = made if isinstance(made, list) else [made]
        paths = paths_of(clips, output, num_videos_per_prompt)
        files = [write(clip, path, lossless) for clip, path in zip(clips, paths, strict=True)]
        if trace is not None:
            drawings = paths_of(clips, trace, num_videos_per_prompt)
            drawn = [str(each.plot().save(path)) for each, path in zip(traces, drawings, strict=True)]
            files = [[*written, picture] for written, picture in zip(files, drawn, strict=True)]
        if as_json:
            listed = [{**clip.describe(), "files": each} for clip, each in zip(clips, files, strict=True)]
            typer.echo(json.dumps(listed if len(listed) > 1 else listed[0]))
            return
        for clip, written in zip(clips, files, strict=True):
            if trace is not None:
                console.print(clip.provenance["trace"] or "the guidance changed no attention")
            if provenance is not None:
                console.print(compare_clip(provenance, clip), markup=False)
            console.print("wrote " + ", ".join(written))


def check_only_from(given: dict[str, Any]) -> None:
    """Refuse options that `--from` has no use for, as it makes the clip of its JSON again.

    Args:
        given: values by the name of the option; None, empty, or equal to the default if it was not given.

    Raises:
        ValueError: naming them.
    """
    defaults = {"model": "tiny", "seed": 0, "num-videos-per-prompt": 1}
    if unused := [name for name, value in given.items() if value and value != defaults.get(name)]:
        raise ValueError(f"--from: makes the clip of its JSON again; leave out {', '.join(unused)}")


def check_trace(trace: Path | None) -> None:
    """Refuse a file that no picture can be written to; None is accepted."""
    from vidguide.tracing.heat_map import check_svg

    if trace is not None:
        check_svg(trace, "trace")


def paths_of(clips: list[Any], output: Path, count: int) -> list[Path]:
    """Return the path of each clip: `output` for one; for several `clip-0-7.mp4`, with number of the prompt and seed.

    Args:
        clips: all clips.
        output: as the command line takes it.
        count: number of clips of each prompt.
    """
    if len(clips) == 1:
        return [output]
    ends = [f"{index // count}-{clip.provenance['seed']}" for index, clip in enumerate(clips)]
    return [output.with_stem(f"{output.stem}-{end}") for end in ends]


def write(clip: Any, output: Path, lossless: bool) -> list[str]:
    """Write a clip, and a lossless copy if asked for; return the paths, including that of the JSON."""
    paths = [clip.save(output)] + ([clip.save(output.with_suffix(".mkv"))] if lossless else [])
    return [str(path) for path in (*paths, output.with_suffix(".json"))]


@app.command(epilog="Example: vidguide compare 'a large circle' -n red -g none -g nag -o comparison")
@setup_options
def compare(
    options: dict[str, Any],
    prompt: Annotated[str, typer.Argument(help="What the clips show.")],
    guidance: Annotated[
        list[str] | None,
        typer.Option("--guidance", "-g", help="Guidances of one clip, such as nag:scale=11; repeat for more clips."),
    ] = None,
    negative: Negative = None,
    model: Model = "tiny",
    image: Image = None,
    last_image: LastImage = None,
    video: Video = None,
    strength: Strength = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("comparison"),
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate clips with several guidances at one seed; write them side by side, with a table and an evaluation."""
    with plain_errors():
        from vidguide.pipelines.compare import compare as run

        specs = guidance or (["none", "nag"] if negative else ["none"])
        settings: dict[str, Any] = dict(steps=steps, frames=frames, seed=seed, progress=not (quiet or as_json))
        settings |= dict(image=image, last_image=last_image, video=video, strength=strength, **parse_size(size))
        settings |= dict(model=model, device=device, dtype=dtype, setup=setup_from(options))
        result = run(prompt, specs, negative_prompt=negative, **settings)
        files = [str(path) for path in (*result.save(output), output / "report.html")]
        rows = result.rows(result.evaluate(output))
        if as_json:
            typer.echo(json.dumps({"arms": rows, "files": files}))
            return
        show([{"arm": name, **{row["arm"]: row[name] for row in rows}} for name in rows[0] if name != "arm"])
        console.print("wrote " + ", ".join(files))


@app.command(epilog="Example: vidguide sweep examples/sweep.yaml -o sweep")
@setup_options
def sweep(
    options: dict[str, Any],
    config: Annotated[Path, typer.Argument(help="YAML of model, prompts, seeds, arms and settings; see docs.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder, or URL such as s3://bucket/sweep; existing clips remain.")
    ] = "sweep",
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    score: Annotated[bool, typer.Option(help="Score the clips and write the report.")] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate every prompt and seed in every arm, and compare the arms with the first. Resumes an interrupted run.

    Exit codes: 0 all clips are there; 2 some are not (listed), wrong input, or the sweep could not go on.
    """
    with plain_errors(), resumable():
        from vidguide.eval.cli import report
        from vidguide.eval.evaluate import require
        from vidguide.eval.pool.backends import choose_backend, session
        from vidguide.pipelines.sweep.config import check_sweep, read_sweep
        from vidguide.pipelines.sweep.run import local_folder

        parsed = read_sweep(config)
        if options:
            setup = setup_from(options, parsed.placement.get("setup"))
            parsed = dataclasses.replace(parsed, placement={**parsed.placement, "setup": setup})
            check_sweep(parsed)
        backend = choose_backend(ray, workers, gpus_per_worker)
        if score:
            local_folder(output)
            require()
        with session(backend):
            result, summary = run_sweep(parsed, output, backend, score, hidden=quiet or as_json)
        if as_json:
            typer.echo(json.dumps({**result.to_dict(), **(summary.to_dict() if summary else {})}))
        elif summary and not quiet:
            report(summary, Path(output))
        report_clips(result, output, as_json)


def report_clips(result: "SweepRun", output: str, as_json: bool) -> None:
    """Print the clips that were generated again and those that failed; exit with code 2 if any failed."""
    for what, clips in (("generated again", result.remade), ("failed", result.failed)):
        for path, reason in clips.items():
            errors.print(f"{what}: {path}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if not as_json:
        done = f"{len(result.paths) - len(result.failed)} of {len(result.paths)} clips are in {output}"
        console.print(done, markup=False, soft_wrap=True)
    if result.failed:
        raise typer.Exit(2)


def run_sweep(
    config: "Sweep", output: str, backend: "Backend", score: bool, hidden: bool
) -> "tuple[SweepRun, Summary | None]":
    """Generate and score the clips of a sweep under a progress bar.

    Args:
        config: the sweep.
        output: folder or URL.
        backend: where clips are generated and scored.
        score: whether to score the clips.
        hidden: whether to hide the progress bar.

    Returns:
        The clips, and the summary of the scores if there are any. Without any clip there is nothing to score.
    """
    from vidguide.pipelines.sweep.run import evaluate, run

    with Progress("clips", hidden=hidden) as progress:
        result = run(config, output, backend=backend, on_status=progress.show)
    if not score or len(result.failed) == len(result.paths):
        return result, None
    with Progress("scored clips", hidden=hidden) as progress:
        return result, evaluate(config, output, backend=backend, on_status=progress.show)


app.add_typer(evaluate_app, name="evaluate")
EXAMPLES: dict[Callable[..., None], str] = {
    tune: "vidguide tune -g nag --over tau=1:4 --prompts prompts.jsonl -o tuning",
    calibrate: "vidguide calibrate tiny -g emag:decay=0.8 --count 8 -o calibration",
    plan: "vidguide plan -m wan2.1-14b-lightx2v -g nag --card rtx4090",
    serve: "vidguide serve sweep --model tiny-4step --port 7860",
    locate: "vidguide locate tiny --profile",
    models: "vidguide models --json",
    doctor: "vidguide doctor --json",
}
for command, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(command)


if __name__ == "__main__":
    app()
