"""Conversion between a transformer's prediction and x0, the clean sample that it implies at a step of a scheduler."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidguide.functional.upcast import upcast

# Schedulers of diffusers by how they store the noise levels. Others are unknown, and predictions stay as they are.
FLOW_MATCHING = {
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
}
SIGMAS = {
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
}
ALPHAS = {"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler", "DDPMScheduler", "PNDMScheduler"}
NEAREST = 0.01  # largest distance of a timestep from one of the schedule, relative: bfloat16 rounds by 0.004

Levels = tuple[Tensor, Tensor, str]  # alpha_t and sigma_t of `x_t = alpha_t x_0 + sigma_t n`, and the prediction type


class X0Conversion(NamedTuple):
    """Affine map between predictions and x0 at one step: `x0 = offset + factor * prediction`.

    With `x_t = alpha_t x_0 + sigma_t n`: `x_t - sigma_t v` for flow matching (with Mochi's inverted sigmas
    `x_t + (1 - sigma_t) v`), `(x_t - sigma_t eps) / alpha_t` for noise prediction, `alpha_t x_t - sigma_t v` for
    v-prediction.

    Attributes:
        offset: `(B, ...)`, in at least float32.
        factor: `(1 or B, 1, ...)`.
    """

    offset: Tensor
    factor: Tensor

    def to_x0(self, prediction: Tensor) -> Tensor:
        """Convert a prediction `(B, ...)` to x0, in at least float32."""
        return self.offset + self.factor * upcast(prediction)

    def to_prediction(self, x0: Tensor) -> Tensor:
        """Convert x0 `(B, ...)` to the prediction that implies it, in at least float32."""
        return (upcast(x0) - self.offset) / self.factor


def x0_conversion(scheduler: Any, sample: Tensor, timestep: Any) -> X0Conversion | None:
    """Return the conversion between predictions and x0 at the scheduler's step.

    Args:
        scheduler: a scheduler of diffusers, at the step of the prediction; None for none.
        sample: `(B, ...)`, x_t as the transformer receives it, scaled by the scheduler.
        timestep: as the transformer receives it, a tensor `()`, `(1,)` or `(B,)`.

    Returns:
        None where the scheduler does not determine it: an unknown class, timesteps per token or none, a timestep that
        is not in the schedule, or sigmas above 1 in flow matching (Cosmos-Predict2).
    """
    per_sample = isinstance(timestep, Tensor) and timestep.numel() in (1, len(sample))
    levels = _levels(scheduler, timestep) if per_sample else None
    return None if levels is None else conversion_at(levels, sample)


def conversion_at(levels: Levels, sample: Tensor) -> X0Conversion | None:
    """Return the conversion between predictions and x0 at noise levels.

    Args:
        levels: one for all rows, or one per row.
        sample: `(B, ...)`, x_t.

    Returns:
        None for an unknown type of prediction.
    """
    noisy = upcast(sample)
    shape = -1, *[1] * (sample.ndim - 1)  # one level for all rows, or one per row
    alpha, sigma = (level.to(noisy.device, noisy.dtype).reshape(shape) for level in levels[:2])
    conversions = {
        "epsilon": X0Conversion(noisy / alpha, -sigma / alpha),
        "v_prediction": X0Conversion(alpha * noisy, -sigma),
        "flow_prediction": X0Conversion(noisy, -sigma),
        "sample": X0Conversion(torch.zeros_like(noisy), torch.ones_like(sigma)),
    }
    return conversions.get(levels[2])


def noisy_sample(hidden_states: Tensor, layout: str, prediction: Tensor) -> Tensor | None:
    """Return the part of a transformer's input that is the noisy sample: its leading channels.

    Image and mask conditioning are concatenated behind them.

    Args:
        layout: axes of `hidden_states`, as :class:`vidguide.transformer.family.Family` declares them.

    Returns:
        A view of the prediction's shape, or None where there is none: packed differently, or with fewer channels than
        the prediction (a learned variance).
    """
    if hidden_states.ndim != prediction.ndim or "C" not in layout[: prediction.ndim]:
        return hidden_states if hidden_states.shape == prediction.shape else None
    axis = layout.index("C")
    if hidden_states.shape[axis] < prediction.shape[axis]:
        return None
    sample = hidden_states.narrow(axis, 0, prediction.shape[axis])
    return sample if sample.shape == prediction.shape else None


def levels_at(scheduler: Any, index: int) -> Levels | None:
    """Return alpha_t and sigma_t at one step of the scheduler's schedule, and what the model predicts.

    Args:
        index: of the step in the schedule.

    Returns:
        None for an unknown class, or sigmas above 1 in flow matching.
    """
    return _levels_of(scheduler, scheduler.timesteps[index], index)


def _levels(scheduler: Any, timestep: Any) -> Levels | None:
    """Return alpha_t and sigma_t at the scheduler's step, and what the model predicts."""
    if not isinstance(timestep, Tensor) or timestep.ndim > 1:
        return None
    known = _names(scheduler) & (FLOW_MATCHING | SIGMAS)
    return _levels_of(scheduler, timestep, _step_index(scheduler, timestep) if known else None)


def _levels_of(scheduler: Any, timestep: Tensor, index: int | None) -> Levels | None:
    """Return the levels at a timestep, for schedulers that store them by timestep, or at an index of the schedule."""
    names = _names(scheduler)
    if names & ALPHAS:
        alphas = scheduler.alphas_cumprod
        squared = alphas.to(timestep.device)[timestep.long()]
        return squared**0.5, (1 - squared) ** 0.5, scheduler.config.prediction_type
    if index is None or not names & (FLOW_MATCHING | SIGMAS):
        return None
    sigma = scheduler.sigmas[index]
    if names & FLOW_MATCHING:
        if scheduler.sigmas.max() > 1:
            return None
        sigma = sigma - 1 if getattr(scheduler.config, "invert_sigmas", False) else sigma
        return 1 - sigma.abs(), sigma, "flow_prediction"
    if getattr(scheduler.config, "use_flow_sigmas", False):
        return 1 - sigma, sigma, scheduler.config.prediction_type
    alpha = (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha, scheduler.config.prediction_type


def _names(scheduler: Any) -> set[str]:
    """Return the names of a scheduler's classes."""
    return {kind.__name__ for kind in type(scheduler).__mro__}


def begin_index(scheduler: Any, timestep: Any) -> int:
    """Return the index of the step at which a run begins in its scheduler's schedule; 0 where that is not known.

    Video-to-video pipelines leave out the first steps. Few of them say so by `set_begin_index`; of the others the first
    timestep tells, as their transformer gets it.

    Args:
        timestep: of the first call of the run; one value for all rows, as it is or divided by the number of training
            timesteps.
    """
    index: int | None = getattr(scheduler, "begin_index", None)
    if scheduler is None or index is not None:
        return index or 0
    scheduled = getattr(scheduler, "timesteps", None)
    if not isinstance(timestep, Tensor) or timestep.ndim > 1 or not isinstance(scheduled, Tensor) or not len(scheduled):
        return 0
    value, scheduled = timestep.flatten()[0].cpu(), scheduled.cpu()
    if value.is_floating_point():
        scheduled = scheduled.to(value.dtype)
    equal = (scheduled == value) | (scheduled / scheduler.config.get("num_train_timesteps", 1000) == value)
    return int(equal.int().argmax())


def _step_index(scheduler: Any, timestep: Tensor) -> int | None:
    """Return the index of the step in the schedule, which most schedulers know from their first `step` on only.

    Before that: where an image-to-image pipeline begins, or the timestep's, which some models get divided by the
    number of training timesteps. A timestep of 1 may be the first step or the last; the first is assumed.
    """
    for name in ("step_index", "begin_index"):
        index: int | None = getattr(scheduler, name, None)
        if index is not None:
            return index
    return _nearest_index(scheduler, timestep)


def _nearest_index(scheduler: Any, timestep: Tensor) -> int | None:
    """Return the index of the scheduled timestep that is nearest to the given one; None where none is near."""
    scheduled = scheduler.timesteps.to("cpu", torch.float64)
    value = timestep.flatten()[0].to("cpu", torch.float64)
    candidates = torch.stack([value, value * scheduler.config.num_train_timesteps]).unsqueeze(1)
    distances = ((scheduled - candidates).abs() / scheduled.abs().clamp_min(1e-6)).amin(0)
    index = int(distances.argmin())
    return index if distances[index] <= NEAREST else None
