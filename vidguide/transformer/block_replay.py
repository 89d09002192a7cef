"""Block replay: record block outputs in one pass, so that a second one starts at the first block that differs."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor

from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.class_swap import subclass_of, swapped_class

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

    def set_tokens(self, tokens: int) -> None:
        """Set the number of the video's tokens, the last ones of a packed sequence."""
        for mode in self.modes:
            mode.tokens = tokens

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make the blocks follow their modes within the block; restore their classes afterwards."""
        with ExitStack() as stack:
            for block, mode in zip(self.blocks, self.modes, strict=True):
                stack.enter_context(swapped_class(block, block_class, MODE, mode))
            yield

    @contextmanager
    def recording(self, starts: Iterable[int]) -> Iterator[None]:
        """Record, in the passes within, the outputs that reruns beginning at any of `starts` need."""
        modes = [self.modes[start - 1] for start in starts if start > 0]
        try:
            for mode in modes:
                mode.record = True
            yield
        finally:
            for mode in modes:
                mode.record = False

    @contextmanager
    def starting_at(self, first: int, batch: Batch) -> Iterator[None]:
        """Skip the blocks before `first`, which receives the recorded output of the conditional rows of `batch`.

        Only the last skipped block's output matters, since no transformer reads an earlier one again; the others return
        their input, which has the right shape.

        Raises:
            RuntimeError: that output was not recorded.
        """
        skipped = self.modes[:first]
        if skipped and skipped[-1].output is None:
            raise RuntimeError(f"block {first - 1} was not recorded, so a pass cannot begin at block {first}")
        try:
            if skipped:
                skipped[-1].replay = batch.conditional(skipped[-1].output)
            with self.skipping(range(len(skipped))):
                yield
        finally:
            if skipped:
                skipped[-1].replay = None

    @contextmanager
    def skipping(self, indices: Iterable[int]) -> Iterator[None]:
        """Make some blocks return their input within the block."""
        modes = [self.modes[index] for index in indices]
        before = [mode.skip for mode in modes]
        try:
            for mode in modes:
                mode.skip = True
            yield
        finally:
            for mode, skip in zip(modes, before, strict=True):
                mode.skip = skip

    @contextmanager
    def changing(self, inputs: Mapping[int, InputChange]) -> Iterator[None]:
        """Change the video tokens from which some blocks compute their update, within the block."""
        before = [(self.modes[index], self.modes[index].change) for index in inputs]
        try:
            for index, change in inputs.items():
                self.modes[index].change = change
            yield
        finally:
            for mode, previous in before:
                mode.change = previous

    def clear(self) -> None:
        """Release all recorded outputs."""
        for mode in self.modes:
            mode.output = None
