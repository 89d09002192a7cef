"""Calls of a model that torch.compile must not trace, and the limit on its graphs."""

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from vidguide.restoration import holding, restoring


class _EagerStance:
    """The `force_eager` stance, and who holds it.

    PyTorch has one stance per process, and `set_stance` restores the previous one: of two overlapping threads, the
    second would restore `force_eager`. So the first thread sets the stance and the last one restores it.
    """

    def __init__(self) -> None:
        self.lock, self.holders = threading.RLock(), set[object]()
        self.stance: Any = None

    def enter(self, holder: object) -> None:
        with holding(self.lock):
            self.holders.add(holder)
            if self.stance is None:
                self.stance = torch.compiler.set_stance("force_eager")

    def leave(self, holder: object) -> None:
        with holding(self.lock):
            self.holders.discard(holder)
            if not self.holders and self.stance is not None:
                self.stance.__exit__(None, None, None)
                self.stance = None


def graph_limit(transformer: Any) -> int | None:
    """Return how many graphs torch.compile makes of a transformer before it gives up; None where the transformer as a
    whole is not compiled, though its blocks may be."""
    if not hasattr(transformer, "_orig_mod") and getattr(transformer, "_compiled_call_impl", None) is None:
        return None
    return int(getattr(torch._dynamo.config, "recompile_limit", 8))  # not in torch 2.6


def mark_dynamic(tensor: Tensor, dim: int) -> None:
    """Let torch.compile, where it is in use, make one graph for all sizes of a dimension."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)


COMPILE_FIRST = (
    "torch.compile was applied to a transformer that is guided already: compile it before guide(...), as "
    "pipe.transformer = torch.compile(pipe.transformer) or pipe.transformer.compile_repeated_blocks()"
)


def _check_not_compiled_around() -> None:
    """Refuse a call that torch.compile traces from outside, as it would trace the guided transformer's calls.

    Raises:
        RuntimeError: with the cure.
    """
    frame: FrameType | None = sys._getframe(2)  # above this function and the wrapper of `disable`
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith("eval_frame.py") and _compiles(code.co_name, frame.f_locals):
            raise RuntimeError(COMPILE_FIRST)
        frame = frame.f_back


# Dynamo breaks its graph here, so that the check runs also where the caller is traced.
# With fullgraph=True, Dynamo raises an error of its own, which shows the reason (torch 2.8 and later).
_reason = {"reason": COMPILE_FIRST} if "reason" in inspect.signature(torch.compiler.disable).parameters else {}
check_not_compiled_around: Callable[[], None] = torch.compiler.disable(_check_not_compiled_around, **_reason)


def _compiles(function: str, variables: dict[str, Any]) -> bool:
    """Return whether a frame of torch's eval_frame.py is the wrapper of a compiled function."""
    old_name = function == "_fn" and type(variables.get("self")).__name__ == "OptimizeContext"  # before torch 2.9
    return function == "compile_wrapper" or old_name


_stance = _EagerStance()


@contextmanager
def force_eager() -> Iterator[None]:
    """Compile nothing within the block, on any thread: a call with new shapes would recompile a compiled model, or make
    it dynamic."""
    holder = object()
    with restoring(functools.partial(_stance.leave, holder)):
        _stance.enter(holder)
        yield
