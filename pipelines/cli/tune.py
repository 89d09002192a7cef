"""The command `vidguide tune`: guidance settings for a model, found by trials."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidguide.eval.cli import (
    Aesthetic,
    Clip,
    Dino,
    GpusPerWorker,
    Hps,
    Jobs,
    PickScore,
    Raft,
    Ray,
    Vqa,
    Workers,
    XClip,
    split_names,
)
from vidguide.eval.report.console import console, errors, resumable
from vidguide.eval.report.progress import Progress
from vidguide.pipelines.cli.options import (
    AsJson,
    Device,
    Dtype,
    Frames,
    Model,
    Negative,
    Quiet,
    Scale,
    Size,
    Steps,
    parse_size,
    plain_errors,
    show,
)
from vidguide.pipelines.cli.setup_options import setup_from, setup_options

if TYPE_CHECKING:
    from vidguide.pipelines.tuning.run import TuningRun


@setup_options
def tune(
    options: dict[str, Any],
    ranges: Annotated[list[str] | None, typer.Argument(help="Further ranges, as for --over.")] = None,
    model: Model = "tiny",
    guidance: Annotated[
        str, typer.Option("--guidance", "-g", help="Guidance to tune, with parameters that do not change.")
    ] = "nag",
    over: Annotated[
        list[str] | None,
        typer.Option(help="Ranges: scale=4:16, scale=1:30:log, 'norm=[token,clip]'; several after each other."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", "-p", help="File of prompts: .txt with one per line, or .jsonl.")
    ] = None,
    negative: Negative = None,
    objective: Annotated[str, typer.Option(help="Metric to improve.")] = "world.negative_present",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Metrics that must not fall, comma-separated or repeated, each with or without :0.02 or :5%."
        ),
    ] = None,
    budget: Annotated[int, typer.Option(help="Number of clips in all.")] = 200,
    pairs: Annotated[int | None, typer.Option(help="Clips of a finished trial. Default: budget / 20.")] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Clips of a setting in the final comparison. Default: budget / 16.")
    ] = None,
    parallel: Annotated[int, typer.Option(help="Trials that run at once, with 8 clips each.")] = 4,
    reference: Annotated[str, typer.Option(help="Guidance to compare with, such as cfg:5.")] = "none",
    seed: Annotated[int, typer.Option(help="Seed of the trials, and of the first noise.")] = 0,
    cfg: Scale = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
    clip: Clip = None,
    xclip: XClip = None,
    dino: Dino = None,
    pickscore: PickScore = None,
    hps: Hps = None,
    aesthetic: Aesthetic = None,
    raft: Raft = None,
    vqa: Vqa = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; existing clips and trials remain.")] = Path(
        "tuning"
    ),
    jobs: Jobs = 1,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find guidance settings: improve a metric while others do not fall. Resumes an interrupted run.

    All clips count to the budget: without the guidance, of trials, and of the final comparison on other prompts.
    """
    with plain_errors(), resumable():
        from vidguide.eval.pool.backends import choose_backend
        from vidguide.pipelines.tuning.config import make_tuning
        from vidguide.pipelines.tuning.report import save, to_dict
        from vidguide.pipelines.tuning.run import tune as run
        from vidguide.pipelines.tuning.study import require

        require()
        if prompts is None:
            raise ValueError("prompts: is missing; give a file with one prompt per line (.txt, .jsonl)")
        encoders = dict(clip=clip, xclip=xclip, dino=dino, pickscore=pickscore, hps=hps, aesthetic=aesthetic)
        encoders |= dict(raft=raft, vqa=vqa)
        placement: dict[str, Any] = dict(device=device, dtype=dtype, setup=setup_from(options))
        tuning = make_tuning(
            model,
            guidance,
            [*(over or []), *(ranges or [])],
            prompts,
            objective,
            [name for text in keep or () for name in split_names(text) or ()],
            budget=budget,
            negative_prompt=negative,
            reference=reference,
            pairs=pairs,
            held_out=held_out,
            parallel=parallel,
            seed=seed,
            encoders={kind: given for kind, given in encoders.items() if given},
            placement=placement,
            settings=dict(guidance_scale=cfg, steps=steps, frames=frames, **parse_size(size)),
        )
        backend = choose_backend(ray, workers, gpus_per_worker, jobs)
        with Progress("clips", hidden=quiet or as_json) as progress:
            result = run(tuning, output, backend=backend, on_status=progress.show)
        files = [str(path) for path in save(result, output)]
        if as_json:
            typer.echo(json.dumps({**to_dict(result), "files": files}))
        elif not quiet:
            print_result(result)
            console.print("wrote " + ", ".join(files), markup=False, soft_wrap=True)
    for path, reason in result.failed.items():
        errors.print(f"failed: {path}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if result.failed:
        raise typer.Exit(2)


def print_result(result: "TuningRun") -> None:
    """Print the recommended settings, what changes on the held-out clips, and the commands that use them."""
    from vidguide.pipelines.tuning.report import command, notes, recommended_rows

    for line in notes(result):
        console.print(line, markup=False)
    if result.recommended:
        console.print()
        show(recommended_rows(result))
        console.print()
        for name, trial in result.recommended.items():
            console.print(f"{name}: {command(result.tuning, trial)}", markup=False, highlight=False, soft_wrap=True)
