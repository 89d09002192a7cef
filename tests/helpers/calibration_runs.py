"""Pipelines with tiny transformers, ready for a calibration: call arguments, noise levels, and latents."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.helpers.tiny_families import Values, cast
from tests.helpers.tiny_pipelines import Case
from vidguide.pipelines.calibration.playback import FinishedError, Playback, play, schedule
from vidguide.transformer.prediction_space import Levels

STEPS = 6


class Setup(NamedTuple):
    """A pipeline, the arguments of its call, its noise levels, and the shape of its latents."""

    pipe: Any
    call: Values
    levels: list[Levels]
    shape: tuple[int, ...]

    def noise(self, seed: int) -> Tensor:
        """Return random latents in float32."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))


def setup(case: Case, clips: int = 3, exact: bool = True) -> Setup:
    """Return a pipeline without guidance, whose transformer computes in float64 if `exact` and possible."""
    pipe = case.pipe(False)
    if exact:
        pipe.transformer.to(case.model.dtype)
    texts = cast(case.text(case.text_inputs(2)), pipe.transformer.dtype)
    repeated = {name: value.repeat(clips, *[1] * (value.ndim - 1)) for name, value in texts.items()}
    call = {**repeated, **case.call, **case.off, "num_inference_steps": STEPS}
    return Setup(pipe, call, schedule(pipe, call), latents_shape(pipe, call))


def latents_shape(pipe: Any, call: Values) -> tuple[int, ...]:
    """Return the shape of the latents that a pipeline's scheduler receives."""
    shapes = []

    def after(position: int, prediction: Tensor, latents: Tensor) -> Tensor:
        shapes.append(tuple(latents.shape))
        raise FinishedError

    play(pipe, call, Playback(after))
    return shapes[0]
