"""The base class of all guidances: frozen, keyword-only parameters and the methods by which a guidance acts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from torch import Tensor

from vidguide.attention.plan import EMPTY, AttentionPlan
from vidguide.calls.call import Call, Correction, Rerun, Unconditional
from vidguide.calls.guided_model import GuidedModel
from vidguide.guidances.schedule import Schedule, check_schedule, in_window
from vidguide.transformer.family import Prompt
from vidguide.validation import OneOf, Range, check_number, check_whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """Base class of guidances, which act in a window of the run, on some layers.

    In each conditional call, guidances change the inputs, return an `AttentionPlan` for the unperturbed pass, add
    corrections to its prediction, and combine that with an unconditional one. Every method has a default.

    Attributes:
        start, stop: window in fractions of the steps, see :func:`vidguide.guidances.schedule.in_window`.
        layers: indices of the transformer's blocks it acts in; None for the guidance's default.
    """

    start: Annotated[float, Range(0, 1)] = 0.0
    stop: Annotated[float, Range(0, 1)] = 1.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_annotations(self)
        if self.start >= self.stop:
            raise ValueError(f"{type(self).__name__}(start={self.start}, stop={self.stop}): start must be below stop")
        if self.layers is not None:
            if not isinstance(self.layers, tuple | list) or not all(type(layer) is int for layer in self.layers):
                raise TypeError(f"{type(self).__name__}(layers={self.layers!r}): must be a tuple of block indices")
            if not self.layers:
                raise ValueError(f"{type(self).__name__}(layers={self.layers!r}): name a block, or leave layers out")
            object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def neutral(self) -> bool:
        """Whether these parameters change nothing, whatever the model."""
        return False

    def active(self, step: int, steps: int | None) -> bool:
        """Return whether it acts at a step of a run of `steps` steps (None where their number is not known)."""
        return not self.neutral and in_window(step, steps, self.start, self.stop)

    @property
    def windowed(self) -> bool:
        """Whether it leaves out a part of the run."""
        return (self.start, self.stop) != (0.0, 1.0)

    @property
    def needs_steps(self) -> bool:
        """Whether its effect depends on the step of the run, so that a bare transformer needs a scheduler."""
        return self.windowed and not self.neutral

    @property
    def reads_negative(self) -> bool:
        """Whether it takes the negative prompt of the pipeline's call, having none itself."""
        return False

    def acts_on(self, negative: Prompt | None) -> bool:
        """Return whether it acts in a call of the pipeline with this negative prompt; None outside of such calls."""
        return True

    @property
    def once_a_step(self) -> bool:
        """Whether it acts on the plain conditional call of a step only: others act on LTX-2's weaker ones too."""
        return False

    @property
    def pauses(self) -> bool:
        """Whether its scale may be off at some steps of its window, which then make no extra pass."""
        return False

    @property
    def perturbs(self) -> bool:
        """Whether it needs the sites of the video's self-attention, for a perturbed pass or to measure them."""
        return False

    @property
    def edits_attention(self) -> bool:
        """Whether it edits or observes attention."""
        return self.perturbs

    @property
    def extra_pass(self) -> bool:
        """Whether it runs the model more often than the pipeline does."""
        return self.perturbs

    def skipped_blocks(self, model: GuidedModel) -> tuple[int, ...]:
        """Return the layers of the blocks that its perturbed pass skips whole."""
        return ()

    def check(self, model: GuidedModel, pipe: Any) -> None:
        """Refuse, before any step, a model or pipeline that these parameters do not fit."""
        if self.layers is not None and not set(self.layers) <= set(range(model.depth)):
            who = f"{type(self).__name__}(layers={self.layers})"
            raise ValueError(f"{who}: the model's blocks are 0 to {model.depth - 1}")

    def check_run(self, call: Call) -> None:
        """Refuse, before the first step of a run, a call that these parameters do not fit, though they act later."""

    def check_pipeline_guides(self) -> None:
        """Refuse a pipeline that applies classifier-free guidance, for guidances that apply it themselves."""

    def change_inputs(self, call: Call) -> Call:
        """Return the call with other inputs, for its pass and all reruns of it."""
        return call

    def plan(self, call: Call) -> AttentionPlan:
        """Return what to change and observe in the unperturbed pass."""
        return EMPTY

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        """Return what to add to the conditional prediction, given without corrections: their order does not matter."""
        return None

    def combine(self, call: Call, predictions: list[Any], unconditional: Unconditional) -> list[Any]:
        """Combine the corrected conditional predictions, the video's first, with unconditional ones."""
        return predictions

    def describe(self) -> dict[str, Any]:
        """Return name and parameters as plain values, for provenance."""
        return {
            "name": type(self).__name__,
            **{field.name: _plain(getattr(self, field.name)) for field in fields(self)},
        }


def constraints(guidance: type[Guidance]) -> dict[str, tuple[Any, tuple[Range | OneOf, ...]]]:
    """Return the type of each parameter of a class whose annotation has metadata, and what that allows."""
    hints = {field.name: field.type for field in fields(guidance)}
    if any(isinstance(hint, str) and "Annotated" in hint for hint in hints.values()):
        hints = get_type_hints(guidance, include_extras=True)
    annotated = {name: hint for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: (get_args(hint)[0], get_args(hint)[1:]) for name, hint in annotated.items()}


def check_annotations(guidance: Guidance) -> None:
    """Refuse values that the metadata of the annotations does not allow.

    Raises:
        TypeError, ValueError: naming the parameter, its value and what would be right.
    """
    for name, (kind, allowed) in constraints(type(guidance)).items():
        for constraint in allowed:
            if isinstance(constraint, OneOf):
                constraint.check(guidance, name)
            elif getattr(guidance, name) not in constraint.also:
                check_range(guidance, name, kind, constraint)


def check_range(guidance: Guidance, name: str, kind: Any, allowed: Range) -> None:
    """Refuse a value out of the range; raises as :func:`check_annotations`."""
    if kind is int:
        check_whole(guidance, name, None if allowed.low == -math.inf else int(allowed.low))
    elif kind == Schedule:
        check_schedule(guidance, name, allowed.low, allowed.high)
    else:
        check_number(guidance, name, allowed.low, allowed.high)


def _plain(value: Any) -> Any:
    """Return a parameter with its tensors replaced by their shapes, and functions by their names."""
    if callable(value):
        return getattr(value, "__qualname__", repr(value))
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else value
