"""Context parallel: a sequence split over several ranks, and measurements over the whole sequence.

Diffusers defines what is split, and between which modules (`_cp_plan` of each model): attention sites receive this
rank's shard of the queries, with all heads. Every rank has all keys and values of a negative, so their attention needs
no exchange; measurements over frames, clips or the whole sequence are gathered here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidguide.restoration import restoring
from vidguide.transformer.diffusers_hooks import disabled_hooks, hooks_of

HOOKS = ("context_parallel",)  # the module of diffusers whose hooks split and gather


class ContextParallel:
    """The ranks over which a transformer's sequence is split: one, or those of `enable_parallelism`."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    @property
    def config(self) -> Any:
        """The active ContextParallelConfig of diffusers, or None."""
        return getattr(getattr(self.transformer, "_parallel_config", None), "context_parallel_config", None)

    @property
    def active(self) -> bool:
        """Whether a rank has only a shard of the sequence."""
        return self.config is not None

    def gather(self, shard: Tensor, dim: int = 1) -> Tensor:
        """Return the whole sequence, from every rank's shard."""
        if not self.active:
            return shard
        from diffusers.hooks import context_parallel as upstream

        config, shard = self.config, shard.contiguous()
        if any(getattr(config, name, False) for name in ("ulysses_anything", "ring_anything")):  # not in 0.36
            return upstream.PartitionAnythingSharder.unshard_anything(shard, dim, config._flattened_mesh)
        return upstream.EquipartitionSharder.unshard(shard, dim, config._flattened_mesh)

    def shard(self, whole: Tensor, dim: int = 1) -> Tensor:
        """Return this rank's shard of a whole sequence."""
        if not self.active:
            return whole
        group = self.config._flattened_mesh.get_group()
        ranks, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
        return whole.tensor_split(ranks, dim)[rank]

    def mean(self, means: Tensor, count: int) -> Tensor:
        """Return means over the whole sequence, from every rank's means over its `count` tokens."""
        if not self.active:
            return means
        sums = torch.cat([means.double() * count, means.new_tensor([count], dtype=torch.float64)])
        torch.distributed.all_reduce(sums, group=self.config._flattened_mesh.get_group())
        return (sums[:-1] / sums[-1]).to(means.dtype)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the model on every rank independently within the block."""
        if not self.active:
            yield
            return
        parallel = [parallel_processor(module) for module in self.transformer.modules()]
        processors = {id(processor): processor for processor in parallel if processor is not None}
        configs = [(processor, processor._parallel_config) for processor in processors.values()]

        def restore() -> None:
            for processor, config in configs:
                processor._parallel_config = config

        with disabled_hooks(hooks_of(self.transformer, HOOKS)), restoring(restore):
            for processor, _ in configs:
                processor._parallel_config = None
            yield


def parallel_processor(module: nn.Module) -> Any:
    """Return the processor of an attention module that has a parallel config, or None."""
    processor = getattr(module, "processor", None)
    return processor if getattr(processor, "_parallel_config", None) is not None else None
