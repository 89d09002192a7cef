"""plan(): what a call needs, from the configurations of a model: tokens, FLOPs, memory by phase, and time on a card."""

import dataclasses
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vidguide.guidances.base import Guidance
from vidguide.guidances.s2_guidance import S2Guidance
from vidguide.pipelines.loading.load import DTYPES, choose_device, choose_pipeline, resolve
from vidguide.pipelines.loading.set_up import MEMORY_FACTOR
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.planning.blueprint import Blueprint, build, components_of, read_blueprint
from vidguide.pipelines.planning.cards import RESERVED, Card, card_named, seconds
from vidguide.pipelines.planning.counters import Cost, fake
from vidguide.pipelines.planning.rehearsal import TEXT_TOKENS, Key, Rehearsal, Size
from vidguide.pipelines.planning.resident import count_parameters, prepare, resident, transfers, weight_bytes
from vidguide.pipelines.request.call_settings import ARGUMENT_NAMES
from vidguide.pipelines.request.setup import TRANSFORMERS, Setup
from vidguide.pipelines.request.validation import check_size
from vidguide.pipelines.request.visual_inputs import takes

GIB = 1 << 30
# Setups that need less and less memory, tried in turn where one does not fit.
SMALLER: tuple[dict[str, Any], ...] = (
    {"offload": "model"},
    {"offload": "model", "vae_tiling": True},
    {"offload": "model", "vae_tiling": True, "layerwise_casting": "float8_e4m3fn"},
    {"offload": "leaves", "vae_tiling": True, "stream": True},
)


@dataclass(frozen=True)
class Component:
    """Weights of a component: its number of parameters, and their memory in the setup."""

    name: str
    kind: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Phase:
    """A phase of a call.

    Attributes:
        name: what runs. component: the component that does.
        weights: bytes of weights on the device. intermediate: largest memory of intermediate results, in bytes.
        cost: of the phase; for the denoiser of one step.
    """

    name: str
    component: str
    weights: int
    intermediate: int
    cost: Cost

    @property
    def peak(self) -> int:
        """Largest memory in bytes."""
        return self.weights + self.intermediate


@dataclass(frozen=True)
class Guided:
    """What a guidance adds.

    Attributes:
        name: of the guidance.
        flops, once: FLOPs in a step in which it acts, and once a run, in percent of those of an unguided step.
        peak: memory of intermediate results in bytes.
    """

    name: str
    flops: float
    once: float
    peak: int


@dataclass(frozen=True)
class Plan:
    """What a call needs.

    Attributes:
        model: name. source: of the configurations. size: of the call. setup: with its offload decided.
        tokens, text: number of tokens of the video and of the text. components: weights.
        phases: in the order in which they run. guided: by guidance.
        card: name; None without one. seconds: estimate by phase, the denoiser for all steps; empty without a card.
        fits: whether it fits the card; None without one. advice: options of a setup that fits; None if none is needed.
    """

    model: str
    source: str
    size: Size
    setup: Setup
    dtype: str
    tokens: int
    text: int
    components: tuple[Component, ...]
    phases: tuple[Phase, ...]
    guided: tuple[Guided, ...]
    card: str | None
    seconds: dict[str, float]
    fits: bool | None
    advice: dict[str, Any] | None

    @property
    def peak(self) -> int:
        """Largest memory over all phases, in bytes."""
        return max(phase.peak for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        values = dataclasses.asdict(self)
        for phase, row in zip(self.phases, values["phases"], strict=True):
            row["peak"] = phase.peak
        return {**values, "setup": self.setup.values(), "peak": self.peak}


def plan(
    model: str | os.PathLike[str] | Model = "tiny",
    *,
    guidance: Sequence[Guidance] = (),
    setup: Setup | None = None,
    width: int | None = None,
    height: int | None = None,
    frames: int | None = None,
    steps: int | None = None,
    max_sequence_length: int | None = None,
    dtype: str = "bfloat16",
    card: str | Card | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> Plan:
    """Return what a call needs, without loading weights. Of a repo id only small JSON files are downloaded.

    The pipeline's own code is called for two steps on fake tensors. FLOPs are those that `FlopCounterMode` counts, and
    memory is that of all tensors that are alive, on the CPU with the columns of 3D convolutions. Not counted are LoRAs
    and, of `cache` and `compile`, what they save. Guidances with a negative prompt are counted with one whose tokens
    are all distinct: upper bounds.

    Args:
        model: shipped name, preset, local pipeline folder, Hugging Face repo id, or a :class:`Model`.
        guidance: guidances, each counted by itself.
        setup: quantization, offload, layerwise casting and tiling; None for the defaults.
        width, height, frames, steps: None for those of the model, then those of the pipeline.
        max_sequence_length: of the text in tokens; None for the default of the pipeline.
        dtype: "bfloat16", "float16" or "float32".
        card: name in `CARDS`, or a card, for the time, and for whether it fits.
        device: "cpu" or "cuda", whose workspaces are counted; None for "cuda" with a card, else the fastest available.
        revision: branch, tag or commit of a repo id.

    Raises:
        ValueError: a wrong argument, or a model that cannot be planned, with the reason.
        OSError: the configurations cannot be read.

    Examples:
        >>> from vidguide.pipelines.planning.plan import plan
        >>> plan("tiny", dtype="float32").tokens
        112
    """
    declared, setup = resolve(model), setup or Setup()
    if revision is not None:
        declared = dataclasses.replace(declared, revision=revision)
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    if setup.gguf is not None:
        raise ValueError(f"gguf={setup.gguf!r}: cannot be planned: its size is not in the configurations")
    if any(isinstance(one, S2Guidance) for one in guidance):
        raise ValueError("S2Guidance: cannot be planned: it draws the blocks that it skips; STG costs about the same")
    chosen = card_named(card) if isinstance(card, str) else card
    blueprint = read_blueprint(declared)
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device={device!r}: must be cpu or cuda, whose workspaces are counted")
    on_cpu = chosen is None and (device or choose_device(None).type) == "cpu"
    size = size_of(declared, blueprint, dict(width=width, height=height, frames=frames, steps=steps))
    size = dataclasses.replace(size, text=max_sequence_length)
    what = (blueprint, declared, size, DTYPES[dtype], on_cpu)
    measured = measure(what, guidance, tiled=bool(setup.vae_tiling or declared.tiling))
    placed = Placed(blueprint, setup, DTYPES[dtype], measured, chosen, declared.tiling)
    components, arranged = placed.components(), placed.phases()
    fits = None if chosen is None else placed.fits(chosen)
    if fits is False and measured.tiled is None:
        placed.measured = dataclasses.replace(measured, tiled=measure(what, (), tiled=True).tiled)
    return Plan(
        model=model.source if isinstance(model, Model) else os.fspath(model),
        source=blueprint.source,
        size=size,
        setup=placed.setup,
        dtype=dtype,
        tokens=measured.tokens,
        text=measured.text,
        components=components,
        phases=arranged,
        guided=measured.guided,
        card=card if card is None or isinstance(card, str) else card.source,
        seconds={} if chosen is None else times(chosen, placed, size.steps),
        fits=fits,
        advice=advise(placed, chosen, size) if chosen is not None and not fits else None,
    )


def size_of(model: Model, blueprint: Blueprint, given: dict[str, int | None]) -> Size:
    """Return the size of a call from arguments, the model's settings, and the defaults of its pipeline.

    Raises:
        ValueError: a size that the VAE and the patches do not divide, or that has no default.
    """
    pipeline = choose_pipeline(model, dict(blueprint.index), {})
    defaults = inspect.signature(pipeline.__call__).parameters
    values = {}
    for name, value in given.items():
        known = next((each for each in ARGUMENT_NAMES.get(name, (name,)) if each in defaults), None)
        value = value or getattr(model, name) or (None if known is None else defaults[known].default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r}: must be a positive integer")
        values[name] = value
    return Size(**values, image=model.image == "must" or takes(pipeline, "image") == "must")


@dataclass(frozen=True)
class Measured:
    """What a call on fake tensors cost.

    Attributes:
        costs: by phase and component, in order. tiled: of the decode in tiles; None if it was not measured.
        guided: what each guidance adds. tokens, text: of the video, and of the text.
    """

    costs: dict[Key, Cost]
    tiled: Cost | None
    guided: tuple[Guided, ...]
    tokens: int
    text: int


def measure(
    what: tuple[Blueprint, Model, Size, torch.dtype, bool], guidances: Sequence[Guidance], tiled: bool
) -> Measured:
    """Call the pipeline on fake tensors: without guidance, with each, and with a decode in tiles.

    Args:
        what: blueprint, declaration, size and dtype, and whether the workspaces are those of the CPU.
        guidances: guidances, each counted by itself.
        tiled: whether to measure the decode in tiles.

    Raises:
        ValueError: the pipeline cannot be called on fake tensors, with its error.
    """
    blueprint, model, size, dtype, on_cpu = what
    pipeline = choose_pipeline(model, dict(blueprint.index), {"image": size.image})
    with fake(TEXT_TOKENS), refused(pipeline.__name__):
        rehearsal = Rehearsal(blueprint, pipeline, model, size, dtype, on_cpu)
        check_size(rehearsal.pipe, dataclasses.asdict(size))
        costs = rehearsal.costs()
        if ("step", "transformer") not in costs:
            raise ValueError(f"{pipeline.__name__}: cannot be planned: its transformer was not called")
        guided = tuple(describe(each, rehearsal.steps(with_negative(each)), costs) for each in guidances)
        small = rehearsal.tiled() if tiled else None
        return Measured(costs, small, guided, rehearsal.tokens, rehearsal.text)


@contextmanager
def refused(pipeline: str) -> Iterator[None]:
    """Raise what a pipeline raises on fake tensors as ValueError, naming the pipeline."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # of any pipeline's code, which was not written for fake tensors
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{pipeline}: cannot be planned: {reason}") from error


def with_negative(guidance: Guidance) -> Guidance:
    """Return a guidance with a negative prompt, where it takes one."""
    if getattr(guidance, "negative_prompt", "") is not None:
        return guidance
    return dataclasses.replace(guidance, negative_prompt="text")  # type: ignore[call-arg]


def describe(guidance: Guidance, costs: list[Cost], plain: Mapping[Key, Cost]) -> Guided:
    """Return what a guidance adds to an unguided call, from the costs of its first step and a later one."""
    first, later, plain_step = costs[0], costs[-1], plain["step", "transformer"]
    percent = 100 / plain_step.flops
    return Guided(
        name=type(guidance).__name__,
        flops=(later.flops - plain_step.flops) * percent,
        once=(first.flops - later.flops) * percent,
        peak=max(cost.peak for cost in costs),
    )


class Placed:
    """The weights of a pipeline in a setup, on the meta device.

    Args:
        blueprint: classes and configurations.
        setup: setup; "auto" offloads by model where the weights times 1.3 exceed the memory of the card.
        dtype: of the model.
        measured: costs by phase.
        card: for "auto"; None without one.
        tiling: whether the model decodes in tiles, unless the setup says otherwise.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        setup: Setup,
        dtype: torch.dtype,
        measured: Measured,
        card: Card | None,
        tiling: bool = False,
    ) -> None:
        self.blueprint, self.dtype, self.measured, self.card, self.tiling = blueprint, dtype, measured, card, tiling
        with torch.device("meta"):
            self.modules = {name: build(blueprint, name, dtype) for name in components_of(blueprint.index)}
        for name, module in self.modules.items():
            prepare(module, name, setup, dtype)
        self.weights = {
            name: weight_bytes(module, name, blueprint.index[name][0], setup, dtype)
            for name, module in self.modules.items()
        }
        if setup.offload == "auto":
            full = card is not None and sum(self.weights.values()) * MEMORY_FACTOR > card.memory * GIB
            setup = dataclasses.replace(setup, offload="model" if full else "none")
        self.setup = setup
        self.tiled = setup.vae_tiling is not False and bool(setup.vae_tiling or tiling)

    def components(self) -> tuple[Component, ...]:
        """Return the weights by component."""
        return tuple(
            Component(name, str(self.blueprint.index[name][1]), count_parameters(module), self.weights[name])
            for name, module in self.modules.items()
        )

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of a call, in order."""
        phases = []
        for (name, part), cost in self.measured.costs.items():
            if (name, part) == ("decode", "vae") and self.tiled and self.measured.tiled is not None:
                cost = self.measured.tiled
            experts = [each for each in TRANSFORMERS if each in self.modules] if part == "transformer" else [part]
            phases += [
                Phase(name, each, resident(each, self.modules, self.weights, self.setup), cost.peak, cost)
                for each in experts
            ]
        return tuple(phases)

    def fits(self, card: Card) -> bool:
        """Return whether all phases fit a card, with what is reserved."""
        return max(phase.peak for phase in self.phases()) <= (card.memory - RESERVED) * GIB


def times(card: Card, placed: Placed, steps: int) -> dict[str, float]:
    """Return the estimated seconds by phase, of the denoiser for all steps, half of which each of two experts does."""
    phases = placed.phases()
    experts = sum(phase.name == "step" for phase in phases)
    total: dict[str, float] = {}
    for phase in phases:
        calls = steps / experts if phase.name == "step" else 1
        copied = transfers(placed.setup.offload, placed.weights[phase.component], phase.weights)
        once = seconds(card, phase.cost.flops, phase.cost.moved, copied, placed.setup.stream)
        total[phase.name] = total.get(phase.name, 0) + calls * once
    return total


def advise(placed: Placed, card: Card, size: Size) -> dict[str, Any] | None:
    """Return the first options of `SMALLER` that fit a card; None if none does."""
    for options in SMALLER:
        changed = {**placed.setup.values(), "stream": False, **options}
        if "quantization" in changed:
            changed.pop("layerwise_casting", None)
        changed = {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}
        smaller = Placed(placed.blueprint, Setup(**changed), placed.dtype, placed.measured, card, placed.tiling)
        if smaller.fits(card):
            return smaller.setup.values()
    return None
