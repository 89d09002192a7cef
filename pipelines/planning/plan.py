"""plan(): what a call needs, from the configurations of a model: tokens, FLOPs, memory by phase, and time on a card."""

import dataclasses
import inspect
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vidguide.guidances.base import Guidance
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.guidances.s2_guidance import S2Guidance
from vidguide.pipelines.loading.load import DTYPES, choose_pipeline, resolve
from vidguide.pipelines.loading.set_up import MEMORY_FACTOR
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.planning.blueprint import Blueprint, build, components_of, read_blueprint
from vidguide.pipelines.planning.cards import RESERVED, Card, card_named, seconds
from vidguide.pipelines.planning.counters import Cost, fake
from vidguide.pipelines.planning.phases import (
    Size,
    check_family,
    decode,
    denoise,
    encode_first_frame,
    encode_image,
    encode_text,
    grid_of,
    latent_shape,
)
from vidguide.pipelines.planning.resident import count_parameters, prepare, resident, transfers, weight_bytes
from vidguide.pipelines.request.setup import Setup

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
        tokens: of the video. components: weights. phases: in the order in which they run. guided: by guidance.
        card: name; None without one. seconds: estimate by phase, the denoiser for all steps; empty without a card.
        fits: whether it fits the card; None without one. advice: options of a setup that fits; None if none is needed.
    """

    model: str
    source: str
    size: Size
    setup: Setup
    dtype: str
    tokens: int
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
    dtype: str = "bfloat16",
    card: str | Card | None = None,
    revision: str | None = None,
) -> Plan:
    """Return what a call needs, without loading weights. Of a repo id only small JSON files are downloaded.

    FLOPs are those that `FlopCounterMode` counts, and memory that of the tensors that PyTorch's own code makes, both
    from a call on fake tensors. Not counted are LoRAs and, of `cache` and `compile`,
    what they save. Guidances with a negative prompt are counted with one whose tokens are all distinct: upper bounds.

    Args:
        model: shipped name, preset, local pipeline folder, Hugging Face repo id, or a :class:`Model`.
        guidance: guidances, each counted by itself.
        setup: quantization, offload, layerwise casting and tiling; None for the defaults.
        width, height, frames, steps: None for those of the model, then those of the pipeline.
        dtype: "bfloat16", "float16" or "float32".
        card: name in `CARDS`, or a card, for the time, and for whether it fits.
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
    check_family(blueprint.index["transformer"][1])
    size = size_of(declared, blueprint, dict(width=width, height=height, frames=frames, steps=steps))
    phases, guided, tokens = measure(
        blueprint, size, DTYPES[dtype], guidance, tiled=bool(setup.vae_tiling) or card is not None
    )
    placed = Placed(blueprint, setup, DTYPES[dtype], phases, chosen)
    components, arranged = placed.components(), placed.phases()
    fits = None if chosen is None else placed.fits(chosen)
    return Plan(
        model=model.source if isinstance(model, Model) else os.fspath(model),
        source=blueprint.source,
        size=size,
        setup=placed.setup,
        dtype=dtype,
        tokens=tokens,
        components=components,
        phases=arranged,
        guided=guided,
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
    defaults = inspect.signature(choose_pipeline(model, dict(blueprint.index), {}).__call__).parameters
    names = {"frames": "num_frames", "steps": "num_inference_steps"}
    values = {}
    for name, value in given.items():
        value = value or getattr(model, name) or defaults[names.get(name, name)].default
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r}: must be a positive integer")
        values[name] = value
    image = model.image == "must" or "ImageToVideo" in (model.pipeline or str(blueprint.index["_class_name"]))
    return Size(**values, text=int(defaults["max_sequence_length"].default), image=image)


def check_divisible(size: Size, transformer: Any, vae: Any) -> None:
    """Refuse a size that cannot be generated, with a ValueError that names it."""
    patch, scale = transformer.config.patch_size, vae.config.scale_factor_spatial
    for name, axis in (("height", 1), ("width", 2)):
        step = math.lcm(scale * patch[axis], 16)
        if getattr(size, name) % step:
            raise ValueError(f"{name}={getattr(size, name)}: must be a multiple of {step} for this model")
    if (size.frames - 1) % vae.config.scale_factor_temporal:
        step = vae.config.scale_factor_temporal
        raise ValueError(f"frames={size.frames}: must be 1 + a multiple of {step} for this model")


def measure(
    blueprint: Blueprint, size: Size, dtype: torch.dtype, guidances: Sequence[Guidance], tiled: bool
) -> tuple["Measured", tuple[Guided, ...], int]:
    """Run each phase on fake tensors.

    Returns:
        The costs by phase, what each guidance adds, and the number of video tokens.
    """
    per_token = bool(blueprint.index.get("expand_timesteps"))
    width = int(blueprint.configs["transformer"].get("text_dim", 4096))
    filled = [with_negative(each, torch.randn(1, size.text, width).to(dtype)) for each in guidances]
    with fake(size.text):
        vae: Any
        transformer: Any
        vae, transformer = (build(blueprint, name, dtype) for name in ("vae", "transformer"))
        check_divisible(size, transformer, vae)
        tokens = math.prod(grid_of(transformer, latent_shape(vae, size)))
        text = encode_text(build(blueprint, "text_encoder", dtype), size)
        costs = {"text": text, "step": denoise(transformer, vae, size, dtype, per_token)[0]}
        if size.image and transformer.config.image_dim is not None:
            costs["image"] = encode_image(build(blueprint, "image_encoder", dtype), dtype)
        if size.image:
            costs["first frame"] = encode_first_frame(vae, size)
        guided = tuple(
            describe(each, denoise(transformer, vae, size, dtype, per_token, (each,)), costs["step"]) for each in filled
        )
        costs["decode"] = decode(vae, size)
        if tiled:
            vae.enable_tiling()
            costs["tiled"] = decode(vae, size)
    return Measured(costs), guided, tokens


@dataclass(frozen=True)
class Measured:
    """Costs by phase: "text", "image", "first frame", "step", "decode" and "tiled", which is the decode in tiles."""

    costs: dict[str, Cost]


def with_negative(guidance: Guidance, embeds: torch.Tensor) -> Guidance:
    """Return a guidance with embeddings of a negative prompt, where it takes one."""
    if not isinstance(guidance, NegativePromptGuidance) and not hasattr(guidance, "negative_prompt_embeds"):
        return guidance
    return dataclasses.replace(guidance, negative_prompt=None, negative_prompt_embeds=embeds)  # type: ignore[call-arg]


def describe(guidance: Guidance, costs: list[Cost], plain: Cost) -> Guided:
    """Return what a guidance adds to an unguided step, from the costs of its first step and a later one."""
    first, later = costs[0], costs[-1]
    percent = 100 / plain.flops
    return Guided(
        name=type(guidance).__name__,
        flops=(later.flops - plain.flops) * percent,
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
    """

    def __init__(
        self, blueprint: Blueprint, setup: Setup, dtype: torch.dtype, measured: Measured, card: Card | None
    ) -> None:
        self.blueprint, self.dtype, self.measured, self.card = blueprint, dtype, measured, card
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

    def components(self) -> tuple[Component, ...]:
        """Return the weights by component."""
        return tuple(
            Component(name, str(self.blueprint.index[name][1]), count_parameters(module), self.weights[name])
            for name, module in self.modules.items()
        )

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of a call, in order."""
        costs = self.measured.costs
        experts = [name for name in ("transformer", "transformer_2") if name in self.modules]
        named = [("text", "text_encoder", "text"), ("image", "image_encoder", "image")]
        named += [("first frame", "vae", "first frame"), *(("step", name, "step") for name in experts)]
        named += [("decode", "vae", "tiled" if self.setup.vae_tiling else "decode")]
        return tuple(
            Phase(
                name,
                part,
                resident(part, self.modules, self.weights, self.setup),
                costs[cost].peak,
                costs[cost],
            )
            for name, part, cost in named
            if cost in costs
        )

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
        smaller = Placed(placed.blueprint, Setup(**changed), placed.dtype, placed.measured, card)
        if smaller.fits(card):
            return smaller.setup.values()
    return None
