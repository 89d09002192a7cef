"""What an adapter declares of a model family, and the registry of the declarations."""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Inputs = dict[str, Any]  # keyword arguments of a transformer's forward


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of video transformers: data, and the few short functions that differ.

    Attributes:
        name: what people call it.
        transformers: class names of its transformers in diffusers, matched exactly.
        blocks: dotted path of the list of blocks.
        self_attention, text_attention: attention modules within a block; the video's own, and the one where
            the video's queries meet the text's keys.
        self_kernel, text_kernel: which kernel call of that attention's processor, in source order, is meant.
        text_inputs: names of the forward's arguments that carry the text.
        encode: `(pipe, prompts, inputs) -> text inputs`: encodes as the pipeline does in its own call, given the
            arguments of the call to be guided.
        one_token: `(transformer, inputs) -> inputs` of the same text over a single video token.
        grid: `(transformer, inputs) -> (F, H, W)`, the video's token grid.
        extent: what a self-attention spans: "spatial", "temporal" or "spatiotemporal".
        skip: `(args, kwargs) -> output` of a block that passes its input on.
    """

    name: str
    transformers: tuple[str, ...]
    encode: Callable[[Any, list[str], Inputs], Inputs]
    one_token: Callable[[Any, Inputs], Inputs]
    grid: Callable[[Any, Inputs], tuple[int, int, int]]
    blocks: str = "blocks"
    self_attention: str = "attn1"
    text_attention: str = "attn2"
    self_kernel: int = -1
    text_kernel: int = -1
    text_inputs: tuple[str, ...] = ("encoder_hidden_states",)
    extent: str = "spatiotemporal"
    skip: Callable[[tuple[Any, ...], Inputs], Any] = lambda args, kwargs: args[0] if args else kwargs["hidden_states"]


@functools.cache
def families() -> dict[str, Family]:
    """Every registered family by transformer class name, read from the modules in `vidguide.adapters`.

    Raises:
        ValueError: two declarations name the same transformer.
    """
    package = importlib.import_module("vidguide.adapters")
    known: dict[str, Family] = {}
    for module in pkgutil.iter_modules(package.__path__, "vidguide.adapters."):
        for family in getattr(importlib.import_module(module.name), "FAMILIES", ()):
            for transformer in family.transformers:
                if transformer in known:
                    raise ValueError(f"{transformer}: declared by {known[transformer].name} and by {family.name}")
                known[transformer] = family
    return known


def family_of(transformer: Any) -> Family:
    """The family of a transformer, by its class name.

    Raises:
        LookupError: none is registered; the message lists those that are.
    """
    name = type(transformer).__name__
    try:
        return families()[name]
    except KeyError:
        known = ", ".join(sorted(families()))
        raise LookupError(
            f"no adapter for {name}; there is one for {known}. To add it, see 'Add a family' in CONTRIBUTING.md"
        ) from None
