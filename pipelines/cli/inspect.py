"""Commands that describe models and the environment, and generate no clip."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vidguide.eval.report.console import console
from vidguide.pipelines.cli.options import (
    AsJson,
    Device,
    Frames,
    Quiet,
    Size,
    Steps,
    fits,
    parse_size,
    plain_errors,
    show,
    table_of,
)


def locate(
    model: Annotated[
        str, typer.Argument(help="Shipped name, preset, pipeline folder or Hugging Face repo id.")
    ] = "tiny",
    list_families: Annotated[bool, typer.Option("--list", help="List the supported model families instead.")] = False,
    measure_heads: Annotated[
        bool,
        typer.Option("--profile", help="Measure instead how much each head attends within its frame and along time."),
    ] = False,
    prompt: Annotated[
        str, typer.Option(help="Prompt of the run that --profile measures.")
    ] = "a large circle moving right",
    at: Annotated[float, typer.Option(help="Fraction of the run at which --profile measures, 0 to 1.")] = 0.5,
    plot: Annotated[Path | None, typer.Option(help="SVG to write: the heads that --profile measures.")] = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List the attention modules of a model: text attention, and self-attention over space, time or both."""
    with plain_errors():
        if plot is not None:
            check_plot(plot, measure_heads)
        if measure_heads:
            settings: dict[str, Any] = dict(model=model, steps=steps, frames=frames, device=device, **parse_size(size))
            show_heads(prompt, at, progress=not (quiet or as_json), as_json=as_json, plot=plot, **settings)
            return
        rows = family_rows() if list_families else site_rows(model, progress=not (quiet or as_json))
        if as_json:
            typer.echo(json.dumps(rows))
        elif list_families:
            show_families(rows)
        else:
            show(rows)


def family_rows() -> list[dict[str, str]]:
    """Return one row of text cells per supported model family."""
    from vidguide.guiding.locate import listing

    return listing()


def show_families(rows: list[dict[str, str]]) -> None:
    """Print the families as one table, or where it is too wide as a narrow one for each combination of guidances."""
    if fits(table_of(rows)):
        show(rows)
        return
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        name, transformers, text, *guidances, release, present = row.items()
        title = "; ".join(f"{key}: {value}" for key, value in (*guidances, present))
        narrow = {"text": text[1].split()[0].removesuffix("-attention"), "since": release[1].removeprefix("from ")}
        groups.setdefault(title, []).append({**dict([name, transformers]), **narrow})
    for title, members in groups.items():
        console.print(title, style="bold", markup=False, highlight=False)
        show(members)
        console.print()
    console.print("text: attention in which it enters; since: first release of diffusers; here: installed one")


def site_rows(model: str, progress: bool) -> list[dict[str, str]]:
    """Return one row of text cells per attention site of a model."""
    from vidguide.guiding.locate import locate as locate_sites
    from vidguide.pipelines.loading.load import load

    sites = locate_sites(load(model, device="cpu", progress=progress))
    return [{name: str(value) for name, value in vars(site).items()} for site in sites]


def check_plot(plot: Path, measure_heads: bool) -> None:
    """Refuse a picture without a measurement, and a file that cannot be written."""
    from vidguide.tracing.heat_map import check_svg

    if not measure_heads:
        raise ValueError(f"plot={str(plot)!r}: needs --profile")
    check_svg(plot, "plot")


def show_heads(prompt: str, at: float, as_json: bool, plot: Path | None, **settings: Any) -> None:
    """Measure the heads of a model, print them as a table or as JSON, and draw them where a picture is asked for."""
    from vidguide.pipelines.cli.head_map import LEGEND, count_extents, head_plot, head_table, profile

    heads = profile(prompt, at, **settings)
    if plot is not None:
        head_plot(heads).save(plot)
    if as_json:
        typer.echo(json.dumps([{**vars(head), "lifts": head.lifts, "extent": head.extent} for head in heads]))
    else:
        console.print(head_table(heads), crop=False)
        console.print(count_extents(heads))
        console.print(LEGEND)
        if plot is not None:
            console.print(f"wrote {plot}", markup=False, highlight=False)


def models(as_json: AsJson = False) -> None:
    """List the shipped models and the presets of few-step models, with their settings."""
    with plain_errors():
        from vidguide.pipelines.models.presets import MODELS
        from vidguide.pipelines.models.table import rows

        if as_json:
            typer.echo(json.dumps({name: model.values() for name, model in MODELS.items()}))
        else:
            show(rows(MODELS))


def doctor(as_json: AsJson = False) -> None:
    """Check the environment: versions, devices, kernels, encoders, families and shipped models."""
    with plain_errors():
        from vidguide.pipelines.cli.doctor import report

        topics = report()
        if as_json:
            typer.echo(json.dumps(topics))
            return
        for topic, results in topics.items():
            show([{topic: name, "": value} for name, value in results.items()])
            console.print()
