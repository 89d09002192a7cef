"""Restoration of what is changed within a block, also where an interrupt hits the restoring code itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
