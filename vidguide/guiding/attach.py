"""attach(), detach() and attached(): guidances that stay on a pipeline, for servers, notebooks and web interfaces."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vidguide.calls.encoded_prompts import cached_encode_prompt
from vidguide.calls.negative_texts import NegativeTexts
from vidguide.guidances.base import Guidance
from vidguide.guiding.guide import ATTACHED, guided
from vidguide.guiding.guided_pipeline import PipelineCalls
from vidguide.restoration import restoring
from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import subclass_of


def attach(pipe: Any, *guidances: Guidance) -> None:
    """Guide every call of a pipeline from now on, as within `with guide(pipe, *guidances)` around each call.

    Between calls the transformer and the scheduler are unchanged: they can be replaced, compiled, offloaded, saved and
    shared with other pipelines. A copy of the pipeline has the guidances attached too. Guidances that were attached
    before are replaced.

    Args:
        pipe: a diffusers pipeline with a video transformer.
        guidances: as for :func:`vidguide.guide`. `NAG()` and `VSF()` take the `negative_prompt` of each call.

    Raises:
        TypeError, ValueError, LookupError: nothing is attached, if the pipeline does not fit the guidances.

    Examples:
        >>> from vidguide import NAG, attach, attached, detach
        >>> from vidguide.pipelines.loading.load import load
        >>> pipe = load("tiny-4step", device="cpu", progress=False)
        >>> attach(pipe, NAG())
        >>> small = dict(height=32, width=32, num_frames=5, num_inference_steps=2, guidance_scale=1.0)
        >>> video = pipe("a large circle", negative_prompt="red", **small).frames[0]
        >>> len(attached(pipe).trace) > 0
        True
        >>> detach(pipe)
    """
    if isinstance(pipe, nn.Module):
        raise TypeError(f"attach({type(pipe).__name__}): give a pipeline; a transformer by itself is guided by guide()")
    if not guidances:
        raise ValueError("attach(pipe): give at least one guidance, or call detach(pipe)")
    with guided(pipe, guidances):
        pass  # checks the guidances
    pipe.__class__ = attached_class(_unattached_class(pipe))
    vars(pipe)[ATTACHED] = Attachment(guidances)


def detach(pipe: Any) -> None:
    """Remove the guidances that are attached to a pipeline.

    Raises:
        ValueError: none are attached, or a call is running.

    Examples:
        >>> from vidguide import detach
        >>> from vidguide.pipelines.loading.load import load
        >>> detach(load("tiny-4step", device="cpu", progress=False))
        Traceback (most recent call last):
        ValueError: nothing is attached to this WanPipeline: call attach(pipe, NAG()) first
    """
    attachment_of(pipe).check_idle(pipe)
    pipe.__class__ = _unattached_class(pipe)
    del vars(pipe)[ATTACHED]


def attached(pipe: Any) -> Run:
    """Return the run of the latest call of a pipeline with attached guidances: its steps and its trace.

    Raises:
        ValueError: none are attached.

    Examples:
        >>> from vidguide import NAG, attach, attached
        >>> from vidguide.pipelines.loading.load import load
        >>> pipe = load("tiny-4step", device="cpu", progress=False)
        >>> attach(pipe, NAG())
        >>> print(attached(pipe).trace)  # no call yet
        nothing was measured in this run
    """
    return attachment_of(pipe).run


class Attachment:
    """Guidances that are attached to a pipeline. A copy has the same guidances, and nothing of any run.

    Attributes:
        guidances: as given. run: of the latest call. texts: encoded negative prompts of all calls.
    """

    def __init__(self, guidances: tuple[Guidance, ...]) -> None:
        self.guidances, self.run, self.texts = guidances, Run(), NegativeTexts()
        self._running: dict[str, object] = {}  # "call", while one runs: `setdefault` is atomic and needs no release

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.guidances,)

    @contextmanager
    def guided(self, pipe: Any) -> Iterator[PipelineCalls]:
        """Guide one call of the pipeline, in the block.

        Raises:
            RuntimeError: a call is running, in another thread or in this one.
        """
        call = object()
        with restoring(functools.partial(self._end, call)):
            if self._running.setdefault("call", call) is not call:
                raise _busy(pipe)
            with guided(pipe, self.guidances, texts=self.texts) as (self.run, calls):
                assert calls is not None
                yield calls

    def _end(self, call: object) -> None:
        if self._running.get("call") is call:
            self._running.pop("call")

    def check_idle(self, pipe: Any) -> None:
        """Refuse while a call is running.

        Raises:
            RuntimeError: with the cure.
        """
        if self._running:
            raise _busy(pipe)


def _busy(pipe: Any) -> RuntimeError:
    name = type(pipe).__name__
    return RuntimeError(f"this {name} is sampling with attached guidances: wait for it, or give each thread its own")


def attachment_of(pipe: Any) -> Attachment:
    """Return the attachment of a pipeline.

    Raises:
        ValueError: it has none.
    """
    attachment: Attachment | None = getattr(pipe, "__dict__", {}).get(ATTACHED)
    if attachment is None:
        raise ValueError(f"nothing is attached to this {type(pipe).__name__}: call attach(pipe, NAG()) first")
    return attachment


@functools.cache
def attached_class(original: Any) -> Any:
    """Return a subclass of a pipeline's class whose calls are guided by what is attached to it. Cached."""

    @functools.wraps(original.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        original_call = functools.partial(original.__call__, self)
        if ATTACHED not in vars(self):  # made by `from_pretrained` of this class
            return original_call(*args, **kwargs)
        with attachment_of(self).guided(self) as calls:
            return calls(original_call, args, kwargs)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return _new, (original,), vars(self).copy()

    return subclass_of(
        original, __call__=call, __reduce_ex__=reduce, _unattached=original, **cached_encode_prompt(original)
    )


def _new(original: Any) -> Any:
    """Return an empty pipeline of the class, for a copy or an unpickled one."""
    attached = attached_class(original)
    return attached.__new__(attached)


def _unattached_class(pipe: Any) -> Any:
    return getattr(type(pipe), "_unattached", type(pipe))
