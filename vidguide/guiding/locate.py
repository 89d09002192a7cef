"""locate(): the attention modules of a video transformer, and what they span."""

import importlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from vidguide.attention.sites import fixed_self_attention
from vidguide.guiding.guided_pipeline import transformers_of
from vidguide.transformer.family import Family, blocks_of, families, family_of


@dataclass(frozen=True)
class Location:
    """An attention module of a transformer.

    Attributes:
        layer: index of its block. path: its dotted path. role: what it attends to, "self", "text" or "joint" (both).
        extent: what the queries span. heads: number of heads. processor: class name of its processor.
        order: order of the sequence in joint attention, else empty.
    """

    layer: int
    path: str
    role: str
    extent: str
    heads: int
    processor: str
    order: str = ""


def locate(model: Any) -> list[Location]:
    """List the attention modules of a transformer, or of a pipeline's; paths of all but the pipeline's `transformer`
    begin with the name of the component.

    Raises:
        LookupError: the transformer is of no registered family; the message lists the registered ones.

    Examples:
        >>> from vidguide import locate
        >>> from vidguide.pipelines.loading.load import load
        >>> for location in locate(load("tiny", device="cpu", progress=False))[:2]:
        ...     print(location.path, location.role, location.extent)
        blocks.0.attn1 self spatiotemporal
        blocks.0.attn2 text spatiotemporal
    """
    transformers = [model] if isinstance(model, nn.Module) else transformers_of(model)
    return [
        location
        for transformer in transformers
        for location in _locate(getattr(transformer, "_orig_mod", transformer), _prefix(model, transformer))
    ]


def _prefix(model: Any, transformer: nn.Module) -> str:
    """Return what the paths of a transformer begin with."""
    components = (name for name in ("transformer_2", "transformer_ref") if getattr(model, name, None) is transformer)
    return next((f"{name}." for name in components), "")


def listing() -> list[dict[str, str]]:
    """List the registered families: transformer classes, kind of text attention, tested guidances, the first release of
    diffusers that has them, and whether the installed one has."""
    diffusers = importlib.import_module("diffusers")
    rows = []
    for family in {known.name: known for known in families().values()}.values():
        fixed = fixed_self_attention(family)
        missing = [name for name in family.transformers if not hasattr(diffusers, name)]
        rows.append(
            {
                "family": family.name,
                "transformers": ", ".join(family.transformers),
                "text": "joint attention" if family.joint else "cross-attention",
                "NAG, VSF, CADS": "tested",
                "CFG": "tested" if family.reads_cache is None else "no: a key-value cache",
                "EMAG, STG, PAG, SEG, TPG, S2Guidance, EnhanceAVideo": f"no: {fixed}" if fixed else "tested",
                "diffusers": f"from {family.min_diffusers}",
                "here": f"not in diffusers {diffusers.__version__}" if missing else "yes",
            }
        )
    return rows


def _locate(transformer: Any, prefix: str) -> list[Location]:
    family = family_of(transformer)
    orders = {"joint": "text, video" if family.joint and family.joint.text_first else "video, text"}
    locations = []
    for layer, (stack, index, block) in enumerate(blocks_of(family, transformer)):
        modules = dict(block.named_modules())
        for name, role in _roles(family):
            attention: Any = modules.get(name)
            if attention is not None:
                heads = getattr(attention, "heads", None) or attention.num_heads
                path, processor = f"{prefix}{stack}.{index}.{name}", processor_of(attention)
                locations.append(
                    Location(layer, path, role, family.extent, int(heads), processor, orders.get(role, ""))
                )
    for index, block in enumerate(transformer.get_submodule(family.temporal_blocks) if family.temporal_blocks else ()):
        attention = block.get_submodule(family.self_attention)
        path = f"{prefix}{family.temporal_blocks}.{index}.{family.self_attention}"
        locations.append(Location(index, path, "self", "temporal", int(attention.heads), processor_of(attention)))
    return locations


def processor_of(attention: Any) -> str:
    """Return the class name of an attention's processor, or of the attention if it has none."""
    return type(getattr(attention, "processor", attention)).__name__


def _roles(family: Family) -> list[tuple[str, str]]:
    """Return the attention modules of a block, each with its role."""
    if family.joint is not None:
        return [(name, "joint") for name in family.text_attention] + [
            (name, "text") for name in family.joint.split_attention
        ]
    return [(family.self_attention, "self"), *((name, "text") for name in family.text_attention)]
