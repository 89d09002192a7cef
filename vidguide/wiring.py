"""Which attention modules of a transformer are sites, and their processors while they are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vidguide.family import Family, blocks_of
from vidguide.seam import SITE, Site, rebound, rebound_class


def site_of(layer: int, attention: Any, kernel: int, name: str) -> Site:
    """A site at one of the kernel calls of an attention module."""
    own: Any = type(attention.processor)
    return Site(layer, attention, range(rebound_class(own)[1])[kernel], name)


def find_text_sites(family: Family, transformer: Any) -> dict[int, Site]:
    """Sites where text is attended to, numbered; blocks after the last that carries text have none."""
    joint = family.joint
    names = (*family.text_attention, *(joint.split_attention if joint else ()))
    blocks = blocks_of(family, transformer)
    carriers = joint.text_blocks(transformer) if joint and joint.text_blocks else len(blocks)
    found: list[Site] = []
    for layer, (_, _, block) in enumerate(blocks[:carriers]):
        modules = dict(block.named_modules())
        found += [site_of(layer, modules[name], family.text_kernel, name) for name in names if name in modules]
    return dict(enumerate(found))


def weak_passes(family: Family) -> bool:
    """Whether guidances with a weak pass (EMAG, STG, PAG) fit a family."""
    return family.joint is None and family.self_softmax


def find_self_sites(family: Family, blocks: list[Any]) -> dict[int, Site]:
    """Sites where the video attends to itself, by layer.

    Raises:
        ValueError: in joint attention, where a module has one site, which is the text's; in linear attention.
    """
    if not weak_passes(family):
        what = "joint attention yet" if family.joint else "linear attention"
        raise ValueError(f"EMAG, STG and PAG: weak passes know no {what} ({family.name}); leave them out")
    name = family.self_attention
    return {
        layer: site_of(layer, block.get_submodule(name), family.self_kernel, name) for layer, block in enumerate(blocks)
    }


def rebind(sites: Iterable[Site]) -> None:
    """Rebind processors, also those that the user replaced since (by `fuse_qkv_projections`, say)."""
    for site in sites:
        if site.attention.processor is not site.routed:
            site.own = site.attention.processor
            site.routed = site.attention.processor = rebound(site.own)


@contextmanager
def routed(sites: list[Site]) -> Iterator[None]:
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
