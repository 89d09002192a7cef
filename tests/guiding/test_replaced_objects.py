"""Schedulers and transformers that are replaced inside the block, in the pipeline's own loop and in others."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from tests.helpers.shipped_calls import PROMPT, RED, load_tiny, sample
from vidguide import NAG, guide


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def pipe() -> Any:
    return load_tiny()


def loop(pipe: Any, scheduler: Any, steps: int = 4) -> None:
    """Sample with the pipeline's transformer, but in a loop of one's own."""
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 8, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    channels, width = pipe.transformer.config.in_channels, pipe.transformer.config.text_dim
    latents, text = latents[:, :1].expand(-1, channels, -1, -1, -1), torch.ones(1, 5, width)
    for timestep in scheduler.timesteps:
        velocity = pipe.transformer(latents, timestep[None], text, return_dict=False)[0]
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler])
def test_a_scheduler_replaced_before_a_loop_counts_its_steps(pipe: Any, kind: Any) -> None:
    nag = NAG(negative_prompt=RED, stop=0.5)
    with guide(pipe, nag) as run:
        loop(pipe, pipe.scheduler)
        expected = {record.step for record in run.trace}
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        loop(pipe, pipe.scheduler)
        assert len(run.traces) == 2
        assert {record.step for record in run.trace} == expected == {0, 1}
        assert run.trace.steps == 4
    assert type(pipe.scheduler) is kind


def test_a_transformer_replaced_before_a_loop_is_refused_at_its_first_step(pipe: Any) -> None:
    with guide(pipe, NAG(negative_prompt=RED)):
        pipe.transformer = copy.deepcopy(pipe.transformer)
        with pytest.raises(ValueError, match="was replaced within guide"):
            loop(pipe, pipe.scheduler)


def test_a_transformer_replaced_in_a_callback_is_refused(pipe: Any) -> None:
    other = copy.deepcopy(pipe.transformer)
    steps = []

    def replace(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipeline.transformer = other
        return values

    with guide(pipe, NAG(negative_prompt=RED)), pytest.raises(ValueError, match="was replaced within guide"):
        sample(pipe, PROMPT, callback_on_step_end=replace)
    assert steps == [0]


def test_a_transformer_compiled_inside_the_block_is_refused_with_the_cure(pipe: Any) -> None:
    plain, transformer = sample(pipe, PROMPT), pipe.transformer
    with guide(pipe, NAG(negative_prompt=RED)):
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
        with pytest.raises(ValueError, match=r"compile, it before guide\(...\)"):
            sample(pipe, PROMPT)
        with pytest.raises(Exception, match="compile it before guide"):
            loop(pipe, pipe.scheduler)
    pipe.transformer = transformer
    assert np.array_equal(sample(pipe, PROMPT), plain)
