"""Runs of a pipeline along given latents: its scheduler returns them in place of its steps."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vidguide.transformer.class_swap import subclass_of, swapped_class
from vidguide.transformer.prediction_space import Levels, X0Conversion, conversion_at, levels_at

PLAYBACK = "_vidguide_playback"
SAMPLE_PARAMETERS = ("model_output", "sample")


class FinishedError(Exception):
    """Ends a run of the pipeline."""


class Playback:
    """What a scheduler does during a run of its pipeline, after it has made its schedule.

    Attributes:
        order: indices of the steps to run, in this order; None for the whole schedule.
        after: `(position, prediction, latents) -> latents` of the next step; the position is an index in `order`.
            It raises `FinishedError` to end the run.
    """

    def __init__(self, after: Callable[[int, Tensor, Tensor], Tensor], order: list[int] | None = None) -> None:
        self.after, self.order = after, order
        self.position = 0

    def scheduled(self, scheduler: Any) -> None:
        """Order the scheduler's timesteps."""
        self.position = 0
        if self.order is not None:
            scheduler.timesteps = scheduler.timesteps[self.order]

    def step(self, prediction: Tensor, latents: Tensor) -> Tensor:
        """Return the latents of the next step."""
        following = self.after(self.position, prediction, latents)
        self.position += 1
        return following


class ScheduleOnly(Playback):
    """Ends the run once the schedule is made."""

    def __init__(self) -> None:
        super().__init__(lambda position, prediction, latents: latents)

    def scheduled(self, scheduler: Any) -> None:
        raise FinishedError


def playback_of(scheduler: Any) -> Playback | None:
    """Return the playback of a scheduler; None for a copy, which pipelines make for audio."""
    playback, owner = vars(scheduler).get(PLAYBACK, (None, None))
    return playback if owner == id(scheduler) else None


@functools.cache
def playback_class(base: Any) -> Any:
    """Return a subclass of a scheduler's class that plays latents back, in the transformer's scale. Cached."""
    signature = inspect.signature(base.step)

    @functools.wraps(base.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = base.set_timesteps(self, *args, **kwargs)
        if (playback := playback_of(self)) is not None:
            playback.scheduled(self)
        return result

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        playback = playback_of(self)
        if playback is None:
            return base.step(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        latents = playback.step(*(given[name] for name in SAMPLE_PARAMETERS))
        output = SimpleNamespace(prev_sample=latents, pred_original_sample=None)
        return output if given.get("return_dict", True) else (latents, None)

    def scale_model_input(self: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return sample

    one = property(lambda self: 1.0)
    return subclass_of(
        base, set_timesteps=set_timesteps, step=step, scale_model_input=scale_model_input, init_noise_sigma=one
    )


@contextmanager
def playing(pipe: Any, playback: Playback) -> Iterator[None]:
    """Replace the steps of a pipeline's scheduler by a playback within the block; `FinishedError` ends the block."""
    value = (playback, id(pipe.scheduler))
    with suppress(FinishedError), torch.no_grad(), swapped_class(pipe.scheduler, playback_class, PLAYBACK, value):
        yield


def play(pipe: Any, call: dict[str, Any], playback: Playback) -> None:
    """Call a pipeline under a playback that ends the run."""
    with playing(pipe, playback):
        pipe(**call, output_type="latent")


def schedule(pipe: Any, call: dict[str, Any]) -> list[Levels]:
    """Return the noise levels of all steps of a pipeline's call.

    Raises:
        ValueError: its scheduler does not determine them, or takes two calls a step.
    """
    name = type(pipe.scheduler).__name__
    if getattr(pipe.scheduler, "order", 1) != 1:
        raise ValueError(f"{name}: makes several calls a step; use a scheduler with one, such as Euler's")
    play(pipe, call, ScheduleOnly())
    levels = [levels_at(pipe.scheduler, index) for index in range(len(pipe.scheduler.timesteps))]
    known = [level for level in levels if level is not None]
    if len(known) < len(levels):
        raise ValueError(f"{name}: its noise levels are unknown; flow matching, epsilon and v-prediction are supported")
    return known


def add_noise(clean: Tensor, noise: Tensor, level: Levels) -> Tensor:
    """Return `x_t = alpha_t x_0 + |sigma_t| n`, in float32."""
    alpha, sigma = level[0].to(clean), level[1].to(clean).abs()
    return alpha * clean + sigma * noise


def conversion_of(level: Levels, sample: Tensor) -> X0Conversion:
    """Return the conversion between predictions and x_0 at a noise level.

    Raises:
        ValueError: for a type of prediction that is not known.
    """
    conversion = conversion_at(level, sample)
    if conversion is None:
        raise ValueError(f"prediction_type={level[2]!r}: must be epsilon, v_prediction, flow_prediction or sample")
    return conversion


def renoise(sample: Tensor, prediction: Tensor, level: Levels, target: Levels) -> Tensor:
    """Move a sample along the model's ODE from one noise level to another, by one Euler step (as DDIM does).

    The prediction implies x_0 and the noise n of the sample; they are mixed again at the target's level. For flow
    matching this is `x + (sigma' - sigma) v`.

    Args:
        sample: x_t `(B, ...)`. prediction: the model's at x_t. level, target: of x_t and of the result.
    """
    clean = conversion_of(level, sample).to_x0(prediction)
    noise = (sample.to(clean) - level[0].to(clean) * clean) / level[1].to(clean).abs()
    return add_noise(clean, noise, target).to(sample.dtype)


def invert(pipe: Any, call: dict[str, Any], noisy: Tensor, levels: list[Levels], step: int) -> list[Tensor]:
    """Run the model's own ODE from x_t to higher noise, along the pipeline's schedule backwards.

    Args:
        noisy: x_t at the level of `step`. levels: of all steps. step: index of x_t's step.

    Returns:
        The latents at steps 0 to `step`, the last of which is `noisy`.
    """
    path, order = [noisy], list(range(step, 0, -1))

    def after(position: int, prediction: Tensor, latents: Tensor) -> Tensor:
        index = order[position]
        path.append(renoise(latents, prediction, levels[index], levels[index - 1]))
        if index == 1:
            raise FinishedError
        return path[-1]

    if step > 0:
        play(pipe, {**call, "latents": noisy}, Playback(after, order))
    return path[::-1]
