"""Count the steps of a sampling run from the calls of the scheduler that takes them."""

import functools
from contextlib import ExitStack
from typing import Any

from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import subclass_of, swapped_class

RUN = "_vidguide_run"


class StepCounter:
    """Advance a run with each step of a scheduler.

    Attributes:
        scheduler: the one that is observed; None where nothing counts the steps.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.scheduler: Any = None
        self._observed = ExitStack()

    def observe(self, scheduler: Any) -> None:
        """Observe this scheduler from now on, and no other.

        Raises:
            TypeError, ValueError: not a scheduler of diffusers, or one in use by another `guide`.
        """
        if scheduler is self.scheduler:
            return
        check_scheduler(scheduler)
        self.close()
        if scheduler is not None:
            self._observed.enter_context(swapped_class(scheduler, counting_class, RUN, (self.run, id(scheduler))))
        self.scheduler = scheduler

    def close(self) -> None:
        """Restore the scheduler."""
        self._observed.close()
        self.scheduler = None


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


def run_of(scheduler: Any) -> Run | None:
    """Return the run that a scheduler advances; None for a copy of the scheduler, which pipelines may make."""
    run, owner = vars(scheduler).get(RUN, (None, None))
    return run if owner == id(scheduler) else None


@functools.cache
def counting_class(original: Any) -> Any:
    """Return a subclass of a scheduler's class whose `set_timesteps` begins a run and whose `step` advances it."""

    @functools.wraps(original.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original.set_timesteps(self, *args, **kwargs)
        if (run := run_of(self)) is not None:
            run.begin(len(self.timesteps))
        return result

    @functools.wraps(original.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original.step(self, *args, **kwargs)
        if (run := run_of(self)) is not None:
            # Video-to-video starts at a later timestep; only the steps that are taken count.
            steps = len(self.timesteps) - max(getattr(self, "begin_index", None) or 0, run.skipped)
            run.advance(steps, getattr(self, "step_index", None))
        return result

    return subclass_of(original, set_timesteps=set_timesteps, step=step)
