"""Validation of parameters; errors name the class, the parameter and its value."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Range of a numeric parameter, as metadata of its annotation: `Annotated[float, Range(0, 1)]`.

    Attributes:
        low, high: smallest and largest value.
        also: values that are accepted in place of a number, such as None.
    """

    low: float = -math.inf
    high: float = math.inf
    also: tuple[Any, ...] = ()


@dataclass(frozen=True)
class OneOf:
    """Values of a parameter, as metadata of its annotation: `Annotated[str, OneOf("token", "frame")]`."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def check(self, owner: object, name: str) -> None:
        """Refuse another value with a ValueError that lists these."""
        value = getattr(owner, name)
        if value not in self.values:
            listed = ", ".join(map(str, self.values))
            raise ValueError(f"{type(owner).__name__}({name}={value!r}): must be one of {listed}")


def check_number(owner: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Validate that a parameter is a finite number from `low` to `high`.

    Raises:
        TypeError, ValueError: naming the parameter, its value and what would be right.
    """
    value, who = getattr(owner, name), f"{type(owner).__name__}({name}="
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{who}{value!r}): must be a number")
    if not math.isfinite(value) or not low <= value <= high:
        above = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{who}{value!r}): must be {above}")


def check_whole(owner: object, name: str, low: int | None = None) -> None:
    """Validate that a parameter is a whole number, at least `low`.

    Raises:
        TypeError, ValueError: naming the parameter and its value.
    """
    value = getattr(owner, name)
    if type(value) is not int:
        raise TypeError(f"{type(owner).__name__}({name}={value!r}): must be a whole number")
    if low is not None and value < low:
        raise ValueError(f"{type(owner).__name__}({name}={value}): must be at least {low}")


def check_text(owner: object, name: str, value: Any, empty: bool) -> None:
    """Validate that a prompt is a text or a list of texts, and not empty unless `empty`.

    Raises:
        TypeError, ValueError: naming the parameter and its value.
    """
    who = f"{type(owner).__name__}({name}={value!r})"
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{who}: must be text or a list of texts")
    if not empty and not all(text.strip() for text in texts):
        raise ValueError(f"{who}: is empty; say what the clip should not show")
