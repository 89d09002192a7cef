"""Sampling of a request in a thread of its own, with progress by step, which a visitor may cancel."""

import queue
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vidguide.clip import Clip
from vidguide.pipelines.generate import generate
from vidguide.pipelines.web.request import TryRequest, Variant, model_settings
from vidguide.pipelines.web.server import Server
from vidguide.tracing.run import Trace


class CancelledError(Exception):
    """A visitor cancelled the request, or left."""


@dataclass(frozen=True)
class Progress:
    """Completed steps of one variant."""

    variant: int
    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """A variant's clip, its trace, and the warnings of its sampling."""

    variant: int
    clip: Clip
    trace: Trace
    notes: tuple[str, ...]


Message = Progress | Finished


def sample_variants(server: Server, request: TryRequest, cancelled: threading.Event) -> Iterator[Message]:
    """Yield the progress and the clips of a request.

    A generator that is closed before its end cancels the request. Requests wait for each other.

    Args:
        server: whose pipeline to use.
        request: of the tab.
        cancelled: set to end the request after its current step.

    Raises:
        CancelledError: it was cancelled. Others: as :func:`vidguide.generate`.
    """
    messages: queue.SimpleQueue[Message | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for message in clips_of(server, request, cancelled, messages):
                messages.put(message)
            messages.put(None)
        except BaseException as error:  # raised again by the generator, in the thread of the visitor
            messages.put(error)

    threading.Thread(target=work, daemon=True, name="sampling").start()
    try:
        while (message := messages.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            yield message
    finally:
        cancelled.set()


def clips_of(
    server: Server, request: TryRequest, cancelled: threading.Event, messages: "queue.SimpleQueue[Any]"
) -> Iterator[Finished]:
    """Yield the clips of a request; their steps are put on a queue."""
    with server.pipeline(request.model, request.setup) as pipe:
        server.limits.check({**server.defaults[request.model], **model_settings(request.model), **request.settings})
        for number, variant in enumerate(request.variants):

            def on_step(step: int, steps: int, number: int = number) -> None:
                messages.put(Progress(number, step, steps))
                check(cancelled)

            check(cancelled)
            messages.put(Progress(number, 0, 0))
            yield sample(pipe, request, variant, number, on_step)


def check(cancelled: threading.Event) -> None:
    """Raise CancelledError if the request was cancelled."""
    if cancelled.is_set():
        raise CancelledError("cancelled")


def sample(pipe: Any, request: TryRequest, variant: Variant, number: int, on_step: Any) -> Finished:
    """Return one clip; an error leaves the pipeline as it was."""
    traces: list[Trace] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        arguments = request.arguments(variant)
        clip = generate(**arguments, pipe=pipe, on_trace=traces.append, on_step=on_step, progress=False)
    notes = dict.fromkeys(str(each.message) for each in caught if each.category is UserWarning)
    return Finished(number, clip, traces[0], tuple(notes))
