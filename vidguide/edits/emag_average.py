"""The average of one layer's attention over the steps, and the distance of the live attention from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vidguide.attention.site import AttentionSite, EditedAttention, KernelCall
from vidguide.attention.video_tokens import VideoTokens
from vidguide.functional.emag import attention_gradient, blend, ema, mean_magnitude
from vidguide.kernels import dispatch as kernels
from vidguide.transformer.cfg_batch import ALL_CONDITIONAL

Averages = dict[int, Tensor]  # by sample where the kernel is called once per sample; otherwise one
Measured = tuple[Tensor, Tensor | None]  # D of each row and head `(B, H)`, and `mean |A|` where it is asked for


class Average:
    """EMAG's average at one layer (arXiv 2512.17303, `E = beta E + (1 - beta) A`), of queries or of attention maps.

    An observer of unperturbed passes, whose perturbation :class:`AveragedAttention` is. It averages the video's part of
    the attention in conditional rows, in float32 (float64 for float64): in bfloat16 an update of 1.2% is about the size
    of one rounding step, and the average would stall. Subclasses define what is averaged and where it is used.

    Args:
        samples: number of conditional samples.
        relative: whether to measure the magnitude of what is averaged with D.

    Attributes:
        averages: by sample. With gradients enabled, those of earlier steps are constants of the step's gradient.
    """

    heads_dim = 2  # the heads' dimension of what is averaged
    scale_free = False  # whether D has the same unit in every layer already

    def __init__(self, site: AttentionSite, decay: float, strength: float, samples: int, relative: bool) -> None:
        self.site, self.decay, self.strength = site, decay, strength
        self.samples, self.relative = samples, relative and not self.scale_free
        self.averages: Averages = {}
        self.latest: list[Measured] = []  # in the latest observed step, of each kernel call
        self.previous: list[Measured] = []  # and in the step before
        self.step_begun = False  # whether a step has begun and nothing was observed in it yet
        self._graphs: dict[int, tuple[float, Callable[[], Tensor]]] = {}  # share and live value of this step, by sample

    @property
    def video(self) -> VideoTokens:
        """The video's tokens at the site."""
        if self.site.video is None:
            raise RuntimeError("attention is averaged where a perturbed pass may run")
        return self.site.video

    def begin_step(self) -> None:
        """Begin a step. Where a cache skips the block in it, the average stays as it is."""
        self.step_begun = True
        self._graphs.clear()

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor) -> None:
        live = self.live(kernel, query.detach(), key.detach()).detach()
        if len(live):
            sample = self.video.sample(kernel.batch, kernel.index)
            share = 1 - self.decay if sample in self.averages else 1.0
            self.update(sample, live)
            if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
                self._graphs[sample] = share, partial(self.live, kernel, query, key)

    def live(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        """Return what is averaged, of a kernel call."""
        raise NotImplementedError

    def perturbation(self, chosen: Tensor | None) -> "AveragedAttention":
        """Return the perturbation by the averages of this step, which later steps do not change where gradients are
        enabled.

        Args:
            chosen: `(B,)`, boolean, the samples to perturb; None for all.
        """
        if not torch.is_grad_enabled():
            return AveragedAttention(self, self.averages, chosen)
        averages = {sample: self.differentiable(sample, average) for sample, average in self.averages.items()}
        return AveragedAttention(self, averages, chosen)

    def differentiable(self, sample: int, average: Tensor) -> Tensor:
        """Return a copy of an average with the graph of this step's share in it; earlier steps are constants."""
        if sample not in self._graphs:
            return average.clone()
        share, live = self._graphs.pop(sample)
        value = live().to(average.dtype)
        return average + share * (value - value.detach())

    def perturb(
        self, past: "AveragedAttention", attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Run the attention with the live value mixed with its average, for the samples that `past` names."""
        raise NotImplementedError

    def update(self, sample: int, live: Tensor) -> None:
        """Update a sample's average by a step's value, and store `D`."""
        average = self.averages.get(sample)
        if average is None:
            dtype = torch.promote_types(live.dtype, torch.float32)
            average = self.averages[sample] = live.to(dtype, copy=True, memory_format=torch.contiguous_format)
            gradient = average.new_zeros(average.shape[0], average.shape[self.heads_dim])
        elif kernels.supports(average, live):
            gradient = kernels.average(average, live, self.decay, self.heads_dim)
        else:
            ema(average, live, self.decay)
            gradient = attention_gradient(average, live, self.heads_dim)
        if self.step_begun:
            self.previous, self.latest, self.step_begun = self.latest, [], False
        magnitude = mean_magnitude(live, self.heads_dim, average.dtype) if self.relative else None
        self.latest.append((gradient, magnitude))

    @property
    def tokens(self) -> int:
        """Number of tokens of this rank in what is averaged."""
        return next(iter(self.averages.values())).shape[3 - self.heads_dim]

    def measured(self, previous: bool) -> Measured | None:
        """Return D of each sample and head `(B, H)`, and the magnitude `mean |A|` where D is relative.

        Args:
            previous: of the step before the latest, which is the latest at first.

        Returns:
            None where no attention was observed.
        """
        calls = self.previous if previous and self.previous else self.latest
        if not calls:
            return None
        gradients, magnitudes = zip(*calls, strict=True)
        return self.by_sample(gradients), self.by_sample(magnitudes) if self.relative else None

    def by_sample(self, rows: Sequence[Tensor]) -> Tensor:
        """Return means over the rows of each sample, `(B, H)`, from those of all rows; factorised models have a row for
        each frame or place of a sample."""
        return torch.cat(list(rows)).unflatten(0, (self.samples, -1)).mean(1)

    def mixed(self, averages: Averages, kernel: KernelCall, live: Tensor, strength: float | Tensor) -> Tensor:
        """Return `(1 - strength) A + strength E`, in the average's dtype."""
        if not averages:
            raise RuntimeError("EMAG has no average yet")
        return blend(live, averages[self.video.sample(kernel.batch, kernel.index)], strength)

    def rows(self, kernel: KernelCall, chosen: Tensor, live: Tensor) -> Tensor:
        """Return which rows of a perturbed kernel call are of samples in `chosen`, `(B, 1, 1, 1)`."""
        if self.video.per_sample:
            chosen = chosen[self.video.sample(kernel.batch, kernel.index)].reshape(1)
        return chosen.repeat_interleave(live.shape[0] // chosen.shape[0])[:, None, None, None]


@dataclass(frozen=True, eq=False)
class AveragedAttention:
    """The perturbation of one layer's attention by its average.

    Attributes:
        average: of the layer.
        averages: its values in this step, by sample.
        chosen: `(B,)`, boolean, the samples to perturb; None for all. The other rows are computed as without it.
    """

    average: Average
    averages: Averages
    chosen: Tensor | None

    def __call__(self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.average.perturb(self, attention, query, key, value)


class AverageQuery(Average):
    """EMAG-Q at one layer: the average of its queries `(B, L, H, D)` before their rotary embedding.

    Rotation is linear and the same in every step, so the rotated average is the average of rotated queries. The mean
    absolute difference D is not invariant to rotation; as the authors' models have none, D is of unrotated queries.
    """

    def live(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        return self.video.take(_unrotated(kernel, query), kernel.batch, kernel.index)

    def perturb(
        self, past: AveragedAttention, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        kernel, unrotated = attention.kernel, _unrotated(attention.kernel, query)
        live = self.video.take(unrotated, ALL_CONDITIONAL, kernel.index)
        strength: float | Tensor = self.strength
        if past.chosen is not None:
            dtype = torch.promote_types(live.dtype, torch.float32)
            strength = self.rows(kernel, past.chosen, live).to(dtype) * strength
        mixed = self.mixed(past.averages, kernel, live, strength)
        if kernel.rotary is not None:
            rotated = kernel.rotary(self.video.put(unrotated, mixed))
            mixed = self.video.take(rotated, ALL_CONDITIONAL, kernel.index)
        return attention(self.video.put(query, mixed), key, value)


def _unrotated(kernel: KernelCall, query: Tensor) -> Tensor:
    """Return the query `(B, L, H, D)` before its rotary embedding; of the rotated tokens, where there are such."""
    return query if kernel.rotary is None else kernel.rotary.unrotated(query.shape[-1])
