"""Guidances of every kind and runs with them, for every family."""

from collections.abc import Callable
from typing import Any

import diffusers
from torch import Tensor

from tests.helpers.tiny_families import Values
from vidguide import CADS, CFG, EMAG, NAG, PAG, SEG, STG, TPG, VSF, EnhanceAVideo, S2Guidance, guide
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance


def nag(negative: Values, **settings: Any) -> NAG:
    return NAG(negative_prompt_embeds=negative, **settings)


def vsf(negative: Values, **settings: Any) -> VSF:
    return VSF(negative_prompt_embeds=negative, **settings)


Make = Callable[..., Guidance]


METHODS: dict[str, Make] = {
    "NAG": nag,
    "VSF": vsf,
    "CFG": lambda negative: CFG(negative_prompt_embeds=negative),
    "CADS": lambda negative: CADS(full=0.9, none=1.0),
    "EMAG": lambda negative: EMAG(decay=0.5, select=(1,), start=0.0, stop=1.0, scale=4),
    "STG": lambda negative: STG(mode="attention", layers=(1,)),
    "PAG": lambda negative: PAG(layers=(1,)),
    "SEG": lambda negative: SEG(layers=(1,)),
    "TPG": lambda negative: TPG(layers=(1,)),
    "S2Guidance": lambda negative: S2Guidance(layers=(1,)),
    "EnhanceAVideo": lambda negative: EnhanceAVideo(weight=4.0),
}


def sample_clips(model: Any, guidances: tuple[Guidance, ...], *clips: Values) -> tuple[Tensor, list[Any]]:
    """Sample clips with two steps each in one `guide`; all but the last two clips stop after their first step.

    Returns:
        The prediction of the last step, and the trace of its run as a list.
    """
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with guide(model, *guidances, scheduler=scheduler) as run:
        for number, inputs in enumerate(clips):
            scheduler.set_timesteps(2)
            for timestep in scheduler.timesteps[: 1 if number < len(clips) - 2 else 2]:
                inputs = {**inputs, **other_video(inputs)}
                prediction = prediction_of(model(**inputs))
                scheduler.step(prediction, timestep, prediction)
    choices = [(choice.step, choice.guidance, choice.layers, choice.gradients) for choice in run.trace.choices]
    return prediction, [*run.trace, *choices]


def other_video(inputs: Values) -> Values:
    """Return another video for a call."""
    return {"hidden_states": inputs["hidden_states"].flip(0) + 0.5}
