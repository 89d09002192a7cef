"""Commands that tell of models and of this machine, and generate nothing."""

import json
from typing import Annotated, Any

import typer

from vidguide.eval.report.console import console
from vidguide.pipelines.cli.options import AsJson, Device, Frames, Quiet, Size, Steps, parse_size, plain_errors, show


def locate(
    model: Annotated[str, typer.Argument(help="Shipped name, preset, pipeline folder or hub id.")] = "tiny",
    every: Annotated[
        bool, typer.Option("--list", help="List the model families there are adapters for instead.")
    ] = False,
    heads: Annotated[
        bool, typer.Option("--profile", help="Measure instead which heads attend within their frame, or along time.")
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
        from vidguide.guiding.locate import listing
        from vidguide.pipelines.loading.load import load

        sites = [] if every else find(load(model, device="cpu", progress=not as_json))
        rows = listing() if every else [{name: str(value) for name, value in vars(site).items()} for site in sites]
        if as_json:
            typer.echo(json.dumps(rows))
        else:
            show(rows)


def show_heads(prompt: str, at: float, as_json: bool, **settings: Any) -> None:
    """Measure a model's heads and print them as a picture, or as JSON."""
    from vidguide.pipelines.cli.head_map import ABOUT, counts, picture, profile

    found = profile(prompt, at, **settings)
    if as_json:
        typer.echo(json.dumps([{**vars(head), "lifts": head.lifts, "extent": head.extent} for head in found]))
    else:
        console.print(picture(found), crop=False)
        console.print(counts(found))
        console.print(ABOUT)


def models(as_json: AsJson = False) -> None:
    """List the models that ship and the presets of few-step models: what each is, and how it is run."""
    with plain_errors():
        from vidguide.pipelines.models.presets import MODELS
        from vidguide.pipelines.models.table import rows

        if as_json:
            typer.echo(json.dumps({name: model.values() for name, model in MODELS.items()}))
        else:
            show(rows(MODELS))


def doctor(as_json: AsJson = False) -> None:
    """Versions, devices, encoders, families and shipped models: what works here."""
    with plain_errors():
        from vidguide.pipelines.cli.doctor import report

        topics = report()
        if as_json:
            typer.echo(json.dumps(topics))
            return
        for topic, facts in topics.items():
            show([{topic: name, "": value} for name, value in facts.items()])
