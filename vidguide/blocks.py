"""The blocks of a transformer, recorded in one pass so that a second one need not run those that come out the same."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vidguide.patching import as_class

STAGE = "_vidguide_stage"


class Stage:
    """What a block does in the pass at hand: run, run and keep its output, or return a kept output."""

    def __init__(self) -> None:
        self.keep = False
        self.output: Any = None  # what was kept
        self.replay: Any = None  # what to return in place of running
        self.skip: Callable[..., Any] | None = None


@functools.cache
def staged_class(own: Any) -> Any:
    """A block's class that follows its stage, seen from outside: offloading never loads what is skipped."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        stage = getattr(self, STAGE)
        if stage.replay is not None:
            return stage.replay
        if stage.skip is not None:
            return stage.skip(args, kwargs)
        # By super(), which Dynamo follows; `own.__call__` it takes for a call of the class.
        output = super(staged, self).__call__(*args, **kwargs)
        if stage.keep:
            stage.output = output
        return output

    namespace = {"__call__": call, "__module__": own.__module__, "__doc__": own.__doc__}
    staged: Any = type(own.__name__, (own,), namespace)
    return staged


class Blocks:
    """The stages of all blocks of a transformer."""

    def __init__(self, blocks: list[Any], skip: Callable[..., Any]) -> None:
        self.blocks, self.skip = blocks, skip
        self.stages = [Stage() for _ in blocks]

    @contextmanager
    def staged(self) -> Iterator[None]:
        """Let the blocks follow their stages; afterwards they are of their own classes again."""
        with ExitStack() as stack:
            for block, stage in zip(self.blocks, self.stages, strict=True):
                stack.enter_context(as_class(block, staged_class, STAGE, stage))
            yield

    def keep_before(self, layers: Any) -> None:
        """Keep, in the next pass, the outputs that passes beginning at any of these layers start from."""
        for layer in layers:
            if layer > 0:
                self.stages[layer - 1].keep = True

    @contextmanager
    def skipped_before(self, layer: int) -> Iterator[None]:
        """Pass over the blocks before `layer`, which comes to see what the recorded pass gave it.

        All of them return the output kept of the last one: its shape is right for each, and the last one's counts,
        since some transformers add to the stream between blocks but none reads an earlier one again.
        """
        skipped = self.stages[:layer]
        if skipped and skipped[-1].output is None:
            raise RuntimeError(f"block {layer - 1} was not recorded, so a pass cannot begin at block {layer}")
        try:
            for stage in skipped:
                stage.replay = skipped[-1].output
            yield
        finally:
            for stage in skipped:
                stage.replay = None

    @contextmanager
    def passing(self, layers: Any) -> Iterator[None]:
        """Let some blocks pass their input on."""
        try:
            for layer in layers:
                self.stages[layer].skip = self.skip
            yield
        finally:
            for layer in layers:
                self.stages[layer].skip = None

    def stop_keeping(self) -> None:
        """What was kept stays as it is, whatever passes follow."""
        for stage in self.stages:
            stage.keep = False

    def forget(self) -> None:
        """Let go of everything kept."""
        for stage in self.stages:
            stage.keep, stage.output = False, None
