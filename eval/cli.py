"""The command line: `python -m vidguide.eval` and `vidguide evaluate` are this one set of commands."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from vidguide.eval.report.console import Command, Commands, console, errors, plain_errors, show


def names(given: str | None) -> list[str] | None:
    """Comma-separated names as a list."""
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


app = typer.Typer(
    cls=Commands, add_completion=False, help="Measure clips, and what one arm of them did better than another."
)
Clips = Annotated[list[Path] | None, typer.Argument(help="Videos, frame folders, or folders of them.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", "-p", help="JSON or JSONL: texts by clip.")]
Metrics = Annotated[str | None, typer.Option("--metrics", "-m", help="Ids or namespaces, by comma.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")]
Again = Annotated[Path | None, typer.Option(help="The reference arm made again, for the noise floor.")]
Primary = Annotated[str | None, typer.Option(help="Metrics declared beforehand, by comma.")]
Clip = Annotated[str | None, typer.Option(help="CLIP model: folder or hub id[@revision].")]
XClip = Annotated[str | None, typer.Option(help="X-CLIP model, likewise.")]
Dino = Annotated[str | None, typer.Option(help="DINO model, likewise.")]
PickScore = Annotated[str | None, typer.Option(help="PickScore model, likewise.")]
Hps = Annotated[str | None, typer.Option(help="HPS v2: its .pt file, or a CLIPModel made of it.")]
Aesthetic = Annotated[str | None, typer.Option(help="LAION's linear head (.pth), with --clip of ViT-L/14.")]
Raft = Annotated[str | None, typer.Option(help="torchvision's RAFT weights (.pth).")]
Device = Annotated[str, typer.Option(help="Of these models.")]
Fps = Annotated[float | None, typer.Option(help="Where files have no frame rate, or a wrong one.")]
Reader = Annotated[str, typer.Option(help="Of video files: av or decord.")]
Partial = Annotated[bool, typer.Option("--partial", help="Score what damaged files still hold, marked.")]
Memory = Annotated[int, typer.Option(min=1, help="MiB that the frames of one clip may take.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Score again what the folder has already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]
AsJson = Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")]
FOLDER = Path("evaluation")


@app.command(cls=Command)
def run(
    clips: Clips = None,
    prompts: Prompts = None,
    metrics: Metrics = None,
    output: Output = FOLDER,
    clip: Clip = None,
    xclip: XClip = None,
    dino: Dino = None,
    pickscore: PickScore = None,
    hps: Hps = None,
    aesthetic: Aesthetic = None,
    raft: Raft = None,
    device: Device = "cpu",
    fps: Fps = None,
    reader: Reader = "av",
    partial: Partial = False,
    memory: Memory = 2048,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure clips. Exit codes: 0 all scored, 1 usage, 2 some clips failed (listed), 3 nothing scored."""
    models = dict(clip=clip, xclip=xclip, dino=dino, pickscore=pickscore, hps=hps, aesthetic=aesthetic, raft=raft)
    reading = dict(fps=fps, reader=reader, partial=partial, max_bytes=memory << 20)
    given = dict(manifest=prompts, metrics=names(metrics), output=output, resume=not fresh)
    carry_out(clips or [], models, device, reading, given, quiet, as_json)


@app.command(cls=Command)
def compare(
    reference: Annotated[str, typer.Argument(help="An arm of CLIPS; without CLIPS a folder of clips or results.")],
    other: Annotated[str, typer.Argument(help="Likewise: what is held against it.")],
    clips: Clips = None,
    prompts: Prompts = None,
    metrics: Metrics = None,
    again: Again = None,
    primary: Primary = None,
    output: Output = FOLDER,
    clip: Clip = None,
    xclip: XClip = None,
    dino: Dino = None,
    pickscore: PickScore = None,
    hps: Hps = None,
    aesthetic: Aesthetic = None,
    raft: Raft = None,
    device: Device = "cpu",
    fps: Fps = None,
    reader: Reader = "av",
    partial: Partial = False,
    memory: Memory = 2048,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure two arms, paired by prompt and seed, and say what the other did better. Exit codes as of `run`."""
    models = dict(clip=clip, xclip=xclip, dino=dino, pickscore=pickscore, hps=hps, aesthetic=aesthetic, raft=raft)
    reading = dict(fps=fps, reader=reader, partial=partial, max_bytes=memory << 20)
    given: dict[str, Any] = dict(manifest=prompts, metrics=names(metrics), output=output, resume=not fresh)
    given |= dict(arms=(reference, other), again=again) | ({"primary": names(primary)} if primary else {})
    carry_out(clips or [], models, device, reading, given, quiet, as_json)


def carry_out(
    clips: list[Path],
    models: dict[str, str | None],
    device: str,
    reading: dict[str, Any],
    given: dict[str, Any],
    quiet: bool,
    as_json: bool,
) -> None:
    """Score, print, and end with the exit code."""
    from vidguide.eval import evaluate as evaluating
    from vidguide.eval.encoders.load import load
    from vidguide.eval.scoring.score import Settings, exit_code

    with plain_errors(), Progress(console=errors, disable=quiet or as_json, transient=True) as progress:
        task = progress.add_task("scoring", total=None)

        def tell(clip: str, total: int) -> None:
            progress.update(task, total=total, advance=1, description=Path(clip).name)

        encoders = {kind: load(kind, model, device) for kind, model in models.items() if model}
        summary = evaluating.evaluate(clips, encoders=encoders, settings=Settings(**reading), tell=tell, **given)
    if as_json:
        typer.echo(json.dumps(summary.plain()))
    elif not quiet:
        report(summary, given["output"])
    for clip, reason in summary.failures:
        errors.print(f"failed: {clip}: {reason}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(exit_code(summary.rows))


@app.command("list", cls=Command)
def listed(as_json: AsJson = False) -> None:
    """List the metrics: what each needs, under which licence its weights are, and whether it can be had here."""
    from vidguide.eval import evaluate as evaluating
    from vidguide.eval.encoders.catalogue import KINDS

    rows = evaluating.listing()
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        show(list(rows[0]), [list(row.values()) for row in rows], ["metric", "needs", "licence", "available here"])
        for kind, found in KINDS.items():
            console.print(f"{kind}: {found.example} ({found.licence})", highlight=False, markup=False, soft_wrap=True)


@app.command(cls=Command)
def export_vbench(
    clips: Clips = None,
    prompts: Prompts = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("vbench"),
) -> None:
    """Write clips as VBench's custom_input mode reads them, with its prompt file: one folder for each arm."""
    from vidguide.eval.vbench_exchange import export

    with plain_errors():
        for folder, count in export(clips or [], prompts, output).items():
            console.print(f"wrote {folder}: {count} clips and prompts.json", highlight=False, markup=False)


@app.command(cls=Command)
def import_vbench(
    results: Annotated[list[Path], typer.Argument(help="VBench's *_eval_results.json.")],
    exported: Annotated[Path, typer.Option("--exported", help="The folder that export-vbench wrote.")] = Path("vbench"),
    output: Output = FOLDER,
) -> None:
    """Take VBench's own scores of exported clips into a report, in the namespace `external`."""
    from vidguide.eval.vbench_exchange import bring

    with plain_errors():
        rows = bring(results, exported, output)
        console.print(f"wrote {output}: {len(rows)} values", highlight=False, markup=False)


def report(summary: Any, output: Path) -> None:
    """Print the paired table, or the means, and the notes."""
    from vidguide.eval.report.markdown import comparison_table, standing_table, unmeasured

    for found in summary.comparisons:
        header, rows = comparison_table(found)
        show(header, rows, ["metric", "verdict", found.reference, found.other])
    if not summary.comparisons:
        header, rows = standing_table(summary)
        show(header, rows, ["metric", "arm", "mean", "95% interval", "clips", "undefined", "failed"])
    for note in (*summary.notes, *unmeasured(summary)):
        console.print(note, highlight=False, markup=False)
    console.print(f"wrote {output}/report.html, report.md, results.csv, results.jsonl", highlight=False, markup=False)
