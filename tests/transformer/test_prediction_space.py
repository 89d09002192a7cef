"""Conversion of predictions to x0, against diffusers' schedulers and against the equations."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from vidguide.functional.cfg import cfg
from vidguide.transformer.prediction_space import conversion_at, levels_at, noisy_sample, x0_conversion

SHAPE = (2, 4, 3, 5, 6)
# Prediction type and scheduler; x0 is returned by the scheduler or reached by its last step.
SCHEDULERS: dict[str, Any] = {
    "flow, Euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    "flow, Euler, shifted": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
    "flow, Euler, inverted": lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    "flow, UniPC": lambda: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "noise, UniPC": lambda: diffusers.UniPCMultistepScheduler(prediction_type="epsilon"),
    "v, DPM-Solver++": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    "x0, DPM-Solver++": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="sample"),
    "noise, DDIM": lambda: diffusers.DDIMScheduler(prediction_type="epsilon", clip_sample=False),
    "v, DDIM": lambda: diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    "v, CogVideoX": lambda: diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    "noise, Euler": lambda: diffusers.EulerDiscreteScheduler(prediction_type="epsilon"),
    "v, Euler ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(prediction_type="v_prediction"),
}
each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def noise() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64)


def scale_input(scheduler: Any, sample: Tensor, timestep: Tensor) -> Tensor:
    """Return the transformer's input, which some schedulers scale."""
    scale: Any = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
    result: Tensor = scale(sample, timestep)
    return result


def scheduler_at_step(name: str, step: int) -> tuple[Any, Tensor, Tensor]:
    """Return a scheduler after `step` of five steps, the sample there, and its timestep."""
    scheduler, sample = SCHEDULERS[name](), noise()
    scheduler.set_timesteps(5)
    sample = sample * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps[:step]:
        scale_input(scheduler, sample, timestep)
        sample = scheduler.step(noise(), timestep, sample).prev_sample
    return scheduler, sample.double(), scheduler.timesteps[step]


@each_scheduler
@pytest.mark.parametrize("step", [0, 2, 4])
def test_x0_equals_the_schedulers_x0(name: str, step: int) -> None:
    """As returned by `step` or `convert_model_output`; for flow matching the result of one step to sigma 0."""
    scheduler, sample, timestep = scheduler_at_step(name, step)
    prediction = noise()
    conversion = x0_conversion(scheduler, scale_input(scheduler, sample, timestep), timestep.expand(2))
    assert conversion is not None
    x0 = conversion.to_x0(prediction)
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        expected = scheduler.convert_model_output(prediction, sample=sample)
    elif name.startswith("flow"):
        scheduler.step(prediction, timestep, sample)
        end = 1.0 if "inverted" in name else 0.0
        expected = sample + (end - scheduler.sigmas[step]) * prediction
    else:
        expected = scheduler.step(prediction, timestep, sample).pred_original_sample
    torch.testing.assert_close(x0, expected.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((x0 - conversion.offset) / conversion.factor, prediction, rtol=0, atol=1e-6)


@each_scheduler
def test_cfg_on_x0_equals_cfg_on_predictions(name: str) -> None:
    scheduler, sample, timestep = scheduler_at_step(name, 3)
    conversion, cond, uncond = x0_conversion(scheduler, sample, timestep), noise(), noise()
    assert conversion is not None
    guided = (cfg(conversion.to_x0(cond), conversion.to_x0(uncond), 6.0) - conversion.offset) / conversion.factor
    torch.testing.assert_close(guided, cfg(cond, uncond, 6.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("divided", [1, 1000])
def test_the_first_step_is_identified_by_its_timestep(dtype: torch.dtype, divided: int) -> None:
    """Before the first `step` a scheduler has no index; some models get a rounded timestep, or one divided by 1000."""
    scheduler, sample = diffusers.FlowMatchEulerDiscreteScheduler(), noise()
    scheduler.set_timesteps(20)
    for index in (0, 7, 18):
        timestep = (scheduler.timesteps[index] / divided).to(dtype)
        conversion = x0_conversion(scheduler, sample, timestep)
        assert conversion is not None
        assert conversion.factor.item() == -scheduler.sigmas[index].item()
    scheduler.set_begin_index(5)
    conversion = x0_conversion(scheduler, sample, torch.tensor(0.0))
    assert conversion is not None
    assert conversion.factor.item() == -scheduler.sigmas[5].item()


def test_x0_is_none_if_the_scheduler_does_not_determine_it() -> None:
    sample, flow = noise(), diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(4)
    timestep = flow.timesteps[0]
    assert x0_conversion(flow, sample, timestep) is not None
    assert x0_conversion(None, sample, timestep) is None
    assert x0_conversion(SimpleNamespace(sigmas=flow.sigmas), sample, timestep) is None
    assert x0_conversion(flow, sample, timestep.expand(2, 7)) is None  # per token
    assert x0_conversion(flow, sample, None) is None
    assert x0_conversion(flow, sample, torch.tensor(500.0)) is None  # not in the schedule
    edm = diffusers.EDMEulerScheduler()
    edm.set_timesteps(4)
    assert x0_conversion(edm, sample, edm.timesteps[0]) is None
    cosmos = diffusers.FlowMatchEulerDiscreteScheduler()
    cosmos.set_timesteps(4)
    cosmos.sigmas = torch.tensor([80.0, 7.0, 0.5, 0.002, 0.0])
    assert x0_conversion(cosmos, sample, cosmos.timesteps[0]) is None


def test_the_noisy_sample_is_the_leading_channels() -> None:
    video, condition = torch.randn(1, 4, 3, 5, 6), torch.randn(1, 5, 3, 5, 6)
    for layout, axis in (("BCFHW", 1), ("BFCHW", 2), ("BFHWC", 4)):
        sample, extra = video.movedim(1, axis), condition.movedim(1, axis)
        result = noisy_sample(torch.cat([sample, extra], axis), layout, torch.zeros_like(sample))
        assert result is not None
        assert torch.equal(result, sample)
        assert noisy_sample(sample, layout, torch.cat([sample, sample], axis)) is None  # a learned variance
    assert noisy_sample(video, "BCFHW", video[:, :, 1:]) is None  # different number of frames
    packed = torch.randn(1, 90, 4)
    assert noisy_sample(packed, "BL", packed.clone()) is packed
    assert noisy_sample(packed, "BLC", video) is None


@each_scheduler
def test_levels_at_an_index_are_those_of_its_timestep_and_conversions_are_inverted(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(10)
    for index in range(2, 9):  # a timestep of 1, the last one of some, may be the first
        level, sample, timestep = levels_at(scheduler, index), noise(), scheduler.timesteps[index].reshape(1)
        assert level is not None
        conversion, expected = conversion_at(level, sample), x0_conversion(scheduler, sample, timestep)
        assert conversion is not None
        assert expected is not None
        prediction = noise()
        torch.testing.assert_close(conversion.to_x0(prediction), expected.to_x0(prediction), rtol=1e-12, atol=1e-12)
        restored = conversion.to_prediction(conversion.to_x0(prediction))
        torch.testing.assert_close(restored, prediction, rtol=1e-6, atol=1e-6)


def test_an_unknown_scheduler_has_no_levels() -> None:
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(3)
    assert levels_at(scheduler, 1) is None
