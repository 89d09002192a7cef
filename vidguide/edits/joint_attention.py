"""Joint attention over video, prompt and a second text stream in one sequence: what NAG and VSF share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vidguide.attention.site import KernelCall
from vidguide.functional.masks import rows_of
from vidguide.transformer.text_stream import TextStream


class JointEdit:
    """Base class of edits of one joint attention over the video, the prompt and a negative text stream.

    Prompt tokens attend to [video, prompt], negative tokens to [video, negative]; subclasses define the attention of
    the video's tokens. The unconditional half of a batch does not attend to the negative.

    Args:
        stream: the second text stream. guides: whether to guide; otherwise video tokens attend to [video, prompt].
    """

    def __init__(self, stream: TextStream, guides: bool) -> None:
        self.stream, self.guides, self.dtype = stream, guides, stream.text.dtype

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        lengths, start = self.lengths_and_start(kernel, query.shape[0])
        parts = Parts(query.shape[1], *lengths, self.stream.joint.text_first)
        video, prompt, negative = self.outputs(kernel, query, key, value, parts, start)
        uncond_negative = torch.zeros_like(query[:start, parts.negative])
        if self.stream.joint.per_sample:  # pad the prompt to the length of the text, which places the negative after it
            prompt = F.pad(prompt, (0, 0, 0, 0, 0, self.stream.prompt_length - lengths[0]))
        return parts.join(video, prompt, torch.cat([uncond_negative, negative]))

    def outputs(
        self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor, parts: "Parts", start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the attention outputs of video, prompt, and (from row `start` on) negative."""
        raise NotImplementedError

    def lengths_and_start(self, kernel: KernelCall, rows: int) -> tuple[tuple[int, int], int]:
        """Return the lengths of prompt and negative in a kernel call on `rows` rows, and its first conditional row."""
        stream = self.stream
        if not stream.joint.per_sample:
            return (stream.prompt_length, stream.negative_length), kernel.batch.start(rows)
        samples = len(stream.valid_lengths)  # one call per sample, in their order
        sample = kernel.index % samples
        return stream.valid_lengths[sample], int(sample < kernel.batch.start(samples))


class Parts:
    """Slices of video, prompt and negative in a joint sequence."""

    def __init__(self, length: int, prompt: int, negative: int, text_first: bool) -> None:
        video = length - prompt - negative
        begin = 0 if text_first else video
        self.text_first = text_first
        self.video = slice(length - video, length) if text_first else slice(0, video)
        self.prompt = slice(begin, begin + prompt)
        self.negative = slice(begin + prompt, begin + prompt + negative)

    def join(self, video: Tensor, prompt: Tensor, negative: Tensor) -> Tensor:
        """Concatenate the parts of a sequence in their order."""
        return torch.cat([prompt, negative, video] if self.text_first else [video, prompt, negative], 1)

    def pick(self, tensor: Tensor, text: slice, dim: int = 1) -> Tensor:
        """Return the video and one text of a sequence, in their order."""
        if tensor.shape[dim] == 1:  # a mask with one row for all queries
            return tensor
        pieces = [tensor.narrow(dim, part.start, part.stop - part.start) for part in (self.video, text)]
        return torch.cat(pieces[::-1] if self.text_first else pieces, dim)

    def split(self, output: Tensor, text: int) -> tuple[Tensor, Tensor]:
        """Return video and text of the output for queries that :meth:`pick` returned."""
        if self.text_first:
            return output[:, text:], output[:, :text]
        return output[:, : output.shape[1] - text], output[:, output.shape[1] - text :]


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]  # video with prompt, video with negative, prompt, negative


def two_passes(kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor, parts: Parts, start: int) -> Outputs:
    """Run full attention over video and prompt, and from row `start` on over video and negative."""
    outputs = []
    for text, first in ((parts.prompt, 0), (parts.negative, start)):
        mask = kernel.mask
        if mask is not None:
            mask = rows_of(parts.pick(parts.pick(mask, text, mask.ndim - 2), text, mask.ndim - 1), first)
        queries, keys, values = (parts.pick(tensor[first:], text) for tensor in (query, key, value))
        outputs.append(parts.split(kernel(queries, keys, values, mask), text.stop - text.start))
    (video, prompt), (negative_video, negative) = outputs
    return video, negative_video, prompt, negative
