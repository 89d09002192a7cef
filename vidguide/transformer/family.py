"""The declaration of a model family by its adapter, and the registry of all declarations."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Inputs = dict[str, Any]  # keyword arguments of a transformer's forward
Prompt = Mapping[str, Any]  # arguments of `encode_prompt` with a prompt: texts, embeddings, masks; `prompt`, if text


@dataclass(frozen=True, kw_only=True)
class Modulation:
    """How blocks modulate their text by a vector that depends on the text, such as a pooled embedding.

    Attributes:
        norms: a block's modules that turn the vector into shifts, scales and gates of its text, which is at the end of
            their tokens. A block may lack some.
        vector: the block's argument that holds the vector.
        parameters: the norms' names of that argument; each norm has one of them.
        leading: a norm's argument with the number of leading video tokens that are modulated by another vector. The
            norm returns their modulations after as many of the other tokens.
    """

    norms: tuple[str, ...]
    vector: str = "temb"
    parameters: tuple[str, ...] = ("emb",)
    leading: str | None = None


@dataclass(frozen=True, kw_only=True)
class Packed:
    """How one packed sequence holds the text, conditions, audio and video of a call, one row per token.

    Attributes:
        text_first: `inputs -> inputs` of the same call with the text's rows before all others, in which order all other
            functions receive them.
        with_text: `(inputs, text) -> inputs` of a call with another text, whose last row has the position of the
            prompt's last row; the positions of all other rows are unchanged.
        media: `inputs -> lengths` of the conditions, the audio and the video that are generated, which follow the text
            in this order.
        grid: `(inputs, length) -> (F, H, W)`, the token grid of the `length` last rows, which are the video's.
        row_arguments: a block's arguments with one row per token along their first dimension, tensors or tuples of
            tensors.
    """

    text_first: Callable[[Inputs], Inputs]
    with_text: Callable[[Inputs, Inputs], Inputs]
    media: Callable[[Inputs], tuple[int, int, int]]
    grid: Callable[[Inputs, int], tuple[int, int, int]]
    row_arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How text and video share one attention in families with joint attention.

    Attributes:
        text_first: whether the sequence is text then video; otherwise video then text.
        block_masks: a block's key masks, text last, `(B, L)` or `(B, 1, 1, L)`: names of its arguments.
        per_sample: whether the processor calls the kernel once per sample, on its valid text tokens only.
        text_blocks: `transformer -> number of blocks` that process text; None for all.
        split_attention: further attention modules of a block, whose keys are text only.
        modulation: how text is modulated by a vector that depends on the text; None where the vector depends on the
            timestep alone and is the same for both texts.
        packed: how one packed sequence holds text and video; None where blocks receive them as two arguments.
    """

    text_first: bool = False
    block_masks: tuple[str, ...] = ()
    per_sample: bool = False
    text_blocks: Callable[[Any], int] | None = None
    split_attention: tuple[str, ...] = ()
    modulation: Modulation | None = None
    packed: Packed | None = None


@dataclass(frozen=True, kw_only=True)
class Audio:
    """The audio that a family's pipelines generate with the video.

    Attributes:
        sample_rate: `(pipe, output) -> samples per second` of the waveform in a call's output.
        output: name of the waveform in the output, `(B, samples)` or `(B, channels, samples)` in -1..1.
        inputs: the forward's argument that holds the audio's latents; None in it for a video without audio.
        text_attention: those of the family's `text_attention` where the audio attends to text; empty where video and
            audio share one attention.
    """

    sample_rate: Callable[[Any, Any], int]
    output: str = "audio"
    inputs: str = "audio_hidden_states"
    text_attention: tuple[str, ...] = ()


def constant(config: Any) -> bool:
    """Return False: the text that the blocks receive is the same at every step."""
    return False


def by_step(config: Any) -> bool:
    """Return True: the text that the blocks receive depends on the timestep."""
    return True


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of video transformers, as data and a few short functions.

    Attributes:
        name: its usual name.
        transformers: class names of its transformers in diffusers, matched exactly.
        encode: `(pipe, prompt, inputs) -> text inputs`, encoded as the pipeline encodes a negative prompt; `inputs` are
            the arguments of the call to guide. None where diffusers has modular pipelines only.
        blocks: dotted paths of the lists of blocks, in the order in which `layers` counts them.
        self_attention, text_attention: attention modules of a block: the video's self-attention, and those where the
            video (or audio) attends to text. A block may lack some.
        self_softmax: whether self-attention is a softmax kernel; perturbed passes require one.
        self_kernel, text_kernel: index of the kernel call in that attention's processor, in source order.
        text_inputs: names of the forward's arguments that hold the text; the first is its embeddings.
        text_masks: those of them that are masks `(B, L)`, each with the name of the embeddings that it masks.
        text_extras: those that `negative_prompt_embeds` may omit; the prompt's value is used for them.
        text_blocks: names of the blocks of modular pipelines that encode the text: the encoder last, after those that
            prepare the pictures that it reads.
        state_fields: text inputs by name, each with the field of the state of modular pipelines that holds it; empty
            where diffusers has no such pipeline.
        text_varies: `config -> bool`, whether the text's keys and values, or what modulates it, depend on the step.
        joint: how text and video share joint attention; None for cross-attention.
        audio: the audio that its pipelines generate with the video; None where they generate none.
        appends_negative: whether its pipelines append negative embeddings to the prompt's even without classifier-free
            guidance.
        cfg: how its pipelines run classifier-free guidance: "two_calls", the conditional one first, or "batched", with
            the conditional half last.
        reads_cache: `inputs -> bool`, whether a call denoises under the prompt, and reads the key-value cache that
            others write: only such calls are guided, and what needs an extra pass is refused. None without a cache.
        layout: axes of `hidden_states`; `L` for packed tokens.
        lists: names of arguments that are lists of one tensor per sample; `hidden_states` and predictions are such too.
        grid_axes: axes of further arguments that depend on the video's or audio's grid.
        one_token_inputs: values of arguments that replace the call's when the video is cut to one token.
        adjust_one_token: `(transformer, inputs, small) -> small`, further changes for one token; `small` has the text.
        extent: what a self-attention spans: "spatial", "temporal" or "spatiotemporal".
        temporal_blocks: dotted path of a list of blocks whose self-attention spans time only.
        side_blocks: dotted paths of lists of blocks outside the video's stream that attend to the text too. `layers`
            counts them after all others; perturbed passes do not change them.
        block_output: names of the arguments that a block returns updated; more than one are returned as a tuple.
        uncond: `(inputs, text) -> inputs` of the pipelines' unconditional call, where more than the text differs.
        refuse: `transformer -> reason` why this model cannot be guided; None if it can.
        min_diffusers: the first release of diffusers that has it; "0.36" for older ones.
        stg_layers: layers that the authors of STG skip, by the number of blocks of the model; empty where none is
            published (github junhahyung/STGuidance, `inference.py` of each model).
    """

    name: str
    transformers: tuple[str, ...]
    encode: Callable[[Any, Prompt, Inputs], Inputs] | None = None
    blocks: tuple[str, ...] = ("blocks",)
    self_attention: str = "attn1"
    text_attention: tuple[str, ...] = ("attn2",)
    self_softmax: bool = True
    self_kernel: int = -1
    text_kernel: int = -1
    text_inputs: tuple[str, ...] = ("encoder_hidden_states",)
    text_masks: Mapping[str, str] = field(default_factory=dict)
    text_extras: tuple[str, ...] = ()
    text_blocks: tuple[str, ...] = ("text_encoder",)
    state_fields: Mapping[str, str] = field(default_factory=dict)
    text_varies: Callable[[Any], bool] = constant
    joint: Joint | None = None
    audio: Audio | None = None
    appends_negative: bool = False
    cfg: str = "two_calls"
    reads_cache: Callable[[Inputs], bool] | None = None
    layout: str = "BCFHW"
    lists: tuple[str, ...] = ()
    grid_axes: Mapping[str, str] = field(default_factory=dict)
    one_token_inputs: Mapping[str, Any] = field(default_factory=dict)
    adjust_one_token: Callable[[Any, Inputs, Inputs], Inputs] | None = None
    extent: str = "spatiotemporal"
    temporal_blocks: str | None = None
    side_blocks: tuple[str, ...] = ()
    block_output: tuple[str, ...] = ("hidden_states",)
    uncond: Callable[[Inputs, Inputs], Inputs] | None = None
    refuse: Callable[[Any], str | None] | None = None
    min_diffusers: str = "0.36"
    stg_layers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def adapters() -> list[Any]:
    """Import and return the modules in `vidguide.adapters`."""
    package = importlib.import_module("vidguide.adapters")
    modules = pkgutil.iter_modules(package.__path__, "vidguide.adapters.")
    return [importlib.import_module(module.name) for module in modules]


@functools.cache
def refused() -> dict[str, str]:
    """Return the class names of known unsupported transformers, each with the reason."""
    return {name: reason for module in adapters() for name, reason in getattr(module, "REFUSED", {}).items()}


@functools.cache
def families() -> dict[str, Family]:
    """Return every registered family by transformer class name, read from the modules in `vidguide.adapters`.

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


def register_family(family: Family) -> None:
    """Add a family that is declared outside of `vidguide.adapters`, for this process.

    Raises:
        ValueError: a transformer of that name has a family.

    Examples:
        >>> from vidguide.transformer.family import Family, families, register_family
        >>> register_family(Family(name="Mine", transformers=("MyTransformer3DModel",)))
        >>> families()["MyTransformer3DModel"].text_attention
        ('attn2',)
    """
    taken = [name for name in family.transformers if name in families() or name in refused()]
    if taken:
        raise ValueError(f"register_family({family.name!r}): {', '.join(taken)} has a declaration")
    families().update(dict.fromkeys(family.transformers, family))


def family_of(transformer: Any) -> Family:
    """Return the family of a transformer, by its class name.

    Raises:
        LookupError: no family is registered, or the transformer or this model is unsupported; with the reason.
    """
    name = type(transformer).__name__
    family = families().get(name)
    if name in refused():
        raise LookupError(f"{name} is known and not supported: {refused()[name]}")
    if family is None:
        known = ", ".join(sorted(families()))
        raise LookupError(
            f"no adapter for {name}; there is one for {known}. To add it, declare a Family and pass "
            "it to register_family, as examples/new_family.py does"
        )
    reason = family.refuse(transformer) if family.refuse else None
    if reason is not None:
        raise LookupError(f"{name}: {reason}")
    return family


def blocks_of(family: Family, transformer: Any) -> list[tuple[str, int, Any]]:
    """Return `(path of the list, index in it, block)` for every block, in the order in which `layers` counts."""
    paths = (*family.blocks, *family.side_blocks)
    return [(path, i, block) for path in paths for i, block in enumerate(transformer.get_submodule(path))]
