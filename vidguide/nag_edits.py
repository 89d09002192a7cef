"""What NAG does at an attention: by cross-attention, in joint attention, and where a block splits its text."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidguide.batch import Batch
from vidguide.combine import Combine, Group, Strength
from vidguide.joint import Stream
from vidguide.merge import Told, merge
from vidguide.seam import Kernel
from vidguide.sources import Source, attend, pair


def rows(mask: Tensor | None, start: int, stop: int | None = None) -> Tensor | None:
    """The rows of a mask from `start` on; one that serves the whole batch stays."""
    return mask if mask is None or mask.shape[0] == 1 else mask[start:stop]


class CrossAttentionNAG(Combine):
    """NAG at one text cross-attention, for negative keys and values `(1 or B, L, H, D)` that are already there."""

    def __init__(
        self, nag: Strength, group: Group, batch: Batch, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> None:
        super().__init__(nag, group)
        self.batch, self.key, self.value, self.mask = batch, key, value, mask

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        positive = kernel(query, key, value, kernel.mask)
        start = self.batch.start(query.shape[0])  # before it, the pipeline's unconditional half
        repeats = (query.shape[0] - start) // self.key.shape[0]
        key, value = (tensor.repeat_interleave(repeats, 0) for tensor in (self.key, self.value))
        mask = None if self.mask is None else self.mask.repeat_interleave(repeats, 0)
        output = self.combine(positive[start:], kernel.alone()(query[start:], key, value, mask))
        return torch.cat([positive[:start], output]) if start else output


class SplitAttentionNAG(Combine):
    """NAG at an attention that gets the carried texts as its keys, `[prompt | negative]`, less leading image tokens."""

    def __init__(self, nag: Strength, group: Group, stream: Stream, guides: bool) -> None:
        super().__init__(nag, group)
        self.stream, self.guides = stream, guides

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        prompt, negative = self.stream.split(key.shape[1])
        masks = [None if kernel.mask is None else kernel.mask[..., part] for part in (prompt, negative)]
        positive = kernel(query, key[:, prompt], value[:, prompt], masks[0])
        if not self.guides:
            return positive
        return self.combine(positive, kernel(query, key[:, negative], value[:, negative], masks[1]))


class JointEdit:
    """An edit of one joint attention over the video, the prompt and a carried negative.

    Prompt tokens see [video, prompt], negative tokens see [video, negative]; what the video's queries make of the two
    is the guidance's. The unconditional half of a batch sees no negative.
    """

    def __init__(self, stream: Stream, guides: bool) -> None:
        self.stream, self.guides, self.dtype = stream, guides, stream.text.dtype

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        lengths, start = self.lengths_and_start(kernel, query.shape[0])
        parts = Parts(query.shape[1], *lengths, self.stream.joint.text_first)
        video, prompt, negative = self.outputs(kernel, query, key, value, parts, start)
        unseen = torch.zeros_like(query[:start, parts.negative])
        if self.stream.joint.ragged:  # the padding that was left out of the call, so that the negative is in its place
            prompt = F.pad(prompt, (0, 0, 0, 0, 0, self.stream.prompt - lengths[0]))
        return parts.join(video, prompt, torch.cat([unseen, negative]))

    def outputs(
        self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, parts: "Parts", start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention outputs of video, prompt, and (from row `start` on) negative."""
        raise NotImplementedError

    def lengths_and_start(self, kernel: Kernel, rows: int) -> tuple[tuple[int, int], int]:
        """Lengths of prompt and negative in a kernel call on some rows, and the first conditional row."""
        stream = self.stream
        if not stream.joint.ragged:
            return (stream.prompt, stream.negative), stream.batch.start(rows)
        samples = len(stream.valid)  # one call per sample, in their order
        sample = kernel.call % samples
        return stream.valid[sample], int(sample < stream.batch.start(samples))


Both = tuple[Told, Told]  # a name of its own, as torch.compile runs the annotations of nested functions


class JointAttentionNAG(JointEdit, Combine):
    """NAG in one joint attention: video queries see each text with the video, and the two are combined."""

    def __init__(self, nag: Strength, group: Group, stream: Stream, guides: bool, width: int) -> None:
        JointEdit.__init__(self, stream, guides)
        Combine.__init__(self, nag, group)
        self.masked = not stream.joint.ragged and any(mask is not None for mask in stream.masks.values())
        self.sources = pair(stream.text.device.type, self.dtype, width, self.masked)  # None: two full passes

    def outputs(
        self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, parts: "Parts", start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.sources is not None and self.may_merge(kernel, query):
            return self.merged(self.sources, kernel, query, key, value, parts, start)
        video, negative_video, prompt, negative = two_passes(kernel, query, key, value, parts, start)
        if self.guides and start < query.shape[0]:
            video = torch.cat([video[:start], self.combine(video[start:], negative_video)])
        return video, prompt, negative

    def may_merge(self, kernel: Kernel, query: Tensor) -> bool:
        """Whether this call is what the sources were tried for. None of them passes a log-sum-exp's gradient on."""
        learns = query.requires_grad and torch.is_grad_enabled()
        known = query.dtype == self.dtype and (kernel.mask is None or self.masked)
        return known and plain(kernel) and not learns

    def merged(
        self,
        sources: tuple[Source, Source],
        kernel: Kernel,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        parts: "Parts",
        start: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same with the video's keys attended to once, by all queries together."""
        alone = attend(sources[0], query, key[:, parts.video], value[:, parts.video], None)  # video is never masked

        def both(queries: slice, text: slice, batch: slice) -> Both:
            """Attention of some queries over the video's keys, and over a text's."""
            mask = rows(masked(kernel.mask, queries, text), batch.start, batch.stop)
            query_key_value = query[batch, queries], key[batch, text], value[batch, text]
            beside = attend(sources[mask is not None], *query_key_value, mask)
            return (alone[0][batch, queries], alone[1][batch, queries]), beside

        every, uncond, cond = slice(0, None), slice(0, start), slice(start, None)
        prompt = merge(*both(parts.prompt, parts.prompt, every))
        if start == query.shape[0]:
            return merge(*both(parts.video, parts.prompt, every)), prompt, query[cond, parts.negative]
        negative = merge(*both(parts.negative, parts.negative, cond))
        if not self.guides:
            return merge(*both(parts.video, parts.prompt, every)), prompt, negative
        video, positive = both(parts.video, parts.prompt, cond)
        combined = self.combine_merged(video, positive, both(parts.video, parts.negative, cond)[1])
        if start:
            combined = torch.cat([merge(*both(parts.video, parts.prompt, uncond)), combined])
        return combined, prompt, negative


class Parts:
    """Where video, prompt and negative lie in a joint sequence."""

    def __init__(self, length: int, prompt: int, negative: int, text_first: bool) -> None:
        video = length - prompt - negative
        begin = 0 if text_first else video
        self.text_first = text_first
        self.video = slice(length - video, length) if text_first else slice(0, video)
        self.prompt = slice(begin, begin + prompt)
        self.negative = slice(begin + prompt, begin + prompt + negative)

    def join(self, video: Tensor, prompt: Tensor, negative: Tensor) -> Tensor:
        """Parts of a sequence in their order."""
        return torch.cat([prompt, negative, video] if self.text_first else [video, prompt, negative], 1)

    def pick(self, tensor: Tensor, text: slice, dim: int = 1) -> Tensor:
        """The video and one text of a sequence, in their order."""
        if tensor.shape[dim] == 1:  # a mask that serves all queries
            return tensor
        pieces = [tensor.narrow(dim, part.start, part.stop - part.start) for part in (self.video, text)]
        return torch.cat(pieces[::-1] if self.text_first else pieces, dim)

    def split(self, output: Tensor, text: int) -> tuple[Tensor, Tensor]:
        """Video and text of the output for :meth:`pick`ed queries."""
        if self.text_first:
            return output[:, text:], output[:, :text]
        return output[:, : output.shape[1] - text], output[:, output.shape[1] - text :]


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]  # video with prompt, video with negative, prompt, negative


def two_passes(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, parts: Parts, start: int) -> Outputs:
    """Full attention over video and prompt, and from row `start` on over video and negative."""
    outputs = []
    for text, first in ((parts.prompt, 0), (parts.negative, start)):
        mask = kernel.mask
        if mask is not None:
            mask = rows(parts.pick(parts.pick(mask, text, mask.ndim - 2), text, mask.ndim - 1), first)
        queries, keys, values = (parts.pick(tensor[first:], text) for tensor in (query, key, value))
        outputs.append(parts.split(kernel(queries, keys, values, mask), text.stop - text.start))
    (video, prompt), (negative_video, negative) = outputs
    return video, negative_video, prompt, negative


def masked(mask: Tensor | None, queries: slice, keys: slice) -> Tensor | None:
    """The part of a mask `(..., L or 1, K)` for some queries and keys."""
    if mask is None:
        return None
    return mask[..., slice(None) if mask.shape[-2] == 1 else queries, keys]


def plain(kernel: Kernel) -> bool:
    """Whether a kernel call is softmax attention as torch does it, with nothing that only its own backend knows."""
    settings: dict[str, Any] = {**kernel.kwargs}
    backend = getattr(settings.pop("backend", None), "value", None) or "native"
    return backend == "native" and not kernel.args and not any(settings.values())
