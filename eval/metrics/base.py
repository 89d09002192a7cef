"""What a metric is: a number about one clip, its definition, its guards, and "undefined" where it has no meaning."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Value:
    """One metric on one clip: a number, or None with the reason; per frame or pair where it has such values."""

    value: float | None
    reason: str | None = None
    per_frame: list[float | None] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A metric that must not have moved for a gain elsewhere to count: past `change` the gain is confounded.

    `change` is signed, relative to the reference arm's mean or absolute; `words` say what then happened.
    """

    id: str
    change: float
    relative: bool
    words: str


WELL_FORMED = Guard(id="world.well_formed", change=-0.05, relative=False, words="fewer well-formed clips")
STEADINESS_GUARDS = (
    Guard(id="guard.motion", change=-0.05, relative=True, words="less motion"),
    Guard(id="guard.detail", change=-0.10, relative=True, words="less sharpness"),  # 10% of a square are 5%
    Guard(id="guard.frozen_share", change=0.05, relative=False, words="more frozen frames"),
    WELL_FORMED,
)
AVOIDANCE_GUARDS = (
    WELL_FORMED,
    Guard(id="world.attributes", change=-0.05, relative=False, words="less of what was asked for"),
    Guard(id="clip.frame_cosine", change=-0.005, relative=False, words="less of what was asked for"),
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric's definition as data. Its prose is the docstring of `measure`.

    Attributes:
        id: name, with a namespace: `vbench.` only for what equals VBench's own function on the same frames.
        version: of the definition; raised whenever a value could change.
        unit: of the value. low, high: its range; a value outside it is an error, never a result.
        better: which way is good; "" for a guard, which is neither.
        measure: from a sample to a value; raises UndefinedError.
        needs: what of the sample must be there: eval_prompt, negative_prompt.
        min_frames: fewer make it undefined.
        guards: what must not have moved for a gain to count.
        encoders: kinds of weights that it needs, see :mod:`vidguide.eval.encoders.catalogue`.
        weights: those that it computes with, by name and hash; empty for none.
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
    def about(self) -> str:
        """Its definition in prose: what it measures, unit, range, direction, what fools it, where it comes from."""
        return inspect.getdoc(self.measure) or ""

    def __call__(self, sample: Sample) -> Value:
        """The value on one clip, or None with the reason."""
        for name in self.needs:
            if not getattr(sample, name):
                return Value(value=None, reason=f"no {name} is known for this clip")
        if len(sample.clip.frames) < self.min_frames:
            return Value(value=None, reason=f"{len(sample.clip.frames)} frames; needs {self.min_frames}")
        try:
            measured = self.measure(sample)
        except UndefinedError as reason:
            return Value(value=None, reason=str(reason))
        value = measured.value
        if value is None or not math.isfinite(value) or not self.low <= value <= self.high:
            raise ArithmeticError(
                f"{self.id}={value}: outside {self.low:g}..{self.high:g}; this is a fault of the metric"
            )
        return measured


REGISTRY: dict[str, Metric] = {}
# Units and ranges that several metrics share; rounding may carry a cosine a little past 1.
COSINE: dict[str, Any] = dict(unit="cosine", low=-1.001, high=1.001)
GAP: dict[str, Any] = dict(unit="difference of cosines", low=-2.001, high=2.001)


def metric(**definition: Any) -> Callable[[Callable[[Sample], Value]], Callable[[Sample], Value]]:
    """Register a function as the measure of a metric."""

    def register(measure: Callable[[Sample], Value]) -> Callable[[Sample], Value]:
        made = Metric(measure=measure, **definition)
        if made.id in REGISTRY:
            raise ValueError(f"metric id={made.id!r}: is taken already")
        REGISTRY[made.id] = made
        return measure

    return register
