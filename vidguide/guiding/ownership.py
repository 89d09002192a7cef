"""Ownership of a transformer within `guide`: which of its callers are guided, and one of them at a time."""

import gc
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from torch import nn

from vidguide.restoration import release_all, restoring

CLAIM = "_vidguide_owner"
GUIDED_CLASS = "vidguide.guiding.guide"  # the module that defines it
POLL_SECONDS = 0.001

# A thread has a context; a task of asyncio and `asyncio.to_thread` have a copy of the one in which they were created.
_owned: ContextVar[tuple["Ownership", ...]] = ContextVar("vidguide_owned", default=())


class Ownership:
    """Ownership of the transformers of one `guide`.

    Owners are the context that opened the block, contexts that were copied from it within the block, and calls of the
    guided pipeline from any thread. All others are foreign callers, whose calls are not guided.

    Attributes:
        lock: held in each call of the transformers, guided or not, as plans are installed on modules that all share.
        closed: whether the block has ended.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.closed = False
        self._sampling: dict[str, int] = {}  # "thread", while a pipeline's call runs: `setdefault` is atomic

    def owns(self) -> bool:
        """Return whether the running code is of an owner."""
        return any(one is self for one in _owned.get())

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Make the context an owner within the block."""
        if self.owns():
            yield
            return
        with restoring(self._disown):
            _owned.set((*_owned.get(), self))
            yield

    def _disown(self) -> None:
        _owned.set(tuple(one for one in _owned.get() if one is not self))

    @contextmanager
    def sampling(self, name: str) -> Iterator[None]:
        """Mark a call of the guided pipeline, which is an owner's.

        Args:
            name: of the pipeline's class.

        Raises:
            RuntimeError: a call runs in another thread, or the block ended meanwhile.
        """
        thread = threading.get_ident()
        if thread == self._sampling.get("thread"):
            yield  # a pipeline that calls itself
            return
        with restoring(self._end_sampling), self.owning():
            self._sampling.setdefault("thread", thread)
            self.check_turn(name)
            yield
            if self.closed:
                raise RuntimeError(f"guide(...) ended while this {name} was sampling in another thread: wait for it")

    def _end_sampling(self) -> None:
        if self._sampling.get("thread") == threading.get_ident():
            self._sampling.pop("thread", None)

    def check_turn(self, name: str) -> None:
        """Refuse an owner's call while the guided pipeline samples in another thread.

        Raises:
            RuntimeError: with the cure.
        """
        if self._sampling.get("thread", threading.get_ident()) != threading.get_ident():
            raise RuntimeError(
                f"this {name} is in use by a guided pipeline that samples in another thread: wait for it, or give each "
                "thread a pipeline"
            )

    def close(self) -> None:
        """Wait for the call that is at work, and hold back all others, until :meth:`release`."""
        self.lock.acquire()
        self.closed = True

    def release(self) -> None:
        """Release the lock, however often this thread holds it."""
        release_all(self.lock)


@contextmanager
def claimed(transformers: Sequence[nn.Module], ownership: Ownership) -> Iterator[None]:
    """Claim transformers within the block.

    Raises:
        ValueError: one is guided already.
    """

    def restore() -> None:
        for transformer in transformers:
            if vars(transformer).get(CLAIM) is ownership:
                vars(transformer).pop(CLAIM, None)

    with restoring(restore):
        for transformer in transformers:
            claim(transformer, ownership)
        yield


def claim(transformer: nn.Module, ownership: Ownership) -> None:
    """Claim a transformer, which no other `guide` may have claimed.

    Raises:
        ValueError: with the cure.
    """
    if vars(transformer).setdefault(CLAIM, ownership) is not ownership:
        raise ValueError(f"{type(transformer).__name__} is guided already: list all guidances in one guide(...)")


def wait_for_calls(modules: Sequence[nn.Module]) -> None:
    """Wait until no other thread is within a call of one of the modules that began before they were guided."""
    selves: dict[FrameType, Any] = {}
    while _are_called(modules, selves):
        time.sleep(POLL_SECONDS)


def _are_called(modules: Sequence[nn.Module], selves: dict[FrameType, Any]) -> bool:
    """Return whether another thread is within a call of one of the modules that began before they were guided.

    Up to Python 3.12 the interpreter crashes if a thread leaves a frame while `f_back` or `f_locals` of it is made
    for another thread. It can go on in the meantime only if a finalizer runs: by a collection of garbage, or as
    values of an earlier reading of `f_locals` are replaced. So there are no collections here, and each frame is read
    once.

    Args:
        selves: variables `self` by frame, to which those of further frames are added.
    """
    collects = gc.isenabled()
    with restoring(lambda: gc.enable() if collects else None):
        gc.disable()
        return any(_calls(frame, modules, selves) for frame in _frames_of_others())


def _frames_of_others() -> list[FrameType]:
    """Return the innermost frame of each other thread."""
    current = threading.get_ident()
    return [frame for thread, frame in sys._current_frames().items() if thread != current]


def _calls(frame: FrameType | None, modules: Sequence[nn.Module], selves: dict[FrameType, Any]) -> bool:
    """Return whether a frame is within a method of one of the modules, but not within a call of its guided class.

    Args:
        selves: variables `self` by frame, to which those of further frames are added.
    """
    within = False
    while frame is not None:
        code = frame.f_code
        if code.co_varnames[:1] == ("self",) and any(hasattr(type(one), code.co_name) for one in modules):
            if frame not in selves:
                selves[frame] = frame.f_locals.get("self")
            if any(selves[frame] is one for one in modules):
                if frame.f_globals["__name__"] == GUIDED_CLASS:
                    return False
                within = True
        frame = frame.f_back
    return within
