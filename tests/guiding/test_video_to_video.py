"""Runs that leave out the first steps of their schedule, and those in which each frame has a step of its own."""

import dataclasses
from typing import Any

import diffusers
import pytest
import torch

from tests.helpers.common_pipelines import case_of
from tests.helpers.tiny_pipelines import AveragingVAE, picture
from vidguide import EMAG, PAG, S2Guidance, guide
from vidguide.guidances.base import Guidance
from vidguide.transformer.prediction_space import begin_index

SCHEDULERS: dict[str, Any] = {
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "Euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def guided_steps(scheduler: str, guidance: Guidance, strength: float = 0.5) -> tuple[int | None, list[int]]:
    """The number of steps of a video-to-video run of 10, and at which a second pass was made."""
    case = case_of("WanPipeline")
    parts: Any = dict(tokenizer=None, text_encoder=None, transformer=case.model.make(), vae=AveragingVAE(4))
    pipe = diffusers.WanVideoToVideoPipeline(**parts, scheduler=SCHEDULERS[scheduler]())
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"height": 32, "width": 48, "guidance_scale": 1.0, "output_type": "latent"}
    with guide(pipe, guidance) as run:
        pipe([picture()] * 5, **case.text(case.text_inputs(2)), **settings, num_inference_steps=10, strength=strength)
    return run.trace.steps, [choice.step for choice in run.trace.choices]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_windows_and_lists_are_of_the_steps_that_are_taken(scheduler: str) -> None:
    assert guided_steps(scheduler, PAG(start=0.4)) == (5, [2, 3, 4])
    assert guided_steps(scheduler, PAG(stop=0.4), strength=1.0) == (10, [0, 1, 2, 3])
    assert guided_steps(scheduler, PAG(scale=[0, 1, 0, 1, 1])) == (5, [1, 3, 4])
    with pytest.raises(ValueError, match="has 10 values for a run of 5 steps"):
        guided_steps(scheduler, PAG(scale=[1] * 10))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
def test_the_first_timestep_tells_where_a_run_begins(dtype: torch.dtype) -> None:
    scheduler = SCHEDULERS["UniPC"]()
    scheduler.set_timesteps(10)
    for index, timestep in enumerate(scheduler.timesteps):
        assert begin_index(scheduler, timestep.to(dtype).expand(2)) == index
        assert begin_index(scheduler, timestep.to(dtype) / 1000) == index
    assert begin_index(scheduler, torch.tensor([3.5])) == 0
    assert begin_index(scheduler, scheduler.timesteps[5].expand(2, 7)) == 0
    assert begin_index(None, scheduler.timesteps[5]) == 0
    scheduler.set_begin_index(4)
    assert begin_index(scheduler, scheduler.timesteps[5]) == 4


@pytest.mark.parametrize("guidance", [PAG(start=0.5), PAG(scale=[1, 2, 1, 0]), EMAG(), S2Guidance()])
def test_diffusion_forcing_is_refused_where_the_step_counts(guidance: Guidance) -> None:
    case = dataclasses.replace(case_of("SkyReelsV2Pipeline"), pipeline="SkyReelsV2DiffusionForcingPipeline")
    pipe = case.pipe(False)
    pipe.scheduler = SCHEDULERS["UniPC"]()
    settings: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 9, "base_num_frames": 9, "guidance_scale": 1.0}
    settings |= case.text(case.text_inputs(2)) | {"prompt": None, "num_inference_steps": 4, "output_type": "latent"}
    with guide(pipe, PAG(layers=(1,))) as run:
        pipe(**settings)
    assert run.trace.choices
    with guide(pipe, guidance), pytest.raises(ValueError, match="under diffusion forcing: its effect depends on"):
        pipe(**settings)
