"""What an adapter declares of a model family, and the registry of the declarations."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Inputs = dict[str, Any]  # keyword arguments of a transformer's forward


@dataclass(frozen=True, kw_only=True)
class Modulation:
    """How blocks modulate their text by a vector that depends on the text, as by a pooled embedding.

    Attributes:
        norms: a block's modules that turn the vector into shifts, scales and gates of its text, which lies at the end
            of their tokens. A block may lack some.
        vector: the block's argument that carries the vector.
        parameters: what the norms call it; each has one of them.
        leading: what a norm calls the number of leading video tokens that are modulated by another vector. It returns
            their modulations after as many of the other tokens'.
    """

    norms: tuple[str, ...]
    vector: str = "temb"
    parameters: tuple[str, ...] = ("emb",)
    leading: str | None = None


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How text and video share one attention in a family of joint attention.

    Attributes:
        text_first: whether the sequence is text then video; otherwise video then text.
        block_masks: a block's arguments that mask the keys, with the text's at the end, as `(B, L)` or `(B, 1, 1, L)`.
        ragged: whether the processor calls the kernel once per sample, on its valid text tokens only.
        text_blocks: `transformer -> number of blocks` that carry text; all but where a decoder follows them.
        split_attention: further attention modules of a block, whose keys are the prompt's and the negative's text.
        modulation: how text is modulated by a vector that depends on the text; None where the vector depends on the
            timestep alone, so that one serves both texts.
    """

    text_first: bool = False
    block_masks: tuple[str, ...] = ()
    ragged: bool = False
    text_blocks: Callable[[Any], int] | None = None
    split_attention: tuple[str, ...] = ()
    modulation: Modulation | None = None


def constant(config: Any) -> bool:
    """The text that reaches the blocks is the same at every step."""
    return False


def by_step(config: Any) -> bool:
    """The text that reaches the blocks depends on the timestep."""
    return True


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of video transformers: data, and the few short functions that differ.

    Attributes:
        name: what people call it.
        transformers: class names of its transformers in diffusers, matched exactly.
        encode: `(pipe, prompts, inputs) -> text inputs`: encodes as the pipeline does in its own call, given the
            arguments of the call to be guided.
        blocks: dotted paths of the lists of blocks, in the order in which `layers` counts them.
        self_attention, text_attention: attention modules within a block; the video's own, and those where the
            video's (or audio's) queries meet the text's keys. A block may lack some.
        self_softmax: whether self-attention is by a softmax kernel, without which weak passes cannot perturb it.
        self_kernel, text_kernel: which kernel call of that attention's processor, in source order, is meant.
        text_inputs: names of the forward's arguments that carry the text; the first is its embeddings.
        text_masks: those of them that are masks `(B, L)`, each with the embeddings that it masks.
        text_extras: those that ready embeddings may leave out, for the prompt's own to serve.
        text_varies: `config -> bool`, whether the text's keys and values, or what modulates it, depend on the step.
        joint: for joint attention, how text and video lie in it; None for cross-attention.
        cfg: how its pipelines run their own classifier-free guidance: "two_calls", the conditional one first, or
            "batched", with the conditional half last.
        layout: axes of `hidden_states`; `L` for tokens that the pipeline has packed.
        cuts: further arguments that lie on the video's or audio's grid, with their axes.
        instead: arguments to be replaced when the video is cut to one token.
        adjust: `(transformer, inputs, small) -> small`, what else one token needs.
        extent: what a self-attention spans: "spatial", "temporal" or "spatiotemporal".
        temporal_blocks: dotted path of a list of blocks whose self-attention spans time only.
        side_blocks: dotted paths of lists of blocks that attend to the text too, but beside the video's stream:
            layers after all others for NAG, and left alone by weak passes.
        block_output: which of its arguments a block returns anew; more than one makes a tuple.
        uncond: `inputs -> arguments` that its pipelines give the unconditional call otherwise, besides the text.
        refuse: `transformer -> reason` why this very model cannot be guided; None when it can.
        since: the first release of diffusers that has it; "0.36" for those that were there before.
        stg_layers: layers that the authors of STG skip, by the number of blocks of the model; empty where none is
            published (github junhahyung/STGuidance, `inference.py` of each model).
    """

    name: str
    transformers: tuple[str, ...]
    encode: Callable[[Any, list[str], Inputs], Inputs]
    blocks: tuple[str, ...] = ("blocks",)
    self_attention: str = "attn1"
    text_attention: tuple[str, ...] = ("attn2",)
    self_softmax: bool = True
    self_kernel: int = -1
    text_kernel: int = -1
    text_inputs: tuple[str, ...] = ("encoder_hidden_states",)
    text_masks: Mapping[str, str] = field(default_factory=dict)
    text_extras: tuple[str, ...] = ()
    text_varies: Callable[[Any], bool] = constant
    joint: Joint | None = None
    cfg: str = "two_calls"
    layout: str = "BCFHW"
    cuts: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, Any] = field(default_factory=dict)
    adjust: Callable[[Any, Inputs, Inputs], Inputs] | None = None
    extent: str = "spatiotemporal"
    temporal_blocks: str | None = None
    side_blocks: tuple[str, ...] = ()
    block_output: tuple[str, ...] = ("hidden_states",)
    uncond: Callable[[Inputs], Inputs] | None = None
    refuse: Callable[[Any], str | None] | None = None
    since: str = "0.36"
    stg_layers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def adapters() -> list[Any]:
    """The modules in `vidguide.adapters`."""
    package = importlib.import_module("vidguide.adapters")
    return [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(package.__path__, "vidguide.adapters.")
    ]


@functools.cache
def refused() -> dict[str, str]:
    """Transformers that are known and left out, each with the reason."""
    return {name: reason for module in adapters() for name, reason in getattr(module, "REFUSED", {}).items()}


@functools.cache
def families() -> dict[str, Family]:
    """Every registered family by transformer class name, read from the modules in `vidguide.adapters`.

    Raises:
        ValueError: two declarations name the same transformer.
    """
    known: dict[str, Family] = {}
    for module in adapters():
        for family in getattr(module, "FAMILIES", ()):
            for transformer in family.transformers:
                if transformer in known:
                    raise ValueError(f"{transformer}: declared by {known[transformer].name} and by {family.name}")
                known[transformer] = family
    return known


def family_of(transformer: Any) -> Family:
    """The family of a transformer, by its class name.

    Raises:
        LookupError: none is registered, or the transformer is left out or this model refused; the message says why.
    """
    name = type(transformer).__name__
    family = families().get(name)
    if name in refused():
        raise LookupError(f"{name} is known and not supported: {refused()[name]}")
    if family is None:
        known = ", ".join(sorted(families()))
        raise LookupError(
            f"no adapter for {name}; there is one for {known}. To add it, see 'Add a family' in CONTRIBUTING.md"
        )
    reason = family.refuse(transformer) if family.refuse else None
    if reason is not None:
        raise LookupError(f"{name}: {reason}")
    return family


def blocks_of(family: Family, transformer: Any) -> list[tuple[str, int, Any]]:
    """Path of the list, index in it, and block, for every block in the order in which `layers` counts."""
    paths = (*family.blocks, *family.side_blocks)
    return [(path, i, block) for path in paths for i, block in enumerate(transformer.get_submodule(path))]
