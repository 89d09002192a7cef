"""Joint attention: the second text stream, a negative's text that passes through the blocks together with the prompt's.

The text is captured where the first block receives it, in an auxiliary forward whose blocks return their input; so
everything before the blocks (refiners, pooling, positions, reordering) processes it like a prompt. In the guided call
the first block receives `[prompt | negative]` as its text, every block processes both, and the last one returns the
prompt's alone. There is one video stream. Which tokens attend to which is defined by the attention edit. Where blocks
modulate text by a vector that depends on the text, the auxiliary forward captures the negative's vector too.

Padding at the end of the negative that no token attends to is removed: it changes no other token, and its own outputs
are not used.

Where blocks receive one packed sequence, `[prompt | media]`, the negative's rows are inserted after the prompt's at the
first block and removed after the last one, and in each block's arguments with one row per token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidguide.restoration import restoring
from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.family import Family, Joint, blocks_of
from vidguide.transformer.text_modulation import modulated_norms, norm_calls

TEXT = "encoder_hidden_states"  # the text among the arguments of a model, and of a block unless it is packed
HIDDEN = "hidden_states"  # the video among a block's arguments, or its packed sequence
ALIGNMENT = 32  # of the length of a text without its padding, so that few lengths occur

BlockSlot = tuple[nn.ModuleList, int]  # a list of blocks, and an index in it
Lengths = tuple[int, list[tuple[int, int]]]  # `prompt_length` and `valid_lengths` of a stream


class TextStream:
    """A second text `(B, L, C)` in the joint blocks, for the conditional rows.

    Attributes:
        slots: the blocks that process text. batch: which rows of the pass are conditional.
        text, masks: the second text as the first block receives it, and its block masks by argument name.
        prompt_length: length of the prompt's text in the current call.
        captured_length: length of the second text before its padding was removed.
        vector: `(B, C)`, modulates the second text; None where the prompt's vector modulates both.
        row_arguments: rows of the second text in the block's arguments with one row per token, by name.
        valid_lengths: for kernels called per sample, the numbers of valid prompt and negative tokens of each sample.
    """

    def __init__(self, joint: Joint, batch: Batch, slots: list[BlockSlot]) -> None:
        self.joint, self.batch, self.slots = joint, batch, slots
        self.text = torch.empty(0)
        self.masks: dict[str, Tensor | None] = {}
        self.captured_length = 0
        self.vector: Tensor | None = None
        self.row_arguments: dict[str, Any] = {}
        self.prompt_length = 0
        self.valid_lengths: list[tuple[int, int]] = []
        last, blocks = len(slots) - 1, [stack[i] for stack, i in slots]
        wrapper = TwoTextBlock if joint.packed is None else PackedTextBlock
        self.wrappers = [wrapper(block, self, n == 0, n == last) for n, block in enumerate(blocks)]
        self.norms = norm_calls(blocks, joint.modulation, self)

    @property
    def negative_length(self) -> int:
        """Length of the second text."""
        return self.text.shape[1]

    def remove_padding(self) -> None:
        """Remove trailing tokens of the second text that are masked in every sample, up to an alignment."""
        self.captured_length = length = self.text.shape[1]
        masks = {name: mask[..., mask.shape[-1] - length :] for name, mask in self.masks.items() if mask is not None}
        if self.joint.per_sample or not masks or any(mask.dtype != torch.bool for mask in masks.values()):
            return
        attended = torch.stack([mask.reshape(-1, length).any(0) for mask in masks.values()]).any(0)
        last = int((attended * torch.arange(1, length + 1, device=attended.device)).max())
        length = min(-(-max(last, 1) // ALIGNMENT) * ALIGNMENT, length)
        self.text = self.text[:, :length]
        self.masks = {**self.masks, **{name: mask[..., :length] for name, mask in masks.items()}}

    @property
    def lengths(self) -> Lengths:
        """Lengths of the texts in the current call."""
        return self.prompt_length, self.valid_lengths

    @lengths.setter
    def lengths(self, lengths: Lengths) -> None:
        self.prompt_length, self.valid_lengths = lengths

    def begin_call(self, text: Tensor, masks: list[Tensor | None]) -> Tensor:
        """Return the first block's text, `[prompt | negative]`, and store the lengths of both."""
        self.prompt_length = text.shape[1]
        negative_masks = [self.expand_rows(mask) for mask in self.masks.values() if mask is not None]
        if self.joint.per_sample:
            prompts, negatives = (
                [m.bool().sum(-1).tolist() for m in group if m is not None] for group in (masks, negative_masks)
            )
            self.valid_lengths = list(zip(prompts[0], negatives[0], strict=True))
        return torch.cat([text, self.expand_rows(self.text).to(text.dtype)], 1)

    def expand_rows(self, tensor: Tensor) -> Tensor:
        """Prepend rows for an unconditional half of the batch, which never attends to them."""
        return torch.cat([tensor, tensor]) if self.batch.halved else tensor

    def vector_like(self, vector: Tensor) -> Tensor:
        """Return the vector that modulates the second text, in the dtype and on the device of the prompt's `vector`."""
        assert self.vector is not None
        return self.expand_rows(self.vector).to(vector)

    def split(self, keys: int) -> tuple[slice, slice]:
        """Return the slices of prompt and negative among the `keys` of an attention to the texts alone.

        Its block drops the prompt's leading image tokens; as many leading tokens of the negative are dropped here.
        """
        return slice(0, keys - self.negative_length), slice(self.prompt_length, None)

    def insert(self, value: Any, rows: Any, dim: int) -> Any:
        """Insert rows of the second text after the prompt's in a packed tensor, or in each tensor of a tuple."""
        if isinstance(value, tuple):
            return tuple(self.insert(part, part_rows, dim) for part, part_rows in zip(value, rows, strict=True))
        prompt, media = value.tensor_split([self.prompt_length], dim)
        return torch.cat([prompt, rows.to(value.dtype), media], dim)

    def remove(self, hidden: Tensor) -> Tensor:
        """Remove the second text from a packed sequence `(B, L, C)`."""
        return torch.cat([hidden[:, : self.prompt_length], hidden[:, self.prompt_length + self.negative_length :]], 1)

    def extend_mask(self, name: str, mask: Tensor | None) -> Tensor | None:
        """Append the negative's part to a block's key mask."""
        negative = self.masks[name]
        if mask is None or negative is None:
            return mask
        part = self.expand_rows(negative)[..., negative.shape[-1] - self.negative_length :]
        return torch.cat([mask, part.to(mask.dtype)], -1)


class TwoTextBlock(nn.Module):
    """Wraps a block while a second text stream is installed, and passes it longer text and masks."""

    def __init__(self, block: Any, stream: TextStream, first: bool, last: bool) -> None:
        super().__init__()
        self.block, self.stream, self.first, self.last = block, stream, first, last
        self.arguments = Arguments(block)
        self.train(block.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        stream, arguments = self.stream, self.arguments
        masks = [arguments.get(name, args, kwargs) for name in stream.joint.block_masks]
        if self.first:
            text = stream.begin_call(arguments.get(TEXT, args, kwargs), masks)
            args = arguments.put(TEXT, text, args, kwargs)
        for name, mask in zip(stream.joint.block_masks, masks, strict=True):
            args = arguments.put(name, stream.extend_mask(name, mask), args, kwargs)
        hidden, text = self.block(*args, **kwargs)
        return hidden, text[:, : stream.prompt_length] if self.last else text


class PackedTextBlock(nn.Module):
    """Wraps a block while a second text stream is installed, and passes it a longer packed sequence."""

    def __init__(self, block: Any, stream: TextStream, first: bool, last: bool) -> None:
        super().__init__()
        self.block, self.stream, self.first, self.last = block, stream, first, last
        self.arguments = Arguments(block)
        self.train(block.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        stream, arguments = self.stream, self.arguments
        if self.first:
            hidden = stream.insert(arguments.get(HIDDEN, args, kwargs), stream.text, 1)
            args = arguments.put(HIDDEN, hidden, args, kwargs)
        for name, rows in stream.row_arguments.items():
            args = arguments.put(name, stream.insert(arguments.get(name, args, kwargs), rows, 0), args, kwargs)
        hidden = self.block(*args, **kwargs)
        return stream.remove(hidden) if self.last else hidden


class TextRecorder(nn.Module):
    """Replaces a block in the auxiliary forward: returns its input; the first one records the text it receives."""

    def __init__(self, block: Any, stream: TextStream, first: bool) -> None:
        super().__init__()
        self.stream, self.first, self.arguments = stream, first, Arguments(block)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        text = self.arguments.get(TEXT, args, kwargs)
        if self.first:
            stream, modulation = self.stream, self.stream.joint.modulation
            stream.text = text
            stream.masks = {name: self.arguments.get(name, args, kwargs) for name in stream.joint.block_masks}
            stream.vector = self.arguments.get(modulation.vector, args, kwargs) if modulation else None
        return self.arguments.get(HIDDEN, args, kwargs), text


class PackedTextRecorder(nn.Module):
    """Replaces a block in the auxiliary forward: returns its input; the first one records the rows of the text.

    Args:
        length: number of those rows, which are the first ones.
    """

    def __init__(self, block: Any, stream: TextStream, first: bool, length: int) -> None:
        super().__init__()
        self.stream, self.first, self.length, self.arguments = stream, first, length, Arguments(block)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = self.arguments.get(HIDDEN, args, kwargs)
        packed = self.stream.joint.packed
        if self.first and packed is not None:
            self.stream.text = hidden[:, : self.length]
            values = {name: self.arguments.get(name, args, kwargs) for name in packed.row_arguments}
            self.stream.row_arguments = {name: first_rows(value, self.length) for name, value in values.items()}
        return hidden


def restore_blocks(stack: nn.ModuleList, originals: list[Any]) -> None:
    """Restore the blocks of a list that are replaced by our modules."""
    for index, block in enumerate(stack):
        if isinstance(block, TwoTextBlock | PackedTextBlock | TextRecorder | PackedTextRecorder):
            stack[index] = originals[index]


def first_rows(value: Any, length: int) -> Any:
    """Return the first rows of a tensor, or of each tensor of a tuple."""
    return tuple(part[:length] for part in value) if isinstance(value, tuple) else value[:length]


@contextmanager
def replaced_blocks(slots: list[BlockSlot], modules: list[Any]) -> Iterator[None]:
    """Replace blocks by other modules within the block; restore them afterwards."""
    originals = [(stack, i, stack[i]) for stack, i in slots]

    def restore() -> None:
        for stack, i, block in originals:
            stack[i] = block

    with restoring(restore):
        for (stack, i), module in zip(slots, modules, strict=True):
            stack[i] = module
        yield


def capture_stream(
    family: Family,
    transformer: Any,
    batch: Batch,
    forward: Callable[[], object],
    negative_modulation: bool,
    lengths: tuple[int, int],
) -> TextStream:
    """Return the text that the first block receives in `forward`, as a second text stream.

    Args:
        negative_modulation: whether the vector that the first block receives there modulates the text; otherwise the
            prompt's does.
        lengths: of the prompt and of the negative in the model's arguments, those of their rows in a packed sequence.

    Raises:
        ValueError: the family has no joint attention.
    """
    if family.joint is None:
        raise ValueError(f"{family.name} has no joint attention")
    slots = [(transformer.get_submodule(path), i) for path, i, _ in blocks_of(family, transformer)]
    count = family.joint.text_blocks(transformer) if family.joint.text_blocks else len(slots)
    stream = TextStream(family.joint, batch, slots[:count])
    with replaced_blocks(slots, recorders(stream, slots, lengths)):
        forward()
    stream.remove_padding()
    if not negative_modulation:
        stream.vector = None
    return stream


def recorders(stream: TextStream, slots: list[BlockSlot], lengths: tuple[int, int]) -> list[nn.Module]:
    """Return the modules that replace the blocks in the auxiliary forward."""
    blocks = [stack[i] for stack, i in slots]
    if stream.joint.packed is None:
        return [TextRecorder(block, stream, n == 0) for n, block in enumerate(blocks)]
    stream.prompt_length = lengths[0]
    return [PackedTextRecorder(block, stream, n == 0, lengths[1]) for n, block in enumerate(blocks)]


@contextmanager
def installed_stream(stream: TextStream | None, batch: Batch) -> Iterator[None]:
    """Make the model's blocks process the stream within the block, in a pass whose rows are those of `batch`."""
    if stream is None:
        yield
        return
    before, norms = stream.batch, stream.norms if stream.vector is not None else []

    def restore() -> None:
        stream.batch = before

    with restoring(restore):
        stream.batch = batch
        with replaced_blocks(stream.slots, stream.wrappers), modulated_norms(norms):
            yield
