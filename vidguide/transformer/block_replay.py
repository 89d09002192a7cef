"""The blocks of a transformer, recorded in one pass so that a second one need not run those that come out the same."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.class_swap import as_class, subclass

STAGE = "_vidguide_stage"


class Stage:
    """What a block does in the pass at hand: run, run and keep its output, pass its input on, or return a kept output.

    Attributes:
        rows, tokens: size of the video in the block's latest call, where text shares its attention.
    """

    def __init__(self, block: Any, output: tuple[str, ...], joint: bool) -> None:
        self.arguments = Arguments(block)
        self.passed = self.arguments.passing(output)
        self.joint = joint
        self.rows = self.tokens = 0
        self.keep = self.skip = False
        self.output: Any = None  # what was kept
        self.replay: Any = None  # what to return in place of running


@functools.cache
def staged_class(own: Any) -> Any:
    """A block's class that follows its stage, seen from outside: offloading never loads what is skipped."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        stage = getattr(self, STAGE)
        if stage.replay is not None:
            return stage.replay
        if stage.skip:
            return stage.passed(args, kwargs)
        if stage.joint:
            stage.rows, stage.tokens = stage.arguments.get("hidden_states", args, kwargs).shape[:2]
        # By super(), which Dynamo follows; `own.__call__` it takes for a call of the class.
        output = super(staged, self).__call__(*args, **kwargs)
        if stage.keep:
            stage.output = output
        return output

    staged = subclass(own, __call__=call)
    return staged


class Blocks:
    """The stages of all blocks of a transformer, in the order in which they run; a place is an index in it.

    Args:
        output: which of its arguments a block returns anew.
        joint: whether text and video share the blocks' attention.
    """

    def __init__(self, blocks: list[Any], output: tuple[str, ...], joint: bool) -> None:
        self.blocks = blocks
        self.stages = [Stage(block, output, joint) for block in blocks]

    @contextmanager
    def staged(self) -> Iterator[None]:
        """Let the blocks follow their stages; afterwards they are of their own classes again."""
        with ExitStack() as stack:
            for block, stage in zip(self.blocks, self.stages, strict=True):
                stack.enter_context(as_class(block, staged_class, STAGE, stage))
            yield

    def keep_before(self, places: Iterable[int]) -> None:
        """Keep, in the next pass, the outputs that passes beginning at any of these places start from."""
        for place in places:
            if place > 0:
                self.stages[place - 1].keep = True

    @contextmanager
    def skipped_before(self, place: int, batch: Batch) -> Iterator[None]:
        """Pass over the blocks before `place`, which comes to see what the recorded pass gave its conditional rows.

        Only the last one's output counts, whatever is added to the stream between blocks, since no transformer reads
        an earlier one again; the others pass their input on, which has the right shape.
        """
        skipped = self.stages[:place]
        if skipped and skipped[-1].output is None:
            raise RuntimeError(f"block {place - 1} was not recorded, so a pass cannot begin at block {place}")
        try:
            for stage in skipped:
                stage.skip = True
            if skipped:
                skipped[-1].replay = batch.conditional(skipped[-1].output)
            yield
        finally:
            for stage in skipped:
                stage.skip, stage.replay = False, None

    @contextmanager
    def passing(self, places: Iterable[int]) -> Iterator[None]:
        """Let some blocks pass their input on."""
        stages = [self.stages[place] for place in places]
        try:
            for stage in stages:
                stage.skip = True
            yield
        finally:
            for stage in stages:
                stage.skip = False

    def stop_keeping(self) -> None:
        """What was kept stays as it is, whatever passes follow."""
        for stage in self.stages:
            stage.keep = False

    def forget(self) -> None:
        """Let go of everything kept."""
        for stage in self.stages:
            stage.keep, stage.output = False, None
