"""Find the attention sites of a transformer, and intercept their processors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vidguide.attention.interception import intercepted, intercepted_class
from vidguide.attention.site import SITE, AttentionSite
from vidguide.attention.video_tokens import VideoTokens
from vidguide.restoration import restoring
from vidguide.transformer.block_replay import BlockReplay
from vidguide.transformer.context_parallel import ContextParallel
from vidguide.transformer.family import Family, blocks_of


def attention_site(layer: int, attention: Any, kernel: int, name: str, per_sample: bool = False) -> AttentionSite:
    """Return a site at one kernel call of an attention module; `kernel` may count from the end, as -1."""
    processor_class: Any = type(attention.processor)
    return AttentionSite(layer, attention, range(intercepted_class(processor_class)[1])[kernel], name, per_sample)


def find_text_sites(family: Family, transformer: Any) -> dict[int, AttentionSite]:
    """Return the sites where text is attended to, numbered; blocks after the last one that processes text have none."""
    joint = family.joint
    names = (*family.text_attention, *(joint.split_attention if joint else ()))
    blocks = blocks_of(family, transformer)
    carriers = joint.text_blocks(transformer) if joint and joint.text_blocks else len(blocks)
    per_sample = joint is not None and joint.per_sample
    sites: list[AttentionSite] = []
    for layer, (_, _, block) in enumerate(blocks[:carriers]):
        modules = dict(block.named_modules())
        present = [name for name in names if name in modules]
        sites += [attention_site(layer, modules[name], family.text_kernel, name, per_sample) for name in present]
    for site in sites:
        if family.audio is not None and site.name in family.audio.text_attention:
            site.stream = "audio"
    return dict(enumerate(sites))


def fixed_self_attention(family: Family) -> str:
    """Return what of a family's self-attention self-guidance and EnhanceAVideo cannot change; empty if nothing."""
    if not family.self_softmax:
        return "linear attention"
    return "" if family.reads_cache is None else "a key-value cache"


def blocks_in_order(family: Family, transformer: Any) -> list[Any]:
    """Return the blocks of the video's stream in the order in which they run: spatial and temporal ones alternate."""
    blocks = [block for path in family.blocks for block in transformer.get_submodule(path)]
    if family.temporal_blocks is None:
        return blocks
    temporal = transformer.get_submodule(family.temporal_blocks)
    return [block for pair in zip(blocks, temporal, strict=True) for block in pair]


def find_self_sites(
    family: Family, blocks: BlockReplay, text_sites: dict[int, AttentionSite], parallel: ContextParallel
) -> dict[str, dict[int, AttentionSite]]:
    """Return the sites where the video attends to itself, by extent and layer; in joint attention, the text's sites.

    Raises:
        ValueError: self-attention is linear, or reads a key-value cache.
    """
    fixed = fixed_self_attention(family)
    if fixed:
        raise ValueError(
            f"EMAG, STG, PAG, SEG, TPG, S2Guidance and EnhanceAVideo: {family.name} has {fixed}, which they cannot "
            "change; leave them out"
        )
    joint = family.joint
    name = family.text_attention[0] if joint else family.self_attention
    kernel = family.text_kernel if joint else family.self_kernel
    joint_sites = {site.layer: site for site in text_sites.values() if joint and site.name == name}
    extents = (family.extent, "temporal") if family.temporal_blocks else (family.extent,)
    sites: dict[str, dict[int, AttentionSite]] = {extent: {} for extent in extents}
    for index, block in enumerate(blocks.blocks):
        layer, extent = index // len(extents), extents[index % len(extents)]
        site = joint_sites.get(layer) or attention_site(layer, block.get_submodule(name), kernel, name)
        site.execution_index, site.extent = index, extent
        site.video = VideoTokens(blocks.modes[index], joint, parallel)
        sites[extent][layer] = site
    return sites


class InterceptedProcessors:
    """The processors at some sites while they are intercepted, and those that they replace."""

    def __init__(self, transformer: Any, sites: Sequence[AttentionSite]) -> None:
        self.transformer, self.sites = transformer, sites
        self._originals: dict[int, tuple[Any, Any]] = {}  # by id of the intercepted processor: it and its original
        self._current: dict[AttentionSite, Any] = {}

    def refresh(self) -> None:
        """Intercept processors that were replaced since (by `fuse_qkv_projections`, for one)."""
        for site in self.sites:
            processor = site.attention.processor
            if processor is not self._current.get(site):
                routed = intercepted(processor)
                self._originals[id(routed)] = (routed, processor)  # before it is set: an interrupt may follow
                self._current[site] = site.attention.processor = routed

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Route the kernel calls through the sites within the block; restore the processors afterwards."""
        with restoring(self.restore):
            for site in self.sites:
                vars(site.attention)[SITE] = site
            self.refresh()
            yield

    def restore(self) -> None:
        """Restore the processors."""
        for site in self.sites:
            vars(site.attention).pop(SITE, None)
            site.attention.processor = self._original(site.attention.processor)
        self._restore_unfused()

    @contextmanager
    def reinstalled(self) -> Iterator[None]:
        """Route the kernel calls through the sites, also after :meth:`installed` has ended or in another `guide`."""
        before = [(vars(site.attention).get(SITE), site.attention.processor) for site in self.sites]

        def restore() -> None:
            for site, (former, processor) in zip(self.sites, before, strict=True):
                vars(site.attention)[SITE] = former
                if former is None:
                    del vars(site.attention)[SITE]
                site.attention.processor = processor

        with restoring(restore):
            for site in self.sites:
                vars(site.attention)[SITE] = site
                site.attention.processor = self._current[site]
            yield

    def _original(self, processor: Any) -> Any:
        return self._originals.get(id(processor), (None, processor))[1]

    def _restore_unfused(self) -> None:
        """Restore the processors that CogVideoX stores while its projections are fused."""
        stored = getattr(self.transformer, "original_attn_processors", None) or {}
        for name, processor in stored.items():
            stored[name] = self._original(processor)
