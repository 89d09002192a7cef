"""Guidance scales that change over a run, and windows of a run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from vidguide.calls.call import Call

Schedule = float | Sequence[float] | Callable[[float], float]
ROUNDING = 1e-9  # steps: `0.29 * 100` is a little less than 29 in float64


def in_window(step: int, steps: int | None, start: float, stop: float) -> bool:
    """Return whether a step overlaps a window: `floor(start * steps) <= step < ceil(stop * steps)`.

    Step i of n spans the fractions i / n to (i + 1) / n of the run. A window of 0.2 to 0.8 has steps 5 to 22 of 28 and
    50 to 199 of 250, as EMAG's published runs do. (Guiders of diffusers begin alike, and end at `floor(stop * steps)`.)

    Args:
        step: index of the step, from 0.
        steps: number of steps of the run; None where it is not known, and every window holds.
    """
    if steps is None:
        return True
    return math.floor(start * steps + ROUNDING) <= step < math.ceil(stop * steps - ROUNDING)


def guided_steps(owner: Any, steps: int | None, off: float) -> list[int]:
    """Return the steps of a run of `steps` steps in the window of `owner` at which its scale is not `off`."""
    every = range(steps or 0)
    return [
        step
        for step in every
        if in_window(step, steps, owner.start, owner.stop) and scale_at(owner.scale, step, steps) != off
    ]


def check_schedule(owner: Any, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Validate a scale: a finite number from `low` to `high`, a sequence of them, or a callable of the progress.

    A sequence is stored as a tuple. What a callable returns is validated by :func:`scale_at`.

    Raises:
        TypeError, ValueError: naming the parameter, its value and what would be right.
    """
    value, who = getattr(owner, name), type(owner).__name__
    if callable(value):
        return
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ValueError(f"{who}({name}={value!r}): must have a value per step")
        object.__setattr__(owner, name, tuple(value))
    for number in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
        _check(f"{who}({name}={value!r})", number, low, high)


def _check(what: str, number: Any, low: float, high: float) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{what}: must be a number, a list of one number per step, or a function of the progress")
    if not math.isfinite(number) or not low <= number <= high:
        above = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{what}: must be {above}")


def is_constant(scale: Schedule, value: float) -> bool:
    """Return whether a scale is `value` at every step. A callable is assumed not to be."""
    if callable(scale):
        return False
    return all(number == value for number in scale) if isinstance(scale, Sequence) else scale == value


def may_be(scale: Schedule, value: float) -> bool:
    """Return whether a scale is `value` at some step. A callable is assumed to be."""
    if callable(scale):
        return True
    return value in scale if isinstance(scale, Sequence) else scale == value


def check_run_scale(owner: Any, call: Call, low: float) -> None:
    """Validate, before the first step of a run, that `owner.scale` has a value for each of its steps.

    Raises:
        TypeError, ValueError: as :func:`check_steps`, or a callable returns no number from `low` on at some step.
    """
    check_steps(owner, "scale", call.steps)
    if callable(owner.scale):
        for step in range(call.steps or 0):
            _scale_of(owner, step, call.steps, low)


def scale_of(owner: Any, call: Call, low: float) -> float:
    """Return `owner.scale` at the step of a call.

    Raises:
        TypeError, ValueError: a callable returned no number, or less than `low`.
    """
    return _scale_of(owner, call.step, call.steps, low)


def _scale_of(owner: Any, step: int, steps: int | None, low: float) -> float:
    try:
        scale = scale_at(owner.scale, step, steps)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{type(owner).__name__}: {error}") from None
    if scale < low:
        raise ValueError(f"{type(owner).__name__}: scale={scale!r} at step {step}: must be at least {low:g}")
    return scale


def check_steps(owner: Any, name: str, steps: int | None) -> None:
    """Validate that a run of so many steps determines the scale at each.

    Args:
        steps: number of steps, None where no scheduler counts them.

    Raises:
        ValueError: a scale that changes without a scheduler, or a list of another length.
    """
    scale, who = getattr(owner, name), type(owner).__name__
    if isinstance(scale, int | float):
        return
    if steps is None:
        raise ValueError(
            f"{who}({name}={scale!r}): a bare transformer needs scheduler= as well, which counts the steps"
        )
    if isinstance(scale, Sequence) and len(scale) != steps:
        raise ValueError(f"{who}({name}={scale!r}): has {len(scale)} values for a run of {steps} steps")


def scale_at(scale: Schedule, step: int, steps: int | None) -> float:
    """Return the scale at a step: the number, the list's value, or `scale(step / steps)`.

    Args:
        step: index of the step, from 0.
        steps: number of steps of the run; None where it is unknown, and a callable receives progress 0.

    Raises:
        TypeError, ValueError: a list that is shorter, or a callable that returns no finite number.
    """
    if callable(scale):
        value = scale(step / steps if steps else 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"scale(progress={step}/{steps}) = {value!r}: must be a number")
        if not math.isfinite(value):
            raise ValueError(f"scale(progress={step}/{steps}) = {value!r}: must be a finite number")
        return float(value)
    if not isinstance(scale, Sequence):
        return scale
    if step >= len(scale):
        raise ValueError(f"scale={scale!r}: has {len(scale)} values and none for step {step} (from 0)")
    return scale[step]
