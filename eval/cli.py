"""The command line: `python -m vidguide.eval` and `vidguide evaluate` are this one command."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from typer.core import TyperCommand

console, errors = Console(), Console(stderr=True)


class Evaluate(TyperCommand):
    """A command whose wrong use ends with exit code 1, as 2 says that some clips failed."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except Exception as error:
            usage: Any = error
            if getattr(usage, "exit_code", None) == 2:  # of typer's own click or of an installed one
                usage.exit_code = 1
            raise


def names(given: str | None) -> list[str] | None:
    """Comma-separated names as a list."""
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def show(header: list[str], rows: list[list[str]], columns: list[str] | None = None) -> None:
    """Print a table; what is empty for all is left out, as are columns that were not asked for."""
    kept = [i for i, name in enumerate(header) if name in (columns or header) and any(row[i] for row in rows)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in kept:
        table.add_column(header[index], no_wrap=header[index] != "verdict", overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    console.print(table)


def evaluate(
    clips: Annotated[list[Path] | None, typer.Argument(help="Videos, frame folders, or folders of them.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", "-p", help="JSON or JSONL: texts by clip.")] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", "-m", help="Ids or namespaces, by comma.")] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Reference and other: two arms of CLIPS, or without CLIPS two folders of clips or results."),
    ] = None,
    again: Annotated[Path | None, typer.Option(help="The reference arm made again, for the noise floor.")] = None,
    primary: Annotated[str | None, typer.Option(help="Metrics declared beforehand, by comma.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("evaluation"),
    clip: Annotated[str | None, typer.Option(help="CLIP model: folder or hub id[@revision].")] = None,
    xclip: Annotated[str | None, typer.Option(help="X-CLIP model, likewise.")] = None,
    dino: Annotated[str | None, typer.Option(help="DINO model, likewise.")] = None,
    device: Annotated[str, typer.Option(help="Of these models.")] = "cpu",
    fps: Annotated[float | None, typer.Option(help="Where files have no frame rate, or a wrong one.")] = None,
    reader: Annotated[str, typer.Option(help="Of video files: av or decord.")] = "av",
    partial: Annotated[bool, typer.Option("--partial", help="Score what damaged files still hold, marked.")] = False,
    memory: Annotated[int, typer.Option(min=1, help="MiB that the frames of one clip may take.")] = 2048,
    fresh: Annotated[bool, typer.Option("--fresh", help="Score again what the folder has already.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the metrics and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")] = False,
) -> None:
    """Measure clips, and what one arm did better than another. Exit codes: 0 all scored, 1 usage, 2 some clips failed,
    3 nothing scored."""
    from vidguide.eval import evaluating
    from vidguide.eval.encoders import load
    from vidguide.eval.scoring import Settings, exit_code
    from vidguide.eval.verdict import PRIMARY

    if listing:
        rows = evaluating.listing()
        if as_json:
            typer.echo(json.dumps(rows))
        else:
            show(list(rows[0]), [list(row.values()) for row in rows])
        return
    models = {"clip": clip, "xclip": xclip, "dino": dino}
    try:
        with Progress(console=errors, disable=quiet or as_json, transient=True) as progress:
            task = progress.add_task("scoring", total=None)

            def tell(clip: str, total: int) -> None:
                progress.update(task, total=total, advance=1, description=Path(clip).name)

            summary = evaluating.evaluate(
                clips or [],
                manifest=prompts,
                metrics=names(metrics),
                arms=compare,
                again=again,
                primary=names(primary) or PRIMARY,
                encoders={kind: load(kind, model, device) for kind, model in models.items() if model},
                output=output,
                settings=Settings(fps=fps, reader=reader, partial=partial, max_bytes=memory << 20),
                resume=not fresh,
                tell=tell,
            )
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(summary.plain()))
    elif not quiet:
        report(summary, output)
    for clip, reason in summary.failures:
        errors.print(f"failed: {clip}: {reason}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(exit_code(summary.rows))


def report(summary: Any, output: Path) -> None:
    """Print the paired table, or the means, and the notes."""
    from vidguide.eval.markdown import comparison_table, standing_table, unmeasured

    if found := summary.comparison:
        header, rows = comparison_table(summary)
        show(header, rows, ["metric", "verdict", found.reference, found.other])
    else:
        header, rows = standing_table(summary)
        show(header, rows, ["metric", "arm", "mean", "95% interval", "clips", "undefined", "failed"])
    for note in (*summary.notes, *unmeasured(summary)):
        console.print(note, highlight=False, markup=False)
    console.print(f"wrote {output}/report.html, report.md, results.csv, results.jsonl", highlight=False, markup=False)
