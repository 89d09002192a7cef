"""The average of one layer's attention over the steps, and how far the live attention is from it."""

import torch
from torch import Tensor

from vidguide.attention.interception import Attention, Kernel, Site
from vidguide.attention.video_tokens import Video
from vidguide.functional.emag import attention_gradient, blend, ema
from vidguide.kernels import dispatch as kernels


class Average:
    """EMAG's average at one layer (arXiv 2512.17303, `E = beta E + (1 - beta) A`), of queries or of attention maps.

    In float32 (float64 for float64): in bfloat16 an update of 1.2% is about the size of one rounding step, and the
    average would stall. Of the video's part of the attention, of conditional rows. Subclasses say of what, and where
    they act.

    Attributes:
        averages: by sample where the kernel is called once per sample; otherwise one.
    """

    heads_dim = 2  # which dimension of what is averaged is the heads'

    def __init__(self, site: Site, decay: float, strength: float) -> None:
        self.site, self.decay, self.strength = site, decay, strength
        self.averages: dict[int, Tensor] = {}
        self.found: list[Tensor] = []  # D of each head in the latest step that was seen, of each kernel call
        self.previous: list[Tensor] = []  # and in the one before
        self.begun = False  # a step has, and nothing was seen of it yet

    @property
    def video(self) -> Video:
        if self.site.video is None:
            raise RuntimeError("attention is averaged where a weak pass may run")
        return self.site.video

    def begin(self) -> None:
        """Watch the clean pass of a step that begins. A cache may leave it out, and the average waits."""
        self.begun = True
        self.site.watchers.append(self)

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor) -> None:
        live = self.live(kernel, query.detach(), key.detach())
        if len(live):
            self.take(live)

    def live(self, kernel: Kernel, query: Tensor, key: Tensor) -> Tensor:
        """What is averaged, of a kernel call."""
        raise NotImplementedError

    def perturb(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention by the live value mixed with its average."""
        raise NotImplementedError

    def take(self, live: Tensor) -> None:
        """Take a step's value into the average."""
        average = self.averages.get(self.video.sample)
        if average is None:
            wide, contiguous = torch.promote_types(live.dtype, torch.float32), torch.contiguous_format
            average = self.averages[self.video.sample] = live.to(wide, copy=True, memory_format=contiguous)
            gradient = average.new_zeros(average.shape[self.heads_dim])
        elif kernels.supports(average, live):
            gradient = kernels.average(average, live, self.decay, self.heads_dim)
        else:
            ema(average, live, self.decay)
            gradient = attention_gradient(average, live, self.heads_dim)
        if self.begun:
            self.previous, self.found, self.begun = self.found, [], False
        self.found.append(gradient)

    @property
    def tokens(self) -> int:
        """How many there are here of what is averaged."""
        return next(iter(self.averages.values())).shape[3 - self.heads_dim]

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """D of each head `(H,)` in the latest step, and in the one before, for which the first stands in at first;
        None where no attention was seen."""
        latest = torch.stack(self.found).mean(0) if self.found else None
        return latest, torch.stack(self.previous).mean(0) if self.previous else latest

    def mixed(self, live: Tensor) -> Tensor:
        """`(1 - strength) A + strength E`, in the average's dtype."""
        if not self.averages:
            raise RuntimeError("EMAG has no average yet")
        return blend(live, self.averages[self.video.sample], self.strength)


class AverageQuery(Average):
    """EMAG-Q at one layer: the average of its queries `(B, L, H, D)`."""

    def live(self, kernel: Kernel, query: Tensor, key: Tensor) -> Tensor:
        return self.video.take(query)

    def perturb(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(self.video.put(query, self.mixed(self.video.take(query))), key, value)
