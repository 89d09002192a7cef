"""The page as a Space of Hugging Face, on hardware that lends a GPU for each call."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

Function = Callable[..., Any]


def on_gpu(function: Function) -> Function:
    """Return a function that Hugging Face's `spaces` runs on a GPU; the function itself where there is none."""
    if find_spec("spaces") is None:
        return function
    decorated: Function = import_module("spaces").GPU(function)
    return decorated
