"""Block replay: record block outputs in one pass, so that a second one starts at the first block that differs."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from vidguide.restoration import restoring
from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.class_swap import subclass_of, swapped_classes

MODE = "_vidguide_block_mode"


class InputChange(Protocol):
    """Returns the video tokens `(B, L, C)` from which a block computes its update."""

    def __call__(self, tokens: Tensor) -> Tensor: ...


class BlockMode:
    """What a block does in the current pass: run, run and record its output, return its input, or replay an output.

    Attributes:
        video: name of the argument that holds the video's tokens. change: input change of the block, or None.
        counts: whether `rows` and `tokens` are those of `hidden_states` in the block's latest call.
        rows, tokens: size of the video, where text shares its attention.
        record, skip: the mode. output: the recorded output. replay: an output to return without running.
    """

    def __init__(self, block: Any, output: tuple[str, ...], counts: bool) -> None:
        self.arguments = Arguments(block)
        self.pass_input = self.arguments.passing(output)
        self.video, self.counts = output[0], counts
        self.change: InputChange | None = None
        self.rows = self.tokens = 0
        self.record = self.skip = False
        self.output: Any = None
        self.replay: Any = None

    def changed(
        self, change: InputChange, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], Tensor]:
        """Return arguments with the video's tokens x changed to x', setting them in `kwargs`, and `x - x'`.

        A block computes `x + f(x)`: its output for x' plus that difference is `x + f(x')`.
        """
        tokens = self.arguments.get(self.video, args, kwargs)
        new_tokens = change(tokens)
        return self.arguments.put(self.video, new_tokens, args, kwargs), tokens - new_tokens


@functools.cache
def block_class(original: Any) -> Any:
    """Return a subclass of a block that follows its `BlockMode` in `__call__`, so that offload hooks never load what
    is skipped. Cached, as compiled graphs are."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        mode = getattr(self, MODE)
        if mode.replay is not None:
            return mode.replay
        if mode.skip:
            return mode.pass_input(args, kwargs)
        if mode.counts:
            mode.rows, mode.tokens = mode.arguments.get("hidden_states", args, kwargs).shape[:2]
        change = mode.change
        if change is not None:
            args, difference = mode.changed(change, args, kwargs)
        # super(), which Dynamo follows; it takes `original.__call__` for a call of the class.
        output = super(swapped, self).__call__(*args, **kwargs)
        if change is not None:
            output = added(output, difference)
        if mode.record:
            mode.output = output
        return output

    swapped = subclass_of(original, __call__=call)
    return swapped


def added(output: Any, difference: Tensor) -> Any:
    """Return a block's output with something added to the video's tokens, which are the first of several outputs."""
    if isinstance(output, tuple):
        return (output[0] + difference, *output[1:])
    return output + difference


def set_mode(block: Any, kind: Any, mode: BlockMode | None) -> None:
    """Set the class of a block, and the mode that it follows, if any."""
    vars(block)[MODE] = mode
    block.__class__ = kind
    if mode is None:
        del vars(block)[MODE]


class BlockReplay:
    """The modes of all blocks of a transformer, in the order in which they run.

    Args:
        blocks: the blocks, in execution order.
        output: names of the arguments that a block returns updated.
        counts: whether the blocks receive the video apart from the text that shares their attention, and count its
            tokens; in a packed sequence :meth:`set_tokens` does.
    """

    def __init__(self, blocks: list[Any], output: tuple[str, ...], counts: bool) -> None:
        self.blocks = blocks
        self.modes = [BlockMode(block, output, counts) for block in blocks]
        originals: list[Any] = [type(block) for block in blocks]
        self.classes = [block_class(original) for original in originals]

    def set_tokens(self, tokens: int) -> None:
        """Set the number of the video's tokens, the last ones of a packed sequence."""
        for mode in self.modes:
            mode.tokens = tokens

    @property
    def packed_tokens(self) -> int | None:
        """The number that was set by :meth:`set_tokens`; None where the blocks count the video's tokens."""
        return None if not self.modes or self.modes[0].counts else self.modes[0].tokens

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make the blocks follow their modes within the block; restore their classes afterwards."""
        with swapped_classes(list(zip(self.blocks, self.modes, strict=True)), block_class, MODE):
            yield

    @contextmanager
    def reinstalled(self, packed_tokens: int | None) -> Iterator[None]:
        """Make the blocks follow their modes, also after :meth:`installed` has ended, or in another `guide`."""
        before = [(type(block), vars(block).get(MODE)) for block in self.blocks]

        def restore() -> None:
            for block, (kind, mode) in zip(self.blocks, before, strict=True):
                set_mode(block, kind, mode)

        with restoring(restore):
            for block, mode, kind in zip(self.blocks, self.modes, self.classes, strict=True):
                set_mode(block, kind, mode)
            if packed_tokens is not None:
                self.set_tokens(packed_tokens)
            yield

    @contextmanager
    def recording(self, starts: Iterable[int]) -> Iterator[None]:
        """Record, in the passes within, the outputs that reruns beginning at any of `starts` need."""
        with self._set("record", {start - 1: True for start in starts if start > 0}):
            yield

    @contextmanager
    def starting_at(self, first: int, batch: Batch) -> Iterator[None]:
        """Skip the blocks before `first`, which receives the recorded output of the conditional rows of `batch`.

        Only the last skipped block's output matters, since no transformer reads an earlier one again; the others return
        their input, which has the right shape.

        Raises:
            RuntimeError: that output was not recorded.
        """
        output = self.modes[first - 1].output if first else None
        if first and output is None:
            raise RuntimeError(f"block {first - 1} was not recorded, so a pass cannot begin at block {first}")
        with self._set("replay", {first - 1: batch.conditional(output)} if first else {}), self.skipping(range(first)):
            yield

    @contextmanager
    def skipping(self, indices: Iterable[int]) -> Iterator[None]:
        """Make some blocks return their input within the block."""
        with self._set("skip", dict.fromkeys(indices, True)):
            yield

    @contextmanager
    def changing(self, inputs: Mapping[int, InputChange]) -> Iterator[None]:
        """Change the video tokens from which some blocks compute their update, within the block."""
        with self._set("change", inputs):
            yield

    @contextmanager
    def _set(self, attribute: str, values: Mapping[int, Any]) -> Iterator[None]:
        """Set an attribute of some modes, by their index, within the block."""
        before = {index: getattr(self.modes[index], attribute) for index in values}

        def restore() -> None:
            for index, value in before.items():
                setattr(self.modes[index], attribute, value)

        with restoring(restore):
            for index, value in values.items():
                setattr(self.modes[index], attribute, value)
            yield

    def clear(self) -> None:
        """Let every block run as it is, and release all recorded outputs."""
        for mode in self.modes:
            mode.output = mode.replay = mode.change = None
            mode.record = mode.skip = False
