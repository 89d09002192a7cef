"""NAG's combination of positive and negative features, and the tokens over which its norms are taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidguide.attention.site import KernelCall
from vidguide.functional.lse_merge import AttentionWithLse, merge
from vidguide.functional.nag import l1_norm, nag, nag_blend, nag_extrapolate, norm_limit
from vidguide.functional.nag_chunks import nag_in_chunks
from vidguide.functional.upcast import upcast
from vidguide.kernels import dispatch as kernels
from vidguide.transformer.context_parallel import ContextParallel

SAMPLED_TOKENS = 256  # most tokens per clip whose change is measured for the trace, so that tracing costs no sweep
NORMS = ("token", "frame", "clip")


@dataclass(frozen=True)
class Group:
    """How many consecutive tokens of an attention's queries share one norm.

    Attributes:
        norm: "token", "frame" or "clip".
        samples: clips in the rows that are combined; factorised models have a row for each frame of a clip.
        grid: the clip's token grid (F, H, W).
        parallel: the ranks on which the tokens lie, where several share a norm and not all are here.
    """

    norm: str = "token"
    samples: int = 1
    grid: tuple[int, int, int] = (1, 1, 1)
    parallel: ContextParallel | None = None

    def limit(self, tau: float) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return the limit of norms `(B, L, 1, 1)` whose tokens lie on several ranks, None where all are here."""
        if self.parallel is None:
            return None
        parallel = self.parallel

        def limit(positive: Tensor, guided: Tensor) -> Tensor:
            norms = parallel.gather(positive), parallel.gather(guided)
            return parallel.shard(norm_limit(*norms, tau, self.size(norms[0])))

        return limit

    def size(self, features: Tensor) -> int:
        """Return how many consecutive tokens of features (or norms) `(B, L, H, D)` share a norm.

        Raises:
            ValueError: frames are meant, and the queries are more than the frames of the token grid.
        """
        if self.norm == "token":
            return 1
        clip = max(features.shape[0] // self.samples, 1) * features.shape[1]
        if self.norm == "clip":
            return clip
        frames, height, width = self.grid
        if clip != frames * height * width:
            raise ValueError(
                f"NAG(norm='frame'): {clip} tokens attend here where the clip's grid has {frames} x {height} x {width} "
                "(history or conditions go along); use norm='token' or norm='clip'"
            )
        return height * width


@dataclass(frozen=True)
class Combination:
    """NAG's combination of positive and negative features (arXiv 2505.21179), for the queries of one attention.

    Attributes:
        strength: scale, tau and alpha.
        group: which queries share a norm.
    """

    strength: tuple[float, float, float]
    group: Group = field(default_factory=Group)

    def __call__(self, kernel: KernelCall, positive: Tensor, negative: Tensor) -> Tensor:
        """Combine features `(B, L, H, D)` of the same queries on the prompt and on the negative.

        Sets `kernel.measured` to means over the tokens: share limited by tau, `|z - z+|_1`, `|z+|_1`.
        """
        if self.group.parallel is None and kernels.supports(positive, negative) and kernels.fits_registers(positive):
            output, kernel.measured = kernels.nag(positive, negative, self.strength, self.group.size(positive))
            return output
        group = 1 if self.group.parallel is not None else self.group.size(positive)
        limit, chunk = self.group.limit(self.strength[1]), kernels.chunk_size(positive, negative)
        if chunk is None:
            guided = nag(positive, negative, *self.strength, group, limit)
            sample = sampled(guided.output)
        else:
            guided = nag_in_chunks(positive, negative, self.strength, chunk, group, limit)
            sample = self.sample(positive, negative, guided.factor)
        kernel.measured = torch.stack([guided.clamped, *change(upcast(sampled(positive)), sample)])
        return guided.output.to(positive.dtype)

    def sample(self, positive: Tensor, negative: Tensor, factor: Tensor) -> Tensor:
        """Return the output of a sample of the tokens, not rounded."""
        positive, negative, factor = (sampled(tensor) for tensor in (positive, negative, factor))
        return nag_blend(positive, nag_extrapolate(positive, negative, self.strength[0]), factor, self.strength[2])

    def merged(
        self, kernel: KernelCall, video: AttentionWithLse, positive: AttentionWithLse, negative: AttentionWithLse
    ) -> Tensor:
        """Combine the same features, given as attention over the video's keys and over either text's."""
        if kernels.supports(video[0], positive[0], negative[0]) and kernels.fits_registers(video[0]):
            group = self.group.size(video[0])
            output, kernel.measured = kernels.nag_merged(video, positive, negative, self.strength, group)
            return output
        return self(kernel, merge(video, positive), merge(video, negative))


class PackedCombination:
    """NAG's combination for the media of a packed sequence, which have norms of their own.

    Args:
        parts: consecutive numbers of tokens, each with the combination of their features.
    """

    def __init__(self, parts: Sequence[tuple[int, Combination]]) -> None:
        self.parts = [(tokens, combine) for tokens, combine in parts if tokens]

    def __call__(self, kernel: KernelCall, positive: Tensor, negative: Tensor) -> Tensor:
        """Combine features `(B, L, H, D)`; what is measured are means over all tokens."""
        lengths, outputs, measured = [tokens for tokens, _ in self.parts], [], []
        features = zip(positive.split(lengths, 1), negative.split(lengths, 1), strict=True)
        for (tokens, combine), (part, negative_part) in zip(self.parts, features, strict=True):
            outputs.append(combine(kernel, part, negative_part))
            if kernel.measured is not None:
                measured.append(kernel.measured * (tokens / sum(lengths)))
        kernel.measured = torch.stack(measured).sum(0)
        return torch.cat(outputs, 1)

    def merged(
        self, kernel: KernelCall, video: AttentionWithLse, positive: AttentionWithLse, negative: AttentionWithLse
    ) -> Tensor:
        """Combine the same features, given as attention over the media's keys and over either text's."""
        return self(kernel, merge(video, positive), merge(video, negative))


def sampled(tokens: Tensor) -> Tensor:
    """Select at most about SAMPLED_TOKENS of the tokens `(B, L, ...)`, evenly spaced."""
    return tokens[:, :: max(tokens.shape[1] // SAMPLED_TOKENS, 1)]


def change(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean L1 change of the features and their mean L1 norm."""
    return l1_norm(after - before).mean().float(), l1_norm(before).mean().float()
