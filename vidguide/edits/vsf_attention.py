"""The attention edits of VSF: in cross-attention, joint attention, and attention to text alone in joint blocks."""

from typing import Any, Protocol

import torch
from torch import Tensor

from vidguide.attention.site import KernelCall
from vidguide.edits.joint_attention import JointEdit, Parts
from vidguide.edits.nag_combine import change, sampled
from vidguide.functional.masks import additive, masked, rows_of
from vidguide.functional.vsf import Attended, vsf
from vidguide.transformer.context_parallel import ContextParallel
from vidguide.transformer.text_stream import TextStream


class Strength(Protocol):
    """The parameters of VSF that its edits use."""

    @property
    def scale(self) -> float: ...

    @property
    def offset(self) -> float: ...


class Flip:
    """Attention with a negative's values flipped, without a limit on the result."""

    def __init__(self, strength: Strength) -> None:
        self.scale, self.offset = float(strength.scale), float(strength.offset)

    def flipped(self, kernel: KernelCall, query: Tensor, positive: Attended, negative: Attended) -> Tensor:
        """Return the attention of `(B, L, H, D)` queries to `positive` and to `negative` with its values flipped."""
        output = kernel(query, *vsf(positive, negative, self.scale, self.offset))
        key, value, mask = positive
        if mask is not None and mask.ndim > 2 and mask.shape[-2] > 1:
            mask = sampled(mask.transpose(-2, 1)).transpose(-2, 1)
        before = kernel(sampled(query), key, value, mask)
        changed, norm = change(before, sampled(output))
        kernel.measured = torch.stack([torch.zeros_like(norm), changed, norm])
        return output


class CrossAttentionVSF(Flip):
    """VSF at one text cross-attention.

    Args:
        parallel: the ranks over which the prompt may be split.
        negative: keys and values `(1 or B, L, H, D)`, and mask.
        padding: `(1 or B, L)`, tokens to mask in addition to the model's mask.
    """

    def __init__(
        self, strength: Strength, parallel: ContextParallel, negative: Attended, padding: Tensor | None
    ) -> None:
        super().__init__(strength)
        self.parallel = parallel
        key, value, mask = negative
        if padding is not None:
            length = int((~padding).sum(1).max())
            key, value, padding = key[:, :length], value[:, :length], padding[:, :length]
            mask = None if mask is None else mask[..., :length]
            if padding.any():
                excluded = additive(~padding[:, None, None], key.dtype)
                mask = excluded if mask is None else additive(mask, key.dtype) + excluded
        self.negative: Attended = (key, value, mask)

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not kernel.shared:
            return self.attend(kernel, query, key, value)
        local = kernel.local()  # every rank has the whole negative: gather the prompt too
        local.mask = None if kernel.mask is None else self.parallel.gather(kernel.mask, -1)
        output = self.attend(local, query, self.parallel.gather(key), self.parallel.gather(value))
        kernel.measured = local.measured
        return output

    def attend(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the whole prompt and the flipped negative, without an exchange between ranks."""
        start = kernel.batch.start(query.shape[0])  # rows before it are the pipeline's unconditional half
        repeats = (query.shape[0] - start) // self.negative[0].shape[0]
        negative: Any = tuple(None if part is None else part.repeat_interleave(repeats, 0) for part in self.negative)
        positive = key[start:], value[start:], rows_of(kernel.mask, start)
        output = self.flipped(kernel, query[start:], positive, negative)
        if not start:
            return output
        return torch.cat([kernel(query[:start], key[:start], value[:start], rows_of(kernel.mask, 0, start)), output])


class SplitAttentionVSF(Flip):
    """VSF at an attention whose keys are both texts, `[prompt | negative]`, without leading image tokens."""

    def __init__(self, strength: Strength, stream: TextStream, guides: bool) -> None:
        super().__init__(strength)
        self.stream, self.guides = stream, guides

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        prompt, negative = self.stream.split(key.shape[1])
        texts = [
            (key[:, part], value[:, part], None if kernel.mask is None else kernel.mask[..., part])
            for part in (prompt, negative)
        ]
        return self.flipped(kernel, query, *texts) if self.guides else kernel(query, *texts[0])


class JointAttentionVSF(JointEdit, Flip):
    """VSF in one joint attention: the video attends to itself, the prompt, and the flipped negative in one softmax."""

    def __init__(self, strength: Strength, stream: TextStream, guides: bool) -> None:
        JointEdit.__init__(self, stream, guides)
        Flip.__init__(self, strength)

    def outputs(
        self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor, parts: Parts, start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        def keys_values(queries: slice, text: slice, batch: slice) -> Attended:
            """Return keys, values and mask of the video and one text, for some queries of some rows."""
            mask = rows_of(masked(kernel.mask, queries, slice(None)), batch.start, batch.stop)
            mask = None if mask is None else parts.pick(mask, text, mask.ndim - 1)
            return parts.pick(key[batch], text), parts.pick(value[batch], text), mask

        every, uncond, cond = slice(0, None), slice(0, start), slice(start, None)
        prompt = kernel(query[:, parts.prompt], *keys_values(parts.prompt, parts.prompt, every))
        negative = kernel(query[cond, parts.negative], *keys_values(parts.negative, parts.negative, cond))
        if not self.guides:
            return kernel(query[:, parts.video], *keys_values(parts.video, parts.prompt, every)), prompt, negative
        video = []
        if start:
            video.append(kernel(query[uncond, parts.video], *keys_values(parts.video, parts.prompt, uncond)))
        if start < query.shape[0]:
            mask = rows_of(masked(kernel.mask, parts.video, parts.negative), start)
            flipped = key[cond, parts.negative], value[cond, parts.negative], mask
            positive = keys_values(parts.video, parts.prompt, cond)
            video.append(self.flipped(kernel, query[cond, parts.video], positive, flipped))
        return torch.cat(video), prompt, negative
