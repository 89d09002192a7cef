"""Runs of small models: a call per step, with a scheduler that counts the steps."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.tiny_families import BY_NAME, noise
from tests.helpers.tiny_wan import wan_inputs
from vidguide import guide
from vidguide.guidances.base import Guidance

STEPS = 6


ALWAYS: dict[str, Any] = dict(start=0.0, stop=1.0)


def videos(steps: int = STEPS, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Return a call of Wan per step, each with another noisy video."""
    return [wan_inputs(seed=step, dtype=dtype) for step in range(steps)]


def sample(model: Any, calls: list[dict[str, Any]], *guidances: Guidance) -> tuple[list[torch.Tensor], Any]:
    """Return the predictions of a run and the `Run`; the scheduler counts the steps."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, *guidances, scheduler=scheduler) as run:
        scheduler.set_timesteps(len(calls))
        predictions = []
        for inputs, timestep in zip(calls, scheduler.timesteps, strict=True):
            predictions.append(model(**inputs)[0])
            scheduler.step(predictions[-1], timestep, predictions[-1])
        return predictions, run


def cogvideox() -> Any:
    return BY_NAME["CogVideoXTransformer3DModel/rotary"].make()


def clips(steps: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Return the calls of `videos` for `cogvideox`."""
    inputs = BY_NAME["CogVideoXTransformer3DModel/rotary"].inputs(2)
    inputs |= {name: inputs[name].to(dtype) for name in ("hidden_states", "encoder_hidden_states")}
    return [{**inputs, "hidden_states": noise(2, 2, 4, 8, 6, seed=50 + step).to(dtype)} for step in range(steps)]
