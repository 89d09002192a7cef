"""NAG's combination of positive and negative features, and over which tokens its norms are taken."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vidguide.attention.site import KernelCall
from vidguide.functional.formulas import l1_norm, nag_extrapolate, nag_limit, norm_limit
from vidguide.functional.lse_merge import Told, merge
from vidguide.kernels import dispatch as kernels
from vidguide.transformer.context_parallel import ContextParallel

SAMPLED_TOKENS = 256  # most tokens per clip whose change is measured for the trace, so that tracing costs no sweep
NORMS = ("token", "frame", "clip")


class Strength(Protocol):
    """The parameters that an edit takes from NAG."""

    @property
    def scale(self) -> float: ...

    @property
    def tau(self) -> float: ...

    @property
    def alpha(self) -> float: ...


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

    def limit(self, positive: Tensor, guided: Tensor, tau: float) -> Tensor:
        """NAG's factor for each token of `(B, L, H, D)` features, :func:`vidguide.functional.formulas.nag_limit`."""
        if self.parallel is None:
            return nag_limit(positive, guided, tau, self.size(positive))
        bound, norm = (self.parallel.gather(l1_norm(features)) for features in (positive, guided))
        return self.parallel.shard(norm_limit(bound, norm, tau, self.size(bound)))

    def size(self, features: Tensor) -> int:
        """Consecutive tokens of `(B, L, H, D)` features that share a norm.

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


class Combine:
    """NAG's combination of positive and negative features."""

    def __init__(self, nag: Strength, group: Group) -> None:
        self.scale, self.tau, self.alpha = float(nag.scale), float(nag.tau), float(nag.alpha)
        self.strength, self.group = (self.scale, self.tau, self.alpha), group

    def combine(self, kernel: KernelCall, positive: Tensor, negative: Tensor) -> Tensor:
        """Return guided features `(B, L, H, D)`, from those of the same queries on the prompt and on the negative.

        Sets `kernel.measured` to means over the tokens: share held by tau, `|z - z+|_1`, `|z+|_1`.
        """
        if self.group.parallel is None and kernels.fit(positive, negative) and kernels.small(positive):
            output, kernel.measured = kernels.nag(positive, negative, self.strength, self.group.size(positive))
            return output
        guided = nag_extrapolate(positive, negative, self.scale)
        factor = self.group.limit(positive, guided, self.tau)
        wide = positive.to(guided.dtype)
        output = torch.lerp(wide, guided * factor, self.alpha)
        kernel.measured = torch.stack([(factor < 1).float().mean(), *change(wide, output)])
        return output.to(positive.dtype)

    def combine_merged(self, kernel: KernelCall, video: Told, positive: Told, negative: Told) -> Tensor:
        """The same, from the attention over the video's keys and over either text's."""
        if kernels.fit(video[0], positive[0], negative[0]) and kernels.small(video[0]):
            group = self.group.size(video[0])
            output, kernel.measured = kernels.nag_merged(video, positive, negative, self.strength, group)
            return output
        return self.combine(kernel, merge(video, positive), merge(video, negative))


def sampled(tokens: Tensor) -> Tensor:
    """At most about SAMPLED_TOKENS of the tokens `(B, L, ...)`, spread evenly."""
    return tokens[:, :: max(tokens.shape[1] // SAMPLED_TOKENS, 1)]


def change(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean L1 change of the features and mean L1 norm, over a sample of the tokens."""
    before, after = sampled(before), sampled(after)
    return l1_norm(after - before).mean().float(), l1_norm(before).mean().float()
