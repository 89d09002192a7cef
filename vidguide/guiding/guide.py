"""guide(): a context manager that applies guidances to a pipeline or a bare transformer, and restores it afterwards."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from vidguide.guidances.base import Guidance
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.guiding.forward import GuidedForward
from vidguide.kernels import dispatch as kernels
from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import subclass_of, swapped_class
from vidguide.transformer.compile import check_not_compiled_around

FORWARD, RUN = "_vidguide_forward", "_vidguide_run"


@contextmanager
def guide(model: Any, *guidances: Guidance, scheduler: Any = None) -> Iterator[Run]:
    """Guide every call of a pipeline or transformer within the block.

    Args:
        model: a diffusers pipeline with a video transformer, or such a transformer by itself.
        guidances: any number, each kind once; their order does not matter.
        scheduler: for a bare transformer, the scheduler of the sampling loop, which defines the step. Without one a
            guidance must act over the whole run, and nothing is cached between calls. A bare transformer's calls are
            conditional, except within `transformer.cache_context("uncond")`.

    Yields:
        The :class:`vidguide.tracing.run.Run`: the current step, and a trace of the guidances' effects.

    Raises:
        TypeError, ValueError, LookupError: before anything is changed, if the model is of no known family, is already
            guided, or does not fit the guidances' parameters.

    On exit, also by an exception, the model and the pipeline are restored bit for bit.
    """
    pipe = None if isinstance(model, nn.Module) else model
    transformers = [model] if pipe is None else transformers_of(pipe)
    scheduler = scheduler or getattr(pipe, "scheduler", None)
    check_scheduler(scheduler)
    check_guidances(guidances, scheduler)
    kernels.mode()
    run = Run()
    for transformer in transformers:
        check_transformer(transformer)
    forwards = [GuidedForward(transformer, pipe, scheduler, guidances, run) for transformer in transformers]
    for forward in forwards:
        forward.peers = forwards
        forward.check()
    with ExitStack() as stack:
        for forward in forwards:
            stack.enter_context(forward.intercepted())
            stack.enter_context(swapped_class(forward.model.transformer, guided_class, FORWARD, forward))
        if scheduler is not None:
            stack.enter_context(swapped_class(scheduler, counting_class, RUN, (run, id(scheduler))))
        yield run


def check_transformer(transformer: nn.Module) -> None:
    """Refuse a transformer that is already guided.

    Raises:
        ValueError: with the cure.
    """
    if FORWARD in vars(transformer):
        raise ValueError(f"{type(transformer).__name__} is guided already: list all guidances in one guide(...)")


def transformers_of(pipe: Any) -> list[nn.Module]:
    """Return the denoising transformers of a pipeline: one, or two in a mixture of experts over timesteps.

    Raises:
        TypeError: the object has none.
    """
    candidates = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    transformers = [module for module in candidates if isinstance(module, nn.Module)]
    if not transformers:
        raise TypeError(f"model={type(pipe).__name__}: give a diffusers pipeline with a transformer, or a transformer")
    return transformers


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


def check_guidances(guidances: tuple[Any, ...], scheduler: Any) -> None:
    """Validate: only guidances, no duplicates, and a scheduler for those whose effect depends on the step.

    Raises:
        TypeError, ValueError: naming the guidance and the cure.
    """
    for guidance in guidances:
        if not isinstance(guidance, Guidance):
            raise TypeError(f"guide(..., {guidance!r}): not a guidance; give NAG(...), CFG(...)")
        if scheduler is None and guidance.needs_steps:
            window = f"(start={guidance.start}, stop={guidance.stop})" if guidance.windowed else ""
            what = f"{type(guidance).__name__}{window}: its effect depends on the step"
            raise ValueError(f"{what}; a bare transformer needs scheduler= as well")
    check_kinds(guidances)


def check_kinds(guidances: tuple[Guidance, ...]) -> None:
    """Refuse guidances of which only one may be given.

    Raises:
        ValueError: naming them and the cure.
    """
    rules = [type(guidance).__name__ for guidance in guidances if isinstance(guidance, CFG)]
    if len(rules) > 1:
        raise ValueError(f"{' and '.join(rules)} both combine the two predictions: keep one of them")
    negatives = [type(guidance).__name__ for guidance in guidances if isinstance(guidance, NegativePromptGuidance)]
    if len(set(negatives)) > 1:
        raise ValueError(f"{' and '.join(negatives)} act on the same attention to text: keep one of them")
    kinds = [type(guidance).__name__ for guidance in guidances]
    twice = {kind for kind in kinds if kinds.count(kind) > 1}
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} is given twice: put its parameters into one")


@functools.cache
def guided_class(original: Any) -> Any:
    """Return a subclass of a transformer's class whose calls and cache contexts use a `GuidedForward`. Cached."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_not_compiled_around()
        return vars(self)[FORWARD](functools.partial(original.__call__, self), args, kwargs)

    def cache_context(self: Any, name: str, **kwargs: Any) -> Any:
        return vars(self)[FORWARD].contexts.pipeline(name, **kwargs)

    cached = hasattr(original, "cache_context") or original.__name__ == "OptimizedModule"
    return subclass_of(original, __call__=call, **({"cache_context": cache_context} if cached else {}))


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
