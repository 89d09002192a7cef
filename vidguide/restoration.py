"""Restoration of what is changed within a block, also where an interrupt hits the restoring code itself."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def restoring(restore: Callable[[], None]) -> Iterator[None]:
    """Call `restore` after the block, and call it again where it was interrupted; so it must be idempotent.

    An interrupt (KeyboardInterrupt) is raised between any two instructions, those of a `finally` included. Enter this
    before the first change.
    """
    restored = False
    try:
        try:
            yield
        finally:
            restore()
            restored = True
    finally:
        if not restored:
            restore()


@contextmanager
def holding(lock: Any) -> Iterator[None]:
    """Hold a `threading.RLock` within the block, and release it also where an interrupt hits the exit of the block.

    `with lock:` does not: an interrupt between the end of its block and the release leaves the lock held for ever.
    """
    if lock._is_owned():  # as `threading.Condition` asks: an outer block of this thread releases it
        yield
        return
    with restoring(functools.partial(release_all, lock)):
        lock.acquire()
        yield


def release_all(lock: Any) -> None:
    """Release a `threading.RLock`, however often this thread holds it."""
    with suppress(RuntimeError):  # raised when it does not hold it any more
        while True:
            lock.release()
