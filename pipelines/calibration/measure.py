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
from vidguide.pipelines.calibration.playback import Playback, add_noise, invert, playing
from vidguide.transformer.prediction_space import Levels, conversion_at


def measure(
    pipe: Any,
    call: dict[str, Any],
    clean: Tensor,
    noise: Tensor,
    guidances: tuple[Guidance, ...],
    levels: list[Levels],
    step: int,
) -> Tensor:
    """Measure guidances on clips that are noised to the level of one step.

    The steps before it are taken from the model's own ODE, run backwards from x_t: EMAG's average must not see the
    clip at other noise levels, as x_t and x_t' together determine x_0.

    Args:
        call: arguments of the pipeline's call, without latents, with its guidance off.
        clean: x_0 in the layout of the pipeline's latents, `(B, ...)`. noise: n, of the same shape.
        guidances: what to measure. levels: of all steps. step: index of the step.

    Returns:
        :func:`vidguide.functional.direction.inner_products` of each guidance and clip, `(G, B, 4)`, float64.

    Raises:
        ValueError: the transformer does not receive the pipeline's latents unchanged.
    """
    path = invert(pipe, call, add_noise(clean, noise, levels[step]), levels, step)
    probe = DirectionProbe(guidances=probed(guidances, step, len(levels)), step=step)

    def after(position: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return path[position + 1]

    with suppress(MeasuredError), playing(pipe, Playback(after)), guide(pipe, probe):
        pipe(**call, latents=path[0], output_type="latent")
    return products(pipe, probe, clean, path[step], levels[step])


def products(pipe: Any, probe: DirectionProbe, clean: Tensor, noisy: Tensor, level: Levels) -> Tensor:
    """Return the inner products of what a probe measured with the model's error, `(G, B, 4)`."""
    (prediction,), (sample,) = probe.prediction, probe.sample
    if sample is None or sample.shape != noisy.shape or not torch.equal(sample, noisy.to(sample)):
        raise ValueError(f"{type(pipe).__name__}: its transformer does not receive its latents unchanged; unsupported")
    conversion = conversion_at(level, noisy)
    assert conversion is not None, "the inversion converted predictions at this level"
    prediction = upcast(prediction)
    error = conversion.to_prediction(clean) - prediction
    return torch.stack(
        [inner_products(error, probe.directions[index], prediction).cpu() for index in range(len(probe.guidances))]
    )
