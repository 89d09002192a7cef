"""Measurement of the directions of guidances at one step of a run, for :mod:`vidguide.pipelines.calibration`."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from vidguide.attention.plan import EMPTY, AttentionPlan
from vidguide.calls.call import Call, Correction, Rerun, Unconditional
from vidguide.calls.guided_model import GuidedModel
from vidguide.guidances.base import Guidance
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.emag import EMAG, RunState
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.transformer.prediction_space import noisy_sample


class MeasuredError(Exception):
    """Ends a run once its directions are measured; they are in the probe."""


def neutral_scale(guidance: Guidance) -> float:
    """Return the scale at which a guidance is off; its direction is multiplied by the scale minus this.

    Raises:
        TypeError: a guidance that is no multiple of a direction.
    """
    if isinstance(guidance, EMAG) or type(guidance) is CFG:
        return 1.0
    if isinstance(guidance, LayerPerturbation):
        return 0.0
    raise TypeError(
        f"{type(guidance).__name__}: is no scale times a difference of two predictions; must be EMAG, CFG, STG, PAG, "
        "SEG, TPG or S2Guidance"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedEMAG(EMAG):
    """EMAG of some layers that reads the averages of another EMAG, which observes these layers and more.

    Attributes:
        source: the guidance with the averages, in the same run.
    """

    source: EMAG

    def state(self, call: Call) -> RunState:
        shared = self.source.state(call)
        averages = {layer: shared.averages[layer] for layer in self.candidates(call.model.depth)}
        return RunState(averages, shared.heads, guided_steps=[])

    def plan(self, call: Call) -> AttentionPlan:
        sites = self.sites(call.model)
        layers = self.candidates(call.model.depth)
        return AttentionPlan(rerun_from=frozenset(sites[layer].execution_index for layer in layers))


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectionProbe(Guidance):
    """Measures the directions `c - c~` of several guidances at one step of a run, and ends the run there.

    The steps before it are those of the run, unguided; EMAG averages over them.

    Attributes:
        guidances: what to measure, each at the scale at which its direction is multiplied by 1:
            :func:`probed` returns them.
        step: index of the step at which to measure.
        prediction: c, and sample: x_t as the transformer receives it, each a list of one `(B, ...)` after the run.
        directions: `c - c~` by index in `guidances`, `(B, ...)` each.
        start, stop, layers: not used.
    """

    guidances: tuple[Guidance, ...]
    step: int
    prediction: list[Tensor] = field(default_factory=list)
    sample: list[Tensor | None] = field(default_factory=list)
    directions: dict[int, Tensor] = field(default_factory=dict)

    @property
    def needs_steps(self) -> bool:
        return True

    @property
    def perturbs(self) -> bool:
        return any(guidance.perturbs for guidance in self.guidances)

    @property
    def once_a_step(self) -> bool:
        return True

    @property
    def extra_pass(self) -> bool:
        return True

    def active(self, step: int, steps: int | None) -> bool:
        """Return whether it measures at a step, or a guidance averages in it."""
        return bool(self.acting(step, steps))

    def acting(self, step: int, steps: int | None) -> list[Guidance]:
        """Return the guidances that act at a step."""
        return [guidance for guidance in self.guidances if guidance.active(step, steps)]

    def skipped_blocks(self, model: GuidedModel) -> tuple[int, ...]:
        return tuple({block for guidance in self.guidances for block in guidance.skipped_blocks(model)})

    def check(self, model: GuidedModel, pipe: Any) -> None:
        for guidance in self.guidances:
            guidance.check(model, pipe)

    def check_run(self, call: Call) -> None:
        if call.pipeline_guides:
            self.check_pipeline_guides()
        for guidance in self.guidances:
            guidance.check_run(call)

    def check_pipeline_guides(self) -> None:
        raise ValueError(
            "the pipeline's guidance is on, and directions are of the conditional prediction: switch it off"
        )

    def plan(self, call: Call) -> AttentionPlan:
        plans = (guidance.plan(call) for guidance in self.acting(call.step, call.steps))
        return functools.reduce(AttentionPlan.__or__, plans, EMPTY)

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        if call.step != self.step:
            return None
        for index, guidance in enumerate(self.guidances):
            correction = guidance.correction(call, prediction, rerun)
            if correction is not None:
                self.directions[index] = correction.value
        return None

    def combine(self, call: Call, predictions: list[Any], unconditional: Unconditional) -> list[Any]:
        if call.step != self.step:
            return predictions
        prediction = predictions[0]
        for index, guidance in enumerate(self.guidances):
            if isinstance(guidance, CFG):
                self.directions[index] = prediction - unconditional(guidance.negative_text(call))[0]
        self.prediction[:] = [prediction]
        self.sample[:] = [noisy_sample(call.inputs["hidden_states"], call.model.family.layout, prediction)]
        raise MeasuredError


def probed(guidances: tuple[Guidance, ...], step: int, steps: int) -> tuple[Guidance, ...]:
    """Return guidances at the scale at which each correction is its direction, acting at one step of a run.

    EMAGs that differ in their layers alone share one set of averages.

    Args:
        guidances: what to measure.
        step: index of the step at which to measure.
        steps: number of steps of the run.

    Raises:
        TypeError: a guidance without a direction.
    """
    window: dict[str, Any] = {"rescale": 0.0, "start": step / steps, "stop": (step + 1) / steps}
    units: list[Guidance] = [replace(each, **{**window, "scale": neutral_scale(each) + 1}) for each in guidances]
    sources: dict[Any, EMAG] = {}
    for index, guidance in enumerate(units):
        if isinstance(guidance, EMAG) and isinstance(guidance.select, tuple) and guidance.extent is None:
            units[index] = _shared(guidance, units, sources)
    return tuple(units)


def _shared(guidance: EMAG, units: list[Guidance], sources: dict[Any, EMAG]) -> EMAG:
    """Return the guidance, or one that reads the averages of the guidance of its kind with the most layers."""
    key = _kind(guidance)
    if key not in sources:
        alike = [each for each in units if isinstance(each, EMAG) and isinstance(each.select, tuple)]
        sources[key] = max((each for each in alike if _kind(each) == key), key=lambda each: len(each.select))
    source = sources[key]
    if guidance is source or not set(guidance.select) <= set(source.select):
        return guidance
    values = {name: value for name, value in vars(guidance).items() if name != "source"}
    return SharedEMAG(**values, source=source)


def _kind(guidance: EMAG) -> tuple[Any, ...]:
    """Return the parameters on which an average depends, other than its layer."""
    return guidance.variant, guidance.measure, guidance.decay, guidance.strength, guidance.extent, guidance.average_from
