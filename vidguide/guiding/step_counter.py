"""Count the steps of a sampling run from the calls of the scheduler that takes them, or of the loop of blocks."""

import copy
import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import subclass_of, swapped_class
from vidguide.transformer.modular_blocks import has_loop, is_loop

RUN, CHECK = "_vidguide_run", "_vidguide_check"


def nothing() -> None:
    """Check nothing."""


class StepCounter:
    """Advance a run with each step of a scheduler, or of the loops of a modular pipeline without one.

    Attributes:
        scheduler: the one that is observed. loops: whether loops are.
        check: called after each step of a scheduler.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.scheduler: Any = None
        self.check: Callable[[], None] = nothing
        self.loops = False
        self._blocks: Any = None  # of the pipeline, with counting loops
        self._observed = ExitStack()

    def observe(self, scheduler: Any, pipe: Any = None) -> None:
        """Observe this scheduler from now on, or the loops of this pipeline if it is None, and nothing else.

        Raises:
            TypeError, ValueError: not a scheduler of diffusers, or one in use by another `guide`.
        """
        if scheduler is self.scheduler and (scheduler is not None or self._blocks is getattr(pipe, "_blocks", None)):
            return
        check_scheduler(scheduler)
        self.close()
        if scheduler is not None:
            self._observed.enter_context(swapped_class(scheduler, counting_class, RUN, (self.run, id(scheduler))))
            self._observed.callback(vars(scheduler).pop, CHECK, None)  # first: an interrupt may hit between the lines
            vars(scheduler)[CHECK] = self.check
            self.scheduler = scheduler
        elif has_loop(pipe):
            self._observe_loops(pipe)

    def _observe_loops(self, pipe: Any) -> None:
        """Replace the pipeline's blocks by a copy with counting loops: pipelines of one class share their blocks."""
        original = pipe._blocks
        pipe._blocks = self._blocks = counting_blocks(original, self.run)
        self._observed.callback(_restore_blocks, pipe, self._blocks, original)
        self.loops = True

    def follow(self, scheduler: Any, pipe: Any) -> None:
        """Observe the scheduler of a pipeline whose transformer is called, if another one was observed until now.

        A loop outside of the pipeline may have set its timesteps already, which begins a run.
        """
        before = self.scheduler
        self.observe(scheduler, pipe)
        if scheduler is not before and getattr(scheduler, "num_inference_steps", None) is not None:
            self.run.begin(step_count(scheduler))

    def close(self) -> None:
        """Restore the scheduler or the blocks."""
        self._observed.close()
        self.scheduler, self.loops, self._blocks = None, False, None


def _restore_blocks(pipe: Any, counting: Any, original: Any) -> None:
    if pipe._blocks is counting:
        pipe._blocks = original


def counting_blocks(block: Any, run: Run) -> Any:
    """Return a block whose loops advance a run: a shallow copy of each loop and of all blocks around it."""
    if is_loop(block):
        original: Any = type(block)
        loop = copy.copy(block)
        loop.__class__ = counting_loop_class(original)
        vars(loop)[RUN] = run, id(loop)
        return loop
    children = getattr(block, "sub_blocks", None) or {}
    counting = {name: counting_blocks(child, run) for name, child in children.items()}
    if all(counting[name] is child for name, child in children.items()):
        return block
    around = copy.copy(block)
    around.sub_blocks = type(children)(counting)
    return around


def check_scheduler(scheduler: Any) -> None:
    """Validate: a scheduler of diffusers, or None, that no other `guide` uses.

    Raises:
        TypeError, ValueError: with the cure.
    """
    if scheduler is None:
        return
    if not (hasattr(scheduler, "set_timesteps") and hasattr(scheduler, "step")):
        raise TypeError(f"scheduler={scheduler!r}: give a scheduler of diffusers, with set_timesteps and step")
    if run_of(scheduler) is not None:
        name = type(scheduler).__name__
        raise ValueError(f"this {name} is in use by another guide(...): give each pipeline a scheduler of its own")


def run_of(counts: Any) -> Run | None:
    """Return the run that a scheduler or a loop of blocks advances; None for a copy, which pipelines may make."""
    run, owner = vars(counts).get(RUN, (None, None))
    return run if owner == id(counts) else None


def step_count(scheduler: Any) -> int:
    """Return the number of steps in the schedule of a scheduler.

    LTXEulerAncestralRFScheduler, given sigmas, lists the last one, 0, as a timestep too: no step begins there.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    timesteps = len(scheduler.timesteps)
    return timesteps if sigmas is None else min(timesteps, len(sigmas) - 1)


@functools.cache
def counting_class(original: Any) -> Any:
    """Return a subclass of a scheduler's class whose `set_timesteps` begins a run and whose `step` advances it."""

    @functools.wraps(original.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original.set_timesteps(self, *args, **kwargs)
        if (run := run_of(self)) is not None:
            run.begin(step_count(self))
        return result

    @functools.wraps(original.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original.step(self, *args, **kwargs)
        if (run := run_of(self)) is not None:
            # Video-to-video starts at a later timestep; only the steps that are taken count.
            steps = step_count(self) - max(getattr(self, "begin_index", None) or 0, run.skipped)
            run.advance(steps, getattr(self, "step_index", None))
            vars(self).get(CHECK, nothing)()
        return result

    return subclass_of(original, set_timesteps=set_timesteps, step=step)


@functools.cache
def counting_loop_class(original: Any) -> Any:
    """Return a subclass of a loop's class whose `progress_bar` begins a run and whose `loop_step` advances it.

    A loop (`LoopSequentialPipelineBlocks` of diffusers) opens its progress bar with the number of steps.
    """

    @functools.wraps(original.progress_bar)
    def progress_bar(self: Any, iterable: Any = None, total: int | None = None) -> Any:
        if (run := run_of(self)) is not None:
            run.begin(total if iterable is None else len(iterable))
        return original.progress_bar(self, iterable, total)

    @functools.wraps(original.loop_step)
    def loop_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original.loop_step(self, *args, **kwargs)
        if (run := run_of(self)) is not None and run.steps is not None:
            run.advance(run.steps)
        return result

    return subclass_of(original, progress_bar=progress_bar, loop_step=loop_step)
