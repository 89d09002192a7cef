"""Values that guidances cache for one sampling run."""

from collections.abc import Callable
from typing import Any, TypeVar

Cached = TypeVar("Cached")


class RunCache:
    """Per-run cache of one transformer: a value per owner, with the key that it is valid for."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Any, Any]] = {}

    def get(self, owner: object, key: Any, factory: Callable[[], Cached]) -> Cached:
        """Return the owner's value; call the factory where there is none for this key."""
        if self._values.get(id(owner), (None,))[0] != key:
            self._values[id(owner)] = (key, factory())
        value: Cached = self._values[id(owner)][1]
        return value

    def discard(self, owner: object) -> None:
        """Release the owner's value."""
        self._values.pop(id(owner), None)
