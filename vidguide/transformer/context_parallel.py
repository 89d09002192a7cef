"""Context parallel: a sequence that lies on several ranks, and what a guidance measures over all of it.

What diffusers splits, and between which modules, is its own affair (`_cp_plan` of each model): attention sites see
this rank's share of the queries, with all heads. A negative's keys and values every rank has whole, so its attention
needs no exchange; what is taken over frames, clips or the whole sequence is gathered here.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vidguide.transformer.diffusers_hooks import bypassed, hooks_of
from vidguide.transformer.family import Family

if TYPE_CHECKING:
    from vidguide.guidances.base import Guidance

HOOKS = ("context_parallel",)  # the module of diffusers whose hooks split and gather


class Ranks:
    """The ranks on which a transformer's sequence lies: one, or those of `enable_parallelism`."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    @property
    def config(self) -> Any:
        """diffusers' ContextParallelConfig at work, None without."""
        return getattr(getattr(self.transformer, "_parallel_config", None), "context_parallel_config", None)

    @property
    def several(self) -> bool:
        """Whether a rank has only a share of the sequence."""
        return self.config is not None

    def check(self, guidance: "Guidance", family: Family) -> None:
        """Refuse, before the first step of a run, attention of text and video together, and heads that are split.

        Raises:
            ValueError: naming the guidance, the family, why and what to do.
        """
        if not guidance.attends or guidance.neutral:
            return
        parallel = getattr(self.transformer, "_parallel_config", None)
        if getattr(parallel, "tensor_parallel_config", None) is not None:  # not in 0.36
            raise ValueError(
                f"{type(guidance).__name__} under tensor parallel: a rank has some of the heads, and what is measured "
                "is of all; split the sequence by ContextParallelConfig instead, or guide it without enable_parallelism"
            )
        if self.several and family.joint is not None:
            raise ValueError(
                f"{type(guidance).__name__} under context parallel: in {family.name} text and video share one "
                "sequence, which diffusers does not say how to split, nor where a second text would lie; guide it "
                "without enable_parallelism"
            )

    def whole(self, share: Tensor, dim: int = 1) -> Tensor:
        """The whole sequence, from every rank's share of it."""
        if not self.several:
            return share
        from diffusers.hooks import context_parallel as upstream

        config, share = self.config, share.contiguous()
        if any(getattr(config, name, False) for name in ("ulysses_anything", "ring_anything")):  # not in 0.36
            return upstream.PartitionAnythingSharder.unshard_anything(share, dim, config._flattened_mesh)
        return upstream.EquipartitionSharder.unshard(share, dim, config._flattened_mesh)

    def share(self, whole: Tensor, dim: int = 1) -> Tensor:
        """This rank's share of a whole sequence."""
        if not self.several:
            return whole
        group = self.config._flattened_mesh.get_group()
        ranks, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
        return whole.tensor_split(ranks, dim)[rank]

    def mean(self, means: Tensor, count: int) -> Tensor:
        """Means over the whole sequence, from every rank's means over its `count` tokens."""
        if not self.several:
            return means
        sums = torch.cat([means.double() * count, means.new_tensor([count], dtype=torch.float64)])
        torch.distributed.all_reduce(sums, group=self.config._flattened_mesh.get_group())
        return (sums[:-1] / sums[-1]).to(means.dtype)

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Within, every rank runs the model by itself."""
        if not self.several:
            yield
            return
        processors = {id(one): one for module in self.transformer.modules() if (one := parallel_processor(module))}
        configs = [(one, one._parallel_config) for one in processors.values()]
        with ExitStack() as stack:
            stack.enter_context(bypassed(hooks_of(self.transformer, HOOKS)))
            try:
                for processor, _ in configs:
                    processor._parallel_config = None
                yield
            finally:
                for processor, config in configs:
                    processor._parallel_config = config


def parallel_processor(module: nn.Module) -> Any:
    """The processor of an attention that knows of its ranks."""
    processor = getattr(module, "processor", None)
    return processor if getattr(processor, "_parallel_config", None) is not None else None
