"""locate(): where the attention of a video transformer is, and what it spans."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from vidguide.family import family_of
from vidguide.guiding import transformers_of


@dataclass(frozen=True)
class Location:
    """An attention module: its block, its dotted path, what it attends to, what it spans, and its heads."""

    layer: int
    path: str
    role: str
    extent: str
    heads: int
    processor: str


def locate(model: Any) -> list[Location]:
    """The attention sites of a transformer, or of a pipeline's (the paths of a second one begin with its name).

    Raises:
        LookupError: the transformer is of no registered family; the message lists those that are.
    """
    transformers = [model] if isinstance(model, nn.Module) else transformers_of(model)
    prefixes = ["", "transformer_2."]
    return [
        location
        for prefix, transformer in zip(prefixes, transformers, strict=False)
        for location in _locate(getattr(transformer, "_orig_mod", transformer), prefix)
    ]


def _locate(transformer: Any, prefix: str) -> list[Location]:
    family = family_of(transformer)
    roles = ((family.self_attention, "self", family.extent), (family.text_attention, "text", family.extent))
    found = []
    for layer, block in enumerate(transformer.get_submodule(family.blocks)):
        for name, role, extent in roles:
            attention = block.get_submodule(name)
            path = f"{prefix}{family.blocks}.{layer}.{name}"
            found.append(Location(layer, path, role, extent, int(attention.heads), type(attention.processor).__name__))
    return found
