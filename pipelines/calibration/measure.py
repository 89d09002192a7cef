"""Directions of guidances and the model's error at one step of a pipeline's run, for clips whose latents are known."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from vidguide.functional.direction import inner_products
from vidguide.functional.upcast import upcast
from vidguide.guidances.base import Guidance
from vidguide.guidances.direction_probe import DirectionProbe, MeasuredError, probed
from vidguide.guiding.guide import guide
from vidguide.pipelines.calibration.playback import Playback, add_noise, conversion_of, invert, playing
from vidguide.transformer.prediction_space import Levels


def observe(
    pipe: Any, call: dict[str, Any], noisy: Tensor, guidances: tuple[Guidance, ...], levels: list[Levels], step: int
) -> DirectionProbe:
    """Return the model's prediction and the directions of guidances at x_t, from x_t alone.

    The steps before it are taken from the model's own ODE, run backwards from x_t. EMAG's average must not see the clip
    at other noise levels: x_t and x_t' together determine x_0.

    Args:
        call: arguments of the pipeline's call, without latents, with its guidance off.
        noisy: x_t in the layout of the pipeline's latents, `(B, ...)`.
        guidances: what to measure. levels: of all steps. step: index of x_t's step.

    Raises:
        ValueError: the transformer does not receive the pipeline's latents unchanged.
    """
    path = invert(pipe, call, noisy, levels, step)
    probe = DirectionProbe(guidances=probed(guidances, step, len(levels)), step=step)

    def after(position: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return path[position + 1]

    with suppress(MeasuredError), playing(pipe, Playback(after)), guide(pipe, probe):
        pipe(**call, latents=path[0], output_type="latent")
    (sample,) = probe.sample
    if sample is None or sample.shape != noisy.shape or not torch.equal(sample, noisy.to(sample)):
        raise ValueError(f"{type(pipe).__name__}: its transformer does not receive its latents unchanged; unsupported")
    return probe


def measure(
    pipe: Any,
    call: dict[str, Any],
    clean: Tensor,
    noise: Tensor,
    guidances: tuple[Guidance, ...],
    levels: list[Levels],
    step: int,
) -> Tensor:
    """Compare the directions of guidances with the model's error on clips that are noised to the level of one step.

    Args:
        clean: x_0, and noise: n, in the layout of the pipeline's latents, `(B, ...)`.
        call, guidances, levels, step: as for :func:`observe`.

    Returns:
        :func:`vidguide.functional.direction.inner_products` of each guidance and clip, `(G, B, 4)`, float64.
    """
    noisy = add_noise(clean, noise, levels[step])
    probe = observe(pipe, call, noisy, guidances, levels, step)
    prediction = upcast(probe.prediction[0])
    error = conversion_of(levels[step], noisy).to_prediction(clean) - prediction
    directions = [probe.directions[index] for index in range(len(guidances))]
    return torch.stack([inner_products(error, direction, prediction) for direction in directions]).cpu()
