"""The average of one layer's attention over the steps, and the distance of the live attention from it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidguide.attention.site import AttentionSite, EditedAttention, KernelCall
from vidguide.attention.video_tokens import VideoTokens
from vidguide.functional.emag import attention_gradient, blend, ema, mean_magnitude
from vidguide.kernels import dispatch as kernels
from vidguide.transformer.cfg_batch import ALL_CONDITIONAL

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
        averages: by sample where the kernel is called once per sample; otherwise one.
    """

    heads_dim = 2  # the heads' dimension of what is averaged
    scale_free = False  # whether D has the same unit in every layer already

    def __init__(self, site: AttentionSite, decay: float, strength: float, samples: int, relative: bool) -> None:
        self.site, self.decay, self.strength = site, decay, strength
        self.samples, self.relative = samples, relative and not self.scale_free
        self.averages: dict[int, Tensor] = {}
        self.latest: list[Measured] = []  # in the latest observed step, of each kernel call
        self.previous: list[Measured] = []  # and in the step before
        self.step_begun = False  # whether a step has begun and nothing was observed in it yet

    @property
    def video(self) -> VideoTokens:
        """The video's tokens at the site."""
        if self.site.video is None:
            raise RuntimeError("attention is averaged where a perturbed pass may run")
        return self.site.video

    def begin_step(self) -> None:
        """Begin a step. Where a cache skips the block in it, the average stays as it is."""
        self.step_begun = True

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor) -> None:
        live = self.live(kernel, query.detach(), key.detach())
        if len(live):
            self.update(self.video.sample(kernel.batch, kernel.index), live)

    def live(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        """Return what is averaged, of a kernel call."""
        raise NotImplementedError

    def perturb(
        self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor, chosen: Tensor | None
    ) -> Tensor:
        """Run the attention with the live value mixed with its average.

        Args:
            chosen: `(B,)`, boolean, the samples to perturb; None for all.
        """
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

    def mixed(self, kernel: KernelCall, live: Tensor, strength: float | Tensor) -> Tensor:
        """Return `(1 - strength) A + strength E`, in the average's dtype."""
        if not self.averages:
            raise RuntimeError("EMAG has no average yet")
        return blend(live, self.averages[self.video.sample(kernel.batch, kernel.index)], strength)

    def rows(self, kernel: KernelCall, chosen: Tensor, live: Tensor) -> Tensor:
        """Return which rows of a perturbed kernel call are of samples in `chosen`, `(B, 1, 1, 1)`."""
        if self.video.per_sample:
            chosen = chosen[self.video.sample(kernel.batch, kernel.index)].reshape(1)
        return chosen.repeat_interleave(live.shape[0] // chosen.shape[0])[:, None, None, None]


class AveragedAttention:
    """The perturbation of one layer's attention by its average.

    Args:
        chosen: `(B,)`, boolean, the samples to perturb; None for all. The other rows are computed as without it.
    """

    def __init__(self, average: Average, chosen: Tensor | None) -> None:
        self.average, self.chosen = average, chosen

    def __call__(self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.average.perturb(attention, query, key, value, self.chosen)


class AverageQuery(Average):
    """EMAG-Q at one layer: the average of its queries `(B, L, H, D)` before their rotary embedding.

    Rotation is linear and the same in every step, so the rotated average is the average of rotated queries. The mean
    absolute difference D is not invariant to rotation; as the authors' models have none, D is of unrotated queries.
    """

    def live(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        return self.video.take(_unrotated(kernel, query).detach(), kernel.batch, kernel.index)

    def perturb(
        self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor, chosen: Tensor | None
    ) -> Tensor:
        kernel, unrotated = attention.kernel, _unrotated(attention.kernel, query)
        live = self.video.take(unrotated, ALL_CONDITIONAL, kernel.index)
        strength: float | Tensor = self.strength
        if chosen is not None:
            dtype = torch.promote_types(live.dtype, torch.float32)
            strength = self.rows(kernel, chosen, live).to(dtype) * strength
        mixed = self.mixed(kernel, live, strength)
        if kernel.rotary is not None:
            rotated = kernel.rotary(self.video.put(unrotated, mixed))
            mixed = self.video.take(rotated, ALL_CONDITIONAL, kernel.index)
        return attention(self.video.put(query, mixed), key, value)


def _unrotated(kernel: KernelCall, query: Tensor) -> Tensor:
    """Return the query `(B, L, H, D)` before its rotary embedding; of the rotated tokens, where there are such."""
    return query if kernel.rotary is None else kernel.rotary.unrotated(query.shape[-1])
