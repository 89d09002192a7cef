"""guide(): a context manager that applies guidances to a pipeline or a bare transformer, and restores it afterwards."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from vidguide.calls.negative_texts import NegativeTexts
from vidguide.guidances.base import Guidance
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.guiding.compatibility import check_steps_needed
from vidguide.guiding.forward import GuidedForward
from vidguide.guiding.guided_pipeline import PIPELINE, PipelineCalls, guided_pipeline_class
from vidguide.guiding.ledger import Ledger
from vidguide.guiding.ownership import Ownership, claimed, wait_for_calls
from vidguide.guiding.step_counter import StepCounter, check_scheduler
from vidguide.kernels import dispatch as kernels
from vidguide.restoration import restoring
from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import subclass_of, swapped_class
from vidguide.transformer.compile import check_not_compiled_around
from vidguide.transformer.modular_blocks import has_loop

FORWARD, ATTACHED = "_vidguide_forward", "_vidguide_attached"


@contextmanager
def guide(model: Any, *guidances: Guidance, scheduler: Any = None) -> Iterator[Run]:
    """Guide every call of a pipeline or transformer within the block.

    Args:
        model: a diffusers pipeline with a video transformer, or such a transformer by itself.
        guidances: any number, each kind once; their order does not matter.
        scheduler: for a bare transformer, the scheduler of the sampling loop, which defines the step; a pipeline's own
            by default, or the denoising loop of a modular pipeline that has none. Where nothing defines the step, a
            guidance must act over the whole run, and nothing is cached between calls but the keys of a negative given
            as embeddings, while all that they are made from is unchanged. A bare transformer's calls are conditional,
            except within `transformer.cache_context("uncond")`.

    Yields:
        The :class:`vidguide.tracing.run.Run`: the current step, and a trace of the guidances' effects.

    Raises:
        TypeError, ValueError, LookupError: before anything is changed, if the model is of no known family, is already
            guided, or does not fit the guidances' parameters.

    On exit, also by an exception, the model and the pipeline are restored bit for bit. Texts that a pipeline encoded
    within a block are not encoded again in later ones, see :class:`vidguide.calls.encoded_prompts.EncodedPrompts`.

    Guided are calls of the thread or asyncio task that opened the block, of tasks and `asyncio.to_thread` calls that
    were created within it, and calls of this pipeline from any thread. Calls of the transformer by others, as through
    another pipeline that shares it, are not guided, and wait while a guided one is at work (`Run.foreign_calls`).

    Examples:
        >>> from vidguide import NAG, guide
        >>> from vidguide.pipelines.loading.load import load
        >>> pipe = load("tiny-4step", device="cpu", progress=False)
        >>> with guide(pipe, NAG(negative_prompt="red")) as run:
        ...     small = dict(height=32, width=32, num_frames=5, num_inference_steps=2, guidance_scale=1.0)
        ...     video = pipe("a large circle", **small).frames[0]
        >>> print(*[record.step for record in run.trace if record.layer == 0])  # steps in which it acted
        0 1
    """
    if ATTACHED in getattr(model, "__dict__", {}):
        raise ValueError(f"{type(model).__name__} has guidances attached: detach(pipe) first, or attach all of them")
    with guided(model, guidances, scheduler, whole=True) as (run, _):
        yield run


@contextmanager
def guided(
    model: Any,
    guidances: tuple[Guidance, ...],
    scheduler: Any = None,
    texts: NegativeTexts | None = None,
    whole: bool = False,
) -> Iterator[tuple[Run, PipelineCalls | None]]:
    """Guide the transformers of a model within the block.

    Args:
        texts: cache of encoded negative prompts, a new one by default.
        whole: whether to guide the pipeline's calls too; otherwise its class is left unchanged.

    Yields:
        The run, and the wrapper for the pipeline's calls; None for a bare transformer.
    """
    steps, ownership = StepCounter(Run()), Ownership()
    calls = None if isinstance(model, nn.Module) else PipelineCalls(model, guidances, steps, ownership, scheduler)
    transformers = [model] if calls is None else calls.transformers
    # The claim comes first: a transformer that is guided already has a scheduler in use too.
    with restoring(ownership.release), claimed(transformers, ownership):
        scheduler = scheduler or getattr(model, "scheduler", None)
        check_scheduler(scheduler)
        check_guidances(guidances)
        if scheduler is None and not has_loop(model):
            check_steps_needed(guidances, model)
        kernels.mode()
        texts = texts or NegativeTexts()
        forwards = [GuidedForward(one, guidances, steps, ownership, calls, texts) for one in transformers]
        for forward in forwards:
            forward.peers = forwards
            forward.check()
        ledger = ledger_of(model, forwards, steps)
        with restoring(ledger.restore), ExitStack() as stack:
            for forward in forwards:
                stack.enter_context(forward.intercepted())
                stack.enter_context(swapped_class(forward.model.transformer, guided_class, FORWARD, forward))
            stack.callback(steps.close)
            steps.observe(scheduler, model)
            if whole and calls is not None and callable(model):
                stack.enter_context(swapped_class(model, guided_pipeline_class, PIPELINE, calls))
            stack.enter_context(ownership.owning())
            stack.callback(ownership.close)
            wait_for_calls(transformers)
            yield steps.run, calls


def ledger_of(model: Any, forwards: Sequence[GuidedForward], steps: StepCounter) -> Ledger:
    """Return the ledger of a pipeline or transformer that is to be guided."""
    ledger = Ledger()
    ledger.add(steps.close)
    ledger.add_objects([model, *(forward.model.transformer for forward in forwards)])
    for forward in forwards:
        ledger.add(forward.restore)
        ledger.add_model(forward.model.original)
    return ledger


def check_guidances(guidances: tuple[Any, ...]) -> None:
    """Validate: only guidances, and no duplicates.

    Raises:
        TypeError, ValueError: naming the guidance and the cure.
    """
    for guidance in guidances:
        if not isinstance(guidance, Guidance):
            raise TypeError(f"guide(..., {guidance!r}): not a guidance; give NAG(...), CFG(...)")
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
        forward, original_call = vars(self).get(FORWARD), functools.partial(original.__call__, self)
        if forward is None:  # the block ended in another thread
            return original_call(*args, **kwargs)
        return forward(original_call, args, kwargs)

    def cache_context(self: Any, name: str, **kwargs: Any) -> Any:
        forward = vars(self).get(FORWARD)
        if forward is None:
            return self.cache_context(name, **kwargs)
        contexts = forward.contexts
        return (contexts.pipeline if forward.ownership.owns() else contexts.foreign)(name, **kwargs)

    cached = hasattr(original, "cache_context") or original.__name__ == "OptimizedModule"
    return subclass_of(original, __call__=call, **({"cache_context": cache_context} if cached else {}))
