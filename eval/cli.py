"""The command line: the commands of `python -m vidguide.eval`, also available as `vidguide evaluate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vidguide.eval.report.console import Command, Commands, console, errors, plain_errors, resumable, show
from vidguide.eval.report.progress import Progress

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    help="Measure clips, and compare arms of them.",
    epilog="Example: vidguide evaluate run clips --prompts prompts.jsonl -o evaluation",
)
Clips = Annotated[list[Path] | None, typer.Argument(help="Videos, frame folders, or folders of them.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", "-p", help="JSON, JSONL or CSV: texts by clip.")]
Metrics = Annotated[str | None, typer.Option("--metrics", "-m", help="Metric ids or namespaces, comma-separated.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")]
Again = Annotated[Path | None, typer.Option(help="A repetition of the reference arm, for the noise floor.")]
Votes = Annotated[
    Path | None, typer.Option(help="Votes on pairs of the clips. Default: votes.jsonl in the folders of clips.")
]
Primary = Annotated[str | None, typer.Option(help="Metrics declared beforehand, comma-separated.")]
Clip = Annotated[str | None, typer.Option(help="CLIP model: folder or hub id[@revision].")]
XClip = Annotated[str | None, typer.Option(help="X-CLIP model: folder or hub id[@revision].")]
Dino = Annotated[str | None, typer.Option(help="DINO model: folder or hub id[@revision].")]
PickScore = Annotated[str | None, typer.Option(help="PickScore model: folder or hub id[@revision].")]
Hps = Annotated[str | None, typer.Option(help="HPS v2: its .pt file, or a CLIPModel converted from it.")]
Aesthetic = Annotated[str | None, typer.Option(help="LAION's linear head (.pth), with --clip of ViT-L/14.")]
Raft = Annotated[str | None, typer.Option(help="torchvision's RAFT weights (.pth).")]
Fvd = Annotated[str | None, typer.Option(help="For FVD: I3D in TorchScript (.pt), or a folder of VideoMAE.")]
Jedi = Annotated[str | None, typer.Option(help="For JEDi: a folder of V-JEPA 2.")]
Vqa = Annotated[str | None, typer.Option(help="For VQAScore: a folder of a vision-language model.")]
Device = Annotated[str, typer.Option(help="Device of these models.")]
Fps = Annotated[float | None, typer.Option(help="Frame rate of files that state none or a wrong one.")]
Reader = Annotated[str, typer.Option(help="Decoder of video files: av or decord.")]
Partial = Annotated[bool, typer.Option("--partial", help="Score the readable part of damaged files, with a warning.")]
Memory = Annotated[int, typer.Option(min=1, help="Memory limit to score one clip, in MiB.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes on this machine, each with the memory limit.")]
Ray = Annotated[
    str | None, typer.Option(help="Run on Ray: local (this machine), auto (its cluster), or a cluster's address.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Ray workers. Default: one for each GPU, or CPU core.")]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="GPUs of each Ray worker, 0.5 for two on one. Default: 1 where there are GPUs.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore results of an earlier run in the folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]
AsJson = Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")]
FOLDER = Path("evaluation")


@app.command(cls=Command, epilog="Example: vidguide evaluate run clips --metrics temporal -o evaluation")
def run(
    clips: Clips = None,
    prompts: Prompts = None,
    metrics: Metrics = None,
    votes: Votes = None,
    output: Output = FOLDER,
    clip: Clip = None,
    xclip: XClip = None,
    dino: Dino = None,
    pickscore: PickScore = None,
    hps: Hps = None,
    aesthetic: Aesthetic = None,
    raft: Raft = None,
    fvd: Fvd = None,
    jedi: Jedi = None,
    vqa: Vqa = None,
    device: Device = "cpu",
    fps: Fps = None,
    reader: Reader = "av",
    partial: Partial = False,
    memory: Memory = 2048,
    fresh: Fresh = False,
    jobs: Jobs = 1,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure clips. Exit codes: 0 all scored, 1 usage error, 2 some clips failed (listed), 3 nothing scored."""
    models = dict(clip=clip, xclip=xclip, dino=dino, pickscore=pickscore, hps=hps, aesthetic=aesthetic, raft=raft)
    models |= dict(fvd=fvd, jedi=jedi, vqa=vqa)
    settings = dict(fps=fps, reader=reader, partial=partial, max_bytes=memory << 20)
    pool = dict(jobs=jobs, ray=ray, workers=workers, gpus_per_worker=gpus_per_worker, memory=memory << 20)
    arguments = dict(manifest=prompts, metrics=split_names(metrics), votes=votes, output=output, resume=not fresh)
    score_and_report(clips or [], models, device, settings, pool, arguments, quiet, as_json)


@app.command(cls=Command, epilog="Example: vidguide evaluate compare clips/none clips/nag -o evaluation")
def compare(
    reference: Annotated[str, typer.Argument(help="An arm of CLIPS; without CLIPS a folder of clips or results.")],
    other: Annotated[str, typer.Argument(help="The arm, or folder, to compare with it.")],
    clips: Clips = None,
    prompts: Prompts = None,
    metrics: Metrics = None,
    again: Again = None,
    primary: Primary = None,
    votes: Votes = None,
    output: Output = FOLDER,
    clip: Clip = None,
    xclip: XClip = None,
    dino: Dino = None,
    pickscore: PickScore = None,
    hps: Hps = None,
    aesthetic: Aesthetic = None,
    raft: Raft = None,
    fvd: Fvd = None,
    jedi: Jedi = None,
    vqa: Vqa = None,
    device: Device = "cpu",
    fps: Fps = None,
    reader: Reader = "av",
    partial: Partial = False,
    memory: Memory = 2048,
    fresh: Fresh = False,
    jobs: Jobs = 1,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure two arms and compare them, paired by prompt and seed. Exit codes as for `run`."""
    models = dict(clip=clip, xclip=xclip, dino=dino, pickscore=pickscore, hps=hps, aesthetic=aesthetic, raft=raft)
    models |= dict(fvd=fvd, jedi=jedi, vqa=vqa)
    settings = dict(fps=fps, reader=reader, partial=partial, max_bytes=memory << 20)
    pool = dict(jobs=jobs, ray=ray, workers=workers, gpus_per_worker=gpus_per_worker, memory=memory << 20)
    arguments: dict[str, Any] = dict(manifest=prompts, metrics=split_names(metrics), votes=votes, output=output)
    arguments |= dict(arms=(reference, other), again=again, resume=not fresh)
    arguments |= {"primary": split_names(primary)} if primary else {}
    score_and_report(clips or [], models, device, settings, pool, arguments, quiet, as_json)


def split_names(text: str | None) -> list[str] | None:
    """Return comma-separated names as a list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def score_and_report(
    clips: list[Path],
    models: dict[str, str | None],
    device: str,
    settings: dict[str, Any],
    pool: dict[str, Any],
    arguments: dict[str, Any],
    quiet: bool,
    as_json: bool,
) -> None:
    """Score clips, print the results and exit.

    Args:
        clips: files and folders.
        models: weights by kind.
        device: of these models.
        settings: of :class:`vidguide.eval.scoring.score.Settings`.
        pool: arguments of :func:`vidguide.eval.pool.backends.choose_backend`.
        arguments: further ones of :func:`vidguide.eval.evaluate.evaluate`.
        quiet, as_json: what to print.
    """
    from vidguide.eval.scoring.score import exit_code

    with plain_errors(), resumable():
        summary = score(clips, models, device, settings, pool, arguments, hidden=quiet or as_json)
    if as_json:
        typer.echo(json.dumps(summary.to_dict()))
    elif not quiet:
        report(summary, arguments["output"])
    for clip, reason in summary.failures:
        errors.print(f"failed: {clip}: {reason}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(exit_code(summary.rows))


def score(
    clips: list[Path],
    models: dict[str, str | None],
    device: str,
    settings: dict[str, Any],
    pool: dict[str, Any],
    arguments: dict[str, Any],
    hidden: bool,
) -> Any:
    """Return the summary of the evaluation, with a progress bar unless it is hidden."""
    from vidguide.eval.encoders.networks import Networks
    from vidguide.eval.evaluate import evaluate
    from vidguide.eval.pool.backends import choose_backend
    from vidguide.eval.scoring.score import Settings

    encoders = Networks({kind: model for kind, model in models.items() if model}, device)
    arguments = dict(arguments, encoders=encoders, settings=Settings(**settings), backend=choose_backend(**pool))
    with Progress("scored clips", hidden=hidden) as progress:
        return evaluate(clips, on_status=progress.show, **arguments)


@app.command("list", cls=Command, epilog="Example: vidguide evaluate list --json")
def list_metrics(as_json: AsJson = False) -> None:
    """List the metrics: what each needs, the licence of its weights, and whether it can be computed here."""
    from vidguide.eval.encoders.catalogue import KINDS
    from vidguide.eval.evaluate import metric_rows

    rows = metric_rows()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    show(list(rows[0]), [list(row.values()) for row in rows], ["metric", "needs", "licence", "available here"])
    for name, kind in KINDS.items():
        console.print(f"{name}: {kind.example} ({kind.licence})", highlight=False, markup=False, soft_wrap=True)


@app.command(cls=Command, epilog="Example: vidguide evaluate export-vbench clips -p prompts.jsonl -o vbench")
def export_vbench(
    clips: Clips = None,
    prompts: Prompts = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("vbench"),
) -> None:
    """Write clips and prompts for the custom_input mode of VBench and VBench-2.0: one folder per arm."""
    from vidguide.eval.vbench_exchange import export_clips

    with plain_errors():
        for folder, count in export_clips(clips or [], prompts, output).items():
            console.print(f"wrote {folder}: {count} clips and prompts.json", highlight=False, markup=False)


@app.command(cls=Command, epilog="Example: vidguide evaluate import-vbench scores_eval_results.json")
def import_vbench(
    results: Annotated[list[Path], typer.Argument(help="*_eval_results.json of VBench or VBench-2.0.")],
    exported: Annotated[Path, typer.Option("--exported", help="The folder that export-vbench wrote.")] = Path("vbench"),
    output: Output = FOLDER,
) -> None:
    """Import scores of exported clips by VBench or VBench-2.0, as metrics named `external.`."""
    from vidguide.eval.vbench_exchange import import_scores

    with plain_errors():
        rows = import_scores(results, exported, output)
        console.print(f"wrote {output}: {len(rows)} values", highlight=False, markup=False)


def report(summary: Any, output: Path) -> None:
    """Print the paired tables, or the means per arm, and the notes."""
    from vidguide.eval.report.headline import headline
    from vidguide.eval.report.preference_tables import REPORT_ONLY, preference_notes, preference_tables
    from vidguide.eval.report.tables import INTERVAL, arm_table, change_table, set_table, unmeasured_notes

    for comparison in summary.comparisons:
        console.print(headline(comparison), highlight=False, markup=False)
        show(*change_table(comparison))
        if comparison.sets:
            show(*set_table(comparison), ["set of clips", "distance or difference", INTERVAL])
    if not summary.comparisons:
        header, rows = arm_table(summary)
        show(header, rows, ["metric", "arm", "mean", "95% interval", "clips", "undefined", "failed"])
    for title, header, rows in preference_tables(summary.preference):
        console.print(title, highlight=False, markup=False)
        show(header, rows, [name for name in header if name not in REPORT_ONLY])
    for note in (*preference_notes(summary.preference), *summary.notes, *unmeasured_notes(summary)):
        console.print(note, highlight=False, markup=False)
    console.print(f"wrote {output}/report.html, report.md, results.csv, results.jsonl", highlight=False, markup=False)
