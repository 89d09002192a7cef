"""The attention edits of NAG: in cross-attention, joint attention, and attention to text alone in joint blocks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidguide.attention.site import KernelCall
from vidguide.edits.joint_attention import JointEdit, Parts, two_passes
from vidguide.edits.nag_combine import Combination, PackedCombination
from vidguide.functional.lse_merge import AttentionWithLse, merge
from vidguide.functional.masks import masked, rows_of
from vidguide.kernels.lse_backends import LseBackend, attend, select_pair
from vidguide.transformer.text_stream import TextStream

Text = tuple[Tensor, Tensor, Tensor | None]  # keys and values (1 or B, L, H, D), and mask


@dataclass(frozen=True, eq=False)
class CrossAttentionNAG:
    """NAG at one text cross-attention.

    Attributes:
        key, value: of the negative, `(1 or B, L, H, D)`. mask: of its tokens, or None.
        distinct: whether the mask counts equal keys, so that a kernel that takes a mask is needed.
        prompt: distinct keys of the conditional rows' prompt, with a mask that counts them; None for those of the call.
    """

    combine: Combination
    key: Tensor
    value: Tensor
    mask: Tensor | None
    distinct: bool = False
    prompt: Text | None = None

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        start = kernel.batch.start(query.shape[0])  # rows before it are the pipeline's unconditional half
        if self.prompt is None:
            positive = kernel(query, key, value, kernel.mask)
            uncond, positive = positive[:start], positive[start:]
        else:
            positive = kernel.native(query[start:], *repeated(self.prompt, query.shape[0] - start))
            mask = rows_of(kernel.mask, 0, start)
            uncond = kernel(query[:start], key[:start], value[:start], mask) if start else positive[:0]
        negative = repeated((self.key, self.value, self.mask), query.shape[0] - start)
        attend = kernel.native if self.distinct else kernel.local()
        output = self.combine(kernel, positive, attend(query[start:], *negative))
        return torch.cat([uncond, output]) if start else output


def repeated(text: Text, rows: int) -> Text:
    """Repeat each row of a text's keys, values and mask, for a batch of `rows`."""
    key, value, mask = text
    repeats = rows // key.shape[0]
    mask = None if mask is None else mask.repeat_interleave(repeats, 0)
    return key.repeat_interleave(repeats, 0), value.repeat_interleave(repeats, 0), mask


@dataclass(frozen=True, eq=False)
class SplitAttentionNAG:
    """NAG at an attention whose keys are both texts, `[prompt | negative]`, without leading image tokens.

    Attributes:
        guides: whether to guide; otherwise queries attend to the prompt only.
    """

    combine: Combination
    stream: TextStream
    guides: bool

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        prompt, negative = self.stream.split(key.shape[1])
        masks = [None if kernel.mask is None else kernel.mask[..., part] for part in (prompt, negative)]
        positive = kernel(query, key[:, prompt], value[:, prompt], masks[0])
        if not self.guides:
            return positive
        return self.combine(kernel, positive, kernel(query, key[:, negative], value[:, negative], masks[1]))


Both = tuple[AttentionWithLse, AttentionWithLse]  # torch.compile evaluates annotations of nested functions: an alias


class JointAttentionNAG(JointEdit):
    """NAG in one joint attention: the video attends to itself with either text, and the two outputs are combined."""

    def __init__(self, combine: Combination | PackedCombination, stream: TextStream, guides: bool, width: int) -> None:
        super().__init__(stream, guides)
        self.combine = combine
        self.masked = not stream.joint.per_sample and any(mask is not None for mask in stream.masks.values())
        self.backends = select_pair(stream.text.device.type, self.dtype, width, self.masked)  # None: two full passes

    def outputs(
        self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor, parts: Parts, start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.backends is not None and self.may_merge(kernel, query, key, value):
            return self.merged(self.backends, kernel, query, key, value, parts, start)
        video, negative_video, prompt, negative = two_passes(kernel, query, key, value, parts, start)
        if self.guides and start < query.shape[0]:
            video = torch.cat([video[:start], self.combine(kernel, video[start:], negative_video)])
        return video, prompt, negative

    def may_merge(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Return whether the backends are verified for such a call; they propagate no gradient of a log-sum-exp."""
        needs_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
        verified = query.dtype == self.dtype and (kernel.mask is None or self.masked)
        return verified and plain(kernel) and not needs_gradient

    def merged(
        self,
        backends: tuple[LseBackend, LseBackend],
        kernel: KernelCall,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        parts: Parts,
        start: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same outputs from attention to the video's keys computed once, for all queries."""
        # The video is never masked.
        video_attention = attend(backends[0], query, key[:, parts.video], value[:, parts.video], None)

        def both(queries: slice, text: slice, batch: slice) -> Both:
            """Return the attention of some queries over the video's keys, and over a text's."""
            mask = rows_of(masked(kernel.mask, queries, text), batch.start, batch.stop)
            query_key_value = query[batch, queries], key[batch, text], value[batch, text]
            text_attention = attend(backends[mask is not None], *query_key_value, mask)
            output, lse = video_attention
            return AttentionWithLse(output[batch, queries], lse[batch, queries]), text_attention

        every, uncond, cond = slice(0, None), slice(0, start), slice(start, None)
        prompt = merge(*both(parts.prompt, parts.prompt, every))
        if start == query.shape[0]:
            return merge(*both(parts.video, parts.prompt, every)), prompt, query[cond, parts.negative]
        negative = merge(*both(parts.negative, parts.negative, cond))
        if not self.guides:
            return merge(*both(parts.video, parts.prompt, every)), prompt, negative
        video, positive = both(parts.video, parts.prompt, cond)
        combined = self.combine.merged(kernel, video, positive, both(parts.video, parts.negative, cond)[1])
        if start:
            combined = torch.cat([merge(*both(parts.video, parts.prompt, uncond)), combined])
        return combined, prompt, negative


def plain(kernel: KernelCall) -> bool:
    """Return whether a kernel call is plain softmax attention, without settings of another backend."""
    settings: dict[str, Any] = {**kernel.kwargs}
    backend = getattr(settings.pop("backend", None), "value", None) or "native"
    return backend == "native" and not kernel.args and not any(settings.values())
