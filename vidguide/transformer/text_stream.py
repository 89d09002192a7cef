"""Joint attention: a second text travels through the blocks beside the prompt's, with one single video stream.

The negative text is captured where the first block receives it, in a forward whose blocks do nothing; so whatever
comes before the blocks (refiners, pooling, positions, reordering) has seen it as it would see a prompt. In the guided
call the first block gets `[prompt | negative]` as its text, every block carries both, and the last one returns the
prompt's alone. What sees what is up to the attention edit. Where blocks modulate text by a vector that depends on the
text, the capturing forward gives the negative's vector too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.family import Family, Joint, blocks_of
from vidguide.transformer.text_modulation import modulating, norms_of

TEXT = "encoder_hidden_states"  # the name of the text among a block's arguments, in every family of joint attention


class Stream:
    """A second text `(B, L, C)` in the blocks, for the conditional rows, its masks, and how long the two texts are.

    Attributes:
        prompt: length of the prompt's text in the call at work.
        vector: `(B, C)`, what modulates the second text, where that is not what modulates the prompt's.
        valid: where the kernel is called per sample, on valid tokens only: both lengths of each sample.
    """

    def __init__(self, joint: Joint, batch: Batch, carriers: list[tuple[nn.ModuleList, int]]) -> None:
        self.joint, self.batch, self.carriers = joint, batch, carriers
        self.text = torch.empty(0)
        self.masks: dict[str, Tensor | None] = {}
        self.vector: Tensor | None = None
        self.prompt = 0
        self.valid: list[tuple[int, int]] = []
        last, blocks = len(carriers) - 1, [stack[i] for stack, i in carriers]
        self.stand_ins = [Carry(block, self, n == 0, n == last) for n, block in enumerate(blocks)]
        self.norms = norms_of(blocks, self)

    @property
    def negative(self) -> int:
        """Length of the second text."""
        return self.text.shape[1]

    def begin(self, text: Tensor, masks: list[Tensor | None]) -> Tensor:
        """The first block's text: the prompt's, followed by the negative's."""
        self.prompt, own = text.shape[1], [self.filled(mask) for mask in self.masks.values() if mask is not None]
        if self.joint.ragged:
            prompts, negatives = ([m.bool().sum(-1).tolist() for m in s if m is not None] for s in (masks, own))
            self.valid = list(zip(prompts[0], negatives[0], strict=True))
        return torch.cat([text, self.filled(self.text).to(text.dtype)], 1)

    def filled(self, tensor: Tensor) -> Tensor:
        """With as many rows before it for an unconditional half, which never sees them."""
        return torch.cat([tensor, tensor]) if self.batch.halved else tensor

    def vector_like(self, vector: Tensor) -> Tensor:
        """Return what modulates the second text, for a call where `vector` modulates the prompt's."""
        assert self.vector is not None
        return self.filled(self.vector).to(vector)

    def split(self, keys: int) -> tuple[slice, slice]:
        """Prompt and negative among so many keys of an attention to the texts alone.

        Its block drops the prompt's leading image tokens; the negative has as many of its own, which are dropped here.
        """
        return slice(0, keys - self.negative), slice(self.prompt, None)

    def extend(self, name: str, mask: Tensor | None) -> Tensor | None:
        """A block's mask of keys, longer by the negative's."""
        own = self.masks[name]
        if mask is None or own is None:
            return mask
        return torch.cat([mask, self.filled(own)[..., own.shape[-1] - self.negative :].to(mask.dtype)], -1)


class Carry(nn.Module):
    """Stands in for a block while a second text is carried: the block itself, with longer text and masks."""

    def __init__(self, block: Any, stream: Stream, first: bool, last: bool) -> None:
        super().__init__()
        self.block, self.stream, self.first, self.last = block, stream, first, last
        self.arguments = Arguments(block)
        self.train(block.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        stream, arguments = self.stream, self.arguments
        masks = [arguments.get(name, args, kwargs) for name in stream.joint.block_masks]
        if self.first:
            text = stream.begin(arguments.get(TEXT, args, kwargs), masks)
            args = arguments.put(TEXT, text, args, kwargs)
        for name, mask in zip(stream.joint.block_masks, masks, strict=True):
            args = arguments.put(name, stream.extend(name, mask), args, kwargs)
        hidden, text = self.block(*args, **kwargs)
        return hidden, text[:, : stream.prompt] if self.last else text


class Listen(nn.Module):
    """Stands in for a block in the capturing forward: does nothing, and the first one keeps the text it is given."""

    def __init__(self, block: Any, stream: Stream, first: bool) -> None:
        super().__init__()
        self.stream, self.first, self.arguments = stream, first, Arguments(block)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        text = self.arguments.get(TEXT, args, kwargs)
        if self.first:
            stream, modulation = self.stream, self.stream.joint.modulation
            stream.text = text
            stream.masks = {name: self.arguments.get(name, args, kwargs) for name in stream.joint.block_masks}
            stream.vector = self.arguments.get(modulation.vector, args, kwargs) if modulation else None
        return self.arguments.get("hidden_states", args, kwargs), text


@contextmanager
def standing_in(places: list[tuple[nn.ModuleList, int]], stand_ins: list[Any]) -> Iterator[None]:
    """Put modules in the place of blocks; on leaving, the blocks are back."""
    blocks = [(stack, i, stack[i]) for stack, i in places]
    try:
        for (stack, i), module in zip(places, stand_ins, strict=True):
            stack[i] = module
        yield
    finally:
        for stack, i, block in blocks:
            stack[i] = block


def capture_stream(
    family: Family, transformer: Any, batch: Batch, forward: Callable[[], object], own_vector: bool
) -> Stream:
    """What the first block receives as text in `forward`, as a stream to be carried.

    Args:
        own_vector: whether the vector that the first block receives there modulates the text; otherwise the prompt's
            does.
    """
    if family.joint is None:
        raise ValueError(f"{family.name} has no joint attention")
    places = [(transformer.get_submodule(path), i) for path, i, _ in blocks_of(family, transformer)]
    carriers = family.joint.text_blocks(transformer) if family.joint.text_blocks else len(places)
    stream = Stream(family.joint, batch, places[:carriers])
    with standing_in(places, [Listen(stack[i], stream, n == 0) for n, (stack, i) in enumerate(places)]):
        forward()
    if not own_vector:
        stream.vector = None
    return stream


@contextmanager
def carrying(stream: Stream | None, batch: Batch) -> Iterator[None]:
    """Make the model's blocks carry the stream within the block, in a pass whose rows are those of `batch`."""
    if stream is None:
        yield
        return
    before, norms = stream.batch, stream.norms if stream.vector is not None else []
    try:
        stream.batch = batch
        with standing_in(stream.carriers, stream.stand_ins), modulating(norms):
            yield
    finally:
        stream.batch = before
