"""Gradient checkpointing: what backward computes again is computed under the plan of its forward pass.

A checkpointed function runs in the forward pass, and again when backward needs its activations: by then other plans are
installed, or none, perhaps after `guide` has ended. So it is bound to the plan that was installed in its forward pass.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from vidguide.restoration import restoring

CHECKPOINT = "_gradient_checkpointing_func"  # of the modules of diffusers that checkpoint others
Reinstall = Callable[[], AbstractContextManager[None]]


class BoundFunction:
    """A checkpointed function whose calls after the first, which backward makes, reinstall the plan of the first.

    Args:
        function: usually a block. reinstall: opens a context in which the plan is installed again.
    """

    def __init__(self, function: Callable[..., Any], reinstall: Reinstall) -> None:
        self.function, self.reinstall, self.has_run = function, reinstall, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function.

        Raises:
            RuntimeError: checkpointing is reentrant: its forward pass runs without gradients.
        """
        if self.has_run:
            with self.reinstall():
                return self.function(*args, **kwargs)
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "gradient checkpointing with use_reentrant=True: its gradients do not reach what guidances hold "
                "(negatives, recorded blocks); call transformer.enable_gradient_checkpointing() without arguments"
            )
        self.has_run = True
        return self.function(*args, **kwargs)


@contextmanager
def bound_checkpoints(model: nn.Module, capture: Callable[[], Reinstall]) -> Iterator[None]:
    """Bind the functions that the modules of a model checkpoint within the block.

    Args:
        capture: returns what reinstalls the plan as it is installed when a function is called.
    """
    modules = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    originals = [(module, vars(module)[CHECKPOINT]) for module in modules if CHECKPOINT in vars(module)]

    def restore() -> None:
        for module, checkpoint in originals:
            vars(module)[CHECKPOINT] = checkpoint

    with restoring(restore):
        for module, checkpoint in originals:
            vars(module)[CHECKPOINT] = functools.partial(_bound_call, checkpoint, capture)
        yield


def _bound_call(
    checkpoint: Callable[..., Any], capture: Callable[[], Reinstall], function: Any, *args: Any, **kwargs: Any
) -> Any:
    return checkpoint(BoundFunction(function, capture()), *args, **kwargs)
