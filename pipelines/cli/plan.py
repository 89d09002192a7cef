"""The command `vidguide plan`: what a call needs, before the model is downloaded."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidguide.eval.report.console import console
from vidguide.pipelines.cli.options import AsJson, Dtype, Frames, Model, Size, Steps, parse_size, plain_errors, show
from vidguide.pipelines.cli.setup_options import setup_from, setup_options

if TYPE_CHECKING:
    from vidguide.pipelines.planning.plan import Plan


@setup_options
def plan(
    options: dict[str, Any],
    model: Model = "tiny",
    guidance: Annotated[
        list[str] | None, typer.Option("--guidance", "-g", help="Guidance, such as nag or stg; repeat for more.")
    ] = None,
    steps: Steps = None,
    frames: Frames = None,
    size: Size = None,
    dtype: Dtype = None,
    card: Annotated[str | None, typer.Option(help="Card for time and fit, such as rtx4090, a100-80gb or h100.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show tokens, FLOPs, memory by phase and time of a call, from the model's configurations, without its weights."""
    with plain_errors():
        from vidguide.pipelines.planning.plan import plan as run
        from vidguide.pipelines.request.guidance_spec import parse

        guidances = [each for spec in guidance or [] for each in parse(spec)]
        settings: dict[str, Any] = dict(steps=steps, frames=frames, card=card, dtype=dtype or "bfloat16")
        settings |= parse_size(size)
        planned = run(model, guidance=guidances, setup=setup_from(options), **settings)
        if as_json:
            typer.echo(json.dumps(planned.to_dict()))
            return
        print_plan(planned)


def print_plan(planned: "Plan") -> None:
    """Print a plan as tables."""
    size = planned.size
    console.print(
        f"{planned.model}, {size.width}x{size.height}, {size.frames} frames, {size.steps} steps, {planned.dtype}: "
        f"{planned.tokens} video tokens, {planned.text} text tokens",
        markup=False,
    )
    console.print(f"configurations: {planned.source}", markup=False)
    for rows in (component_rows(planned), phase_rows(planned), guidance_rows(planned)):
        if rows:
            console.print()
            show(rows)
    for line in verdict(planned):
        console.print(line, markup=False, soft_wrap=True)


def gib(size: float) -> str:
    """Return bytes as GiB, or as MiB below 0.1 GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def component_rows(planned: "Plan") -> list[dict[str, str]]:
    """Return one row per component."""
    return [
        {
            "weights": component.name,
            "class": component.kind,
            "parameters": f"{component.parameters / 1e6:,.1f} M",
            "memory": gib(component.bytes),
        }
        for component in planned.components
    ]


def phase_rows(planned: "Plan") -> list[dict[str, str]]:
    """Return one row per phase."""
    return [
        {
            "phase": f"{phase.name} ({phase.component})",
            "TFLOPs": f"{phase.cost.flops / 1e12:,.3f}",
            "moved": gib(phase.cost.moved),
            "weights on the device": gib(phase.weights),
            "intermediate": gib(phase.intermediate),
            "peak": gib(phase.peak),
        }
        for phase in planned.phases
    ]


def guidance_rows(planned: "Plan") -> list[dict[str, str]]:
    """Return one row per guidance."""
    return [
        {
            "guidance": each.name,
            "FLOPs of a step": f"{each.flops:+.1f}%",
            "once a run": f"{each.once:+.1f}% of a step",
            "intermediate": gib(each.peak),
        }
        for each in planned.guided
    ]


def verdict(planned: "Plan") -> list[str]:
    """Return lines on the time on a card, and on whether the call fits it."""
    if planned.card is None:
        return [f"peak {gib(planned.peak)} without workspaces; --card estimates the time"]
    from vidguide.pipelines.planning.cards import BANDWIDTH_EFFICIENCY, CARDS, EFFICIENCY, RESERVED

    card = CARDS[planned.card.lower()]
    parts = ", ".join(f"{name} {value:.3g} s" for name, value in planned.seconds.items())
    lines = [
        f"{planned.card}, {card.flops / 1e12:.0f} TFLOPS at {EFFICIENCY:.0%} and {card.bandwidth / 1e9:.0f} GB/s at "
        f"{BANDWIDTH_EFFICIENCY:.0%} (assumed), unguided: {parts}; all steps count as step",
        f"peak {gib(planned.peak)} with offload={planned.setup.offload!r}, of {card.memory:.0f} GiB less "
        f"{RESERVED:.0f} reserved: {'fits' if planned.fits else 'does not fit'}",
    ]
    if not planned.fits:
        fitting = "no setup that was tried does" if planned.advice is None else f"fits with {planned.advice}"
        lines.append(fitting)
    return lines
