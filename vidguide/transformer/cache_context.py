"""The cache contexts of a transformer: the pipeline's, which tells the branch, and ours beside it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


class Contexts:
    """The cache context that a transformer is in; diffusers' caches keep a state for each.

    Attributes:
        outer: name and arguments of the pipeline's, while it is in one.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.open: Callable[..., Any] | None = getattr(type(transformer), "cache_context", None)
        self.outer: tuple[str, dict[str, Any]] | None = None
        self.again: AbstractContextManager[None] | None = None

    @property
    def branch(self) -> str | None:
        """The branch that the pipeline's context tells of; None where it is in none."""
        if self.outer is None:
            return None
        parts = self.outer[0].split("_")
        return "uncond" if "uncond" in parts and parts[0] != "cond" else "cond"  # "cond_uncond" is a batch of both

    @contextmanager
    def pipeline(self, name: str, **kwargs: Any) -> Iterator[None]:
        """The pipeline's own context."""
        self.outer = (name, kwargs)
        try:
            with nullcontext() if self.open is None else self.open(self.transformer, name, **kwargs):
                yield
        finally:
            self.outer = self.again = None

    def aside(self, name: str) -> AbstractContextManager[None]:
        """A context of our own around an extra call; the pipeline's is entered again afterwards.

        None where nothing is cached: opening one would leave diffusers' hook registry on a bare transformer.
        """
        cached = self.outer is not None or getattr(self.transformer, "is_cache_enabled", False)
        return self._nested(self.open, name) if cached and self.open else nullcontext()

    @contextmanager
    def _nested(self, open_context: Callable[..., Any], name: str) -> Iterator[None]:
        try:
            with open_context(self.transformer, name, **(self.outer[1] if self.outer else {})):
                yield
        finally:
            if self.outer is not None:  # diffusers leaves no context after a nested one; its own exit clears this
                self.again = open_context(self.transformer, self.outer[0], **self.outer[1])  # closed when let go of
                self.again.__enter__()
