"""Cache contexts of a transformer: the pipeline's, whose name has the CFG branch, and ours for extra passes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from vidguide.restoration import restoring

WEAKER = {"stg", "modality"}  # in the names of LTX-2's contexts of weaker conditional calls


class CacheContexts:
    """The cache context that a transformer is in; the caches of diffusers have one state per context.

    Attributes:
        active: name and arguments of the pipeline's context, while it is in one; None otherwise.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.open: Callable[..., Any] | None = getattr(type(transformer), "cache_context", None)
        self.active: tuple[str, dict[str, Any]] | None = None
        self.reopened: AbstractContextManager[None] | None = None

    @property
    def branch(self) -> str | None:
        """The branch that the pipeline's context names: "cond", "uncond", or "weaker" for a conditional call with
        blocks or a modality switched off; None where it is in no context."""
        if self.active is None:
            return None
        parts = self.active[0].split("_")
        if WEAKER & set(parts):
            return "weaker"
        return "uncond" if "uncond" in parts and parts[0] != "cond" else "cond"  # "cond_uncond" is a batch of both

    @contextmanager
    def pipeline(self, name: str, **kwargs: Any) -> Iterator[None]:
        """Enter the pipeline's context."""
        with restoring(self._leave):
            self.active = (name, kwargs)
            with nullcontext() if self.open is None else self.open(self.transformer, name, **kwargs):
                yield

    def _leave(self) -> None:
        self.active = self.reopened = None

    def extra(self, name: str) -> AbstractContextManager[None]:
        """Return a context for an extra pass; the pipeline's context is entered again afterwards.

        A null context where nothing is cached: opening one would leave diffusers' hook registry on a bare transformer.
        """
        cached = self.active is not None or getattr(self.transformer, "is_cache_enabled", False)
        return self._nested(self.open, name) if cached and self.open else nullcontext()

    @contextmanager
    def _nested(self, open_context: Callable[..., Any], name: str) -> Iterator[None]:
        try:
            with open_context(self.transformer, name, **(self.active[1] if self.active else {})):
                yield
        finally:
            if (
                self.active is not None
            ):  # diffusers leaves no context after a nested one; the pipeline's exit clears this
                self.reopened = open_context(self.transformer, self.active[0], **self.active[1])  # closed when released
                self.reopened.__enter__()
