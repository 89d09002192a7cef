"""One transformer under guidance: its family and its attention sites, which do not change while it is guided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidguide.attention.site import AttentionSite
from vidguide.attention.sites import blocks_in_order, find_self_sites, find_text_sites
from vidguide.transformer.block_replay import BlockReplay
from vidguide.transformer.context_parallel import ContextParallel
from vidguide.transformer.family import Family, family_of
from vidguide.transformer.text_stream import TEXT


@dataclass(frozen=True, eq=False)
class GuidedModel:
    """A transformer and its attention sites.

    Attributes:
        transformer: as the pipeline holds it. original: the module itself, where `transformer` is a compiled module.
        family: its declaration. depth: number of its blocks. parallel: the ranks over which its sequence is split.
        text_sites: where the video attends to text, numbered.
        self_sites: where the video attends to itself, by extent and layer; empty where no guidance needs them.
    """

    transformer: Any
    original: Any
    family: Family
    depth: int
    parallel: ContextParallel
    text_sites: Mapping[int, AttentionSite]
    self_sites: Mapping[str, Mapping[int, AttentionSite]]

    @property
    def sites(self) -> list[AttentionSite]:
        """All sites; in joint attention one site is the text's and the video's."""
        every = [*self.text_sites.values(), *(site for sites in self.self_sites.values() for site in sites.values())]
        return list(dict.fromkeys(every))


def guided_model(transformer: Any, self_attention: bool) -> tuple[GuidedModel, BlockReplay]:
    """Find the sites of a transformer, and prepare its blocks for replay.

    Args:
        self_attention: whether the sites of the video's self-attention, and block replay, are needed.

    Raises:
        LookupError: the transformer is of no registered family, or its processors cannot be intercepted.
        ValueError: self-attention is needed and linear.
    """
    original = getattr(transformer, "_orig_mod", transformer)  # under torch.compile
    family = family_of(original)
    parallel = ContextParallel(original)
    depth = sum(len(original.get_submodule(path)) for path in family.blocks)
    text_sites = find_text_sites(family, original)
    blocks, self_sites = BlockReplay([], (), False), {}
    if self_attention:
        two_streams = family.joint is not None and family.joint.packed is None
        outputs = family.block_output + ((TEXT,) if two_streams else ())
        blocks = BlockReplay(blocks_in_order(family, original), outputs, two_streams)
        self_sites = find_self_sites(family, blocks, text_sites, parallel)
    return GuidedModel(transformer, original, family, depth, parallel, text_sites, self_sites), blocks
