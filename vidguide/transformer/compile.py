"""Calls of a model that torch.compile shall leave alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Stance:
    """PyTorch's stance is one for the process, and each `set_stance` gives back what it found: of two threads that
    cross, the last would leave everything eager for good. So the first sets it and the last gives it back."""

    def __init__(self) -> None:
        self.lock, self.within = threading.Lock(), 0
        self.stance: Any = None

    def enter(self) -> None:
        """One more wants no compilation."""
        with self.lock:
            if not self.within:
                self.stance = torch.compiler.set_stance("force_eager")
            self.within += 1

    def leave(self) -> None:
        """One fewer does."""
        with self.lock:
            self.within -= 1
            if not self.within:
                self.stance.__exit__(None, None, None)


def whole_graphs(transformer: Any) -> int | None:
    """How many graphs torch.compile makes of a transformer before it gives up; None where the transformer itself is not
    compiled, though its blocks may be."""
    if not hasattr(transformer, "_orig_mod") and getattr(transformer, "_compiled_call_impl", None) is None:
        return None
    return int(getattr(torch._dynamo.config, "recompile_limit", 8))  # not in torch 2.6


_stance = _Stance()


@contextmanager
def eager() -> Iterator[None]:
    """Within, nothing is compiled, on any thread: a call of a shape of its own would cost a compiled model a
    compilation, or turn it dynamic."""
    _stance.enter()
    try:
        yield
    finally:
        _stance.leave()
