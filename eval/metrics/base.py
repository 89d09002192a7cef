"""Definition of a metric: a number about one clip, its range, its guards, and "undefined" where it has no value."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Value:
    """One metric on one clip.

    Attributes:
        value: the number, or None.
        reason: why the value is None.
        per_frame: values per frame or pair of frames; empty for a metric without them.
        details: further JSON values; "remarks" is a list of warnings.
    """

    value: float | None
    reason: str | None = None
    per_frame: list[float | None] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A metric that must not degrade: otherwise an improvement of the guarded metric is confounded.

    Attributes:
        id: of the guard metric.
        change: signed change from the reference arm at which the guard is violated.
        relative: whether `change` is relative to the reference arm's mean; otherwise it is absolute.
        violation: what a violation means, for the verdict.
    """

    id: str
    change: float
    relative: bool
    violation: str


WELL_FORMED = Guard(id="world.well_formed", change=-0.05, relative=False, violation="fewer well-formed clips")
PROMPT_FOLLOWED = Guard(id="world.attributes", change=-0.05, relative=False, violation="less of what was asked for")
COLOUR_GUARDS = tuple(
    Guard(id=f"guard.{name}", change=sign * limit, relative=True, violation=f"{comparative} {quantity}")
    for name, quantity, limit in (
        ("contrast", "contrast", 0.05),
        ("luma", "brightness", 0.10),
        ("saturation", "saturation", 0.10),
    )
    for sign, comparative in ((-1, "less"), (1, "more"))
)
STEADINESS_GUARDS = (
    Guard(id="guard.motion", change=-0.05, relative=True, violation="less motion"),
    Guard(id="guard.detail", change=-0.05, relative=True, violation="less sharpness"),
    Guard(id="guard.frozen_share", change=0.05, relative=False, violation="more frozen frames"),
    Guard(id="guard.tracked_share", change=-0.05, relative=False, violation="less is tracked"),
    Guard(id="temporal.breaks", change=0.05, relative=False, violation="more cuts or flashes"),
    Guard(id="temporal.periodicity", change=0.05, relative=False, violation="more repetition"),
    Guard(id="guard.stopped_share", change=0.05, relative=False, violation="more stops"),
    Guard(id="guard.object_motion", change=-0.10, relative=True, violation="less motion of objects"),
    # Pixels per frame squared at a short side of 256; a duplicated frame between two moving ones has more.
    Guard(id="temporal.flow_jerk", change=1.0, relative=False, violation="more jerk"),
    *COLOUR_GUARDS,
    WELL_FORMED,
)
AVOIDANCE_GUARDS = (
    WELL_FORMED,
    Guard(id="world.readable", change=-0.05, relative=False, violation="fewer readable attributes"),
    PROMPT_FOLLOWED,
    Guard(id="clip.frame_cosine", change=-0.005, relative=False, violation="less of what was asked for"),
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Definition of a metric as data. Its description is the docstring of `measure`.

    Attributes:
        id: name with a namespace; `vbench.` only for metrics equal to VBench's own function on the same frames.
        version: of the definition; incremented whenever a value could change.
        unit: of the value.
        low, high: range of the value; a value outside is an error, never a result.
        better: which direction is better; "" for a guard, which has none.
        measure: computes the value of a sample; raises UndefinedError.
        needs: attributes of the sample that must be set: eval_prompt, negative_prompt.
        min_frames: with fewer frames the metric is undefined.
        guards: metrics that must not degrade for an improvement to count.
        encoders: kinds of weights that it uses, see :mod:`vidguide.eval.encoders.catalogue`.
        weights: name and hash of the weights in use; empty for none.
    """

    id: str
    version: str
    unit: str
    low: float
    high: float
    better: Literal["higher", "lower", ""]
    measure: Callable[[Sample], Value]
    needs: tuple[str, ...] = ()
    min_frames: int = 1
    guards: tuple[Guard, ...] = ()
    encoders: tuple[str, ...] = ()
    weights: str = ""

    @property
    def description(self) -> str:
        """Return what it measures: definition, direction, range, unit, failure modes and source."""
        return inspect.getdoc(self.measure) or ""

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest possible value."""
        return self.low, self.high

    def __call__(self, sample: Sample) -> Value:
        """Compute the value on one clip; it is None, with a reason, where the metric is undefined.

        Raises:
            ArithmeticError: the value is outside the metric's range.
        """
        for name in self.needs:
            if not getattr(sample, name):
                return Value(value=None, reason=f"no {name} is known for this clip")
        if len(sample.clip.frames) < self.min_frames:
            return Value(value=None, reason=f"{len(sample.clip.frames)} frames; needs {self.min_frames}")
        try:
            result = self.measure(sample)
        except UndefinedError as reason:
            return Value(value=None, reason=str(reason))
        self.check_range(result.value)
        return result

    def check_range(self, value: float | None) -> None:
        """Refuse a value outside the range of the metric."""
        if value is None or not math.isfinite(value) or not self.low <= value <= self.high:
            raise ArithmeticError(f"{self.id}={value}: must be in {self.low:g}..{self.high:g}; a bug of the metric")


REGISTRY: dict[str, Metric] = {}
# Unit and range that several metrics share; rounding may bring a cosine slightly above 1.
COSINE: dict[str, Any] = dict(unit="cosine", low=-1.001, high=1.001)
COSINE_DIFFERENCE: dict[str, Any] = dict(unit="difference of cosines", low=-2.001, high=2.001)


def metric(**definition: Any) -> Callable[[Callable[[Sample], Value]], Callable[[Sample], Value]]:
    """Register the decorated function as the measure of a metric.

    Args:
        definition: the attributes of :class:`Metric` but for `measure`.

    Raises:
        ValueError: the id is already registered.
    """

    def register(measure: Callable[[Sample], Value]) -> Callable[[Sample], Value]:
        registered = Metric(measure=measure, **definition)
        if registered.id in REGISTRY:
            raise ValueError(f"id={registered.id!r}: already registered; metric ids must be unique")
        REGISTRY[registered.id] = registered
        return measure

    return register
