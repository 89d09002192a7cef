"""Which attention modules of a transformer are sites, and their processors while they are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vidguide.attention.interception import SITE, Site, rebound, rebound_class
from vidguide.attention.video_tokens import Video
from vidguide.transformer.block_replay import Blocks
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.context_parallel import Ranks
from vidguide.transformer.family import Family, blocks_of


def site_of(layer: int, attention: Any, kernel: int, name: str, ragged: bool = False) -> Site:
    """A site at one of the kernel calls of an attention module."""
    own: Any = type(attention.processor)
    return Site(layer, attention, range(rebound_class(own)[1])[kernel], name, ragged)


def find_text_sites(family: Family, transformer: Any) -> dict[int, Site]:
    """Sites where text is attended to, numbered; blocks after the last that carries text have none."""
    joint = family.joint
    names = (*family.text_attention, *(joint.split_attention if joint else ()))
    blocks = blocks_of(family, transformer)
    carriers = joint.text_blocks(transformer) if joint and joint.text_blocks else len(blocks)
    ragged = joint is not None and joint.ragged
    found: list[Site] = []
    for layer, (_, _, block) in enumerate(blocks[:carriers]):
        modules = dict(block.named_modules())
        found += [site_of(layer, modules[name], family.text_kernel, name, ragged) for name in names if name in modules]
    return dict(enumerate(found))


def weak_passes(family: Family) -> bool:
    """Whether guidances with a weak pass (EMAG, STG, PAG, SEG) fit a family."""
    return family.self_softmax


def blocks_in_order(family: Family, transformer: Any) -> list[Any]:
    """The blocks of the video's stream in the order in which they run: where there are temporal ones, by turns."""
    blocks = [block for path in family.blocks for block in transformer.get_submodule(path)]
    if family.temporal_blocks is None:
        return blocks
    temporal = transformer.get_submodule(family.temporal_blocks)
    return [block for pair in zip(blocks, temporal, strict=True) for block in pair]


def find_self_sites(
    family: Family, blocks: Blocks, text_sites: dict[int, Site], batch: Batch, ranks: Ranks
) -> dict[str, dict[int, Site]]:
    """Sites where the video attends to itself, by extent and layer; in joint attention, the text's own sites.

    Raises:
        ValueError: in linear attention.
    """
    if not weak_passes(family):
        raise ValueError(
            f"EMAG, STG, PAG and SEG: weak passes know no linear attention ({family.name}); leave them out"
        )
    joint = family.joint
    name = family.text_attention[0] if joint else family.self_attention
    kernel = family.text_kernel if joint else family.self_kernel
    known = {site.layer: site for site in text_sites.values() if joint and site.name == name}
    extents = (family.extent, "temporal") if family.temporal_blocks else (family.extent,)
    found: dict[str, dict[int, Site]] = {extent: {} for extent in extents}
    for place, block in enumerate(blocks.blocks):
        layer, extent = place // len(extents), extents[place % len(extents)]
        site = known.get(layer) or site_of(layer, block.get_submodule(name), kernel, name)
        site.place, site.extent, site.video = place, extent, Video(batch, blocks.stages[place], joint, ranks)
        found[extent][layer] = site
    return found


def rebind(sites: Iterable[Site]) -> None:
    """Rebind processors, also those that the user replaced since (by `fuse_qkv_projections`, say)."""
    for site in sites:
        if site.attention.processor is not site.routed:
            site.own = site.attention.processor
            site.routed = site.attention.processor = rebound(site.own)
            site.pairs.append((site.routed, site.own))


def give_back(transformer: Any, sites: Iterable[Site]) -> None:
    """CogVideoX keeps the processors that it found when its projections were fused, for later: let them be its own."""
    kept = getattr(transformer, "original_attn_processors", None) or {}
    own = {id(routed): own for site in sites for routed, own in site.pairs}
    for name, processor in kept.items():
        kept[name] = own.get(id(processor), processor)


@contextmanager
def routed(transformer: Any, sites: list[Site]) -> Iterator[None]:
    """Route the attentions' kernel calls through their sites; on leaving, each has its own processor again."""
    try:
        for site in sites:
            setattr(site.attention, SITE, site)
        rebind(sites)
        yield
    finally:
        for site in sites:
            vars(site.attention).pop(SITE, None)
            if site.routed is not None and site.attention.processor is site.routed:
                site.attention.processor = site.own
        give_back(transformer, sites)
