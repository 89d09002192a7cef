"""Settings of a clip, completed from the model and the pipeline, and the arguments of the pipeline call."""

import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from vidguide.guidances.base import Guidance
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.nag import NAG
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.schema import Settings
from vidguide.transformer.class_swap import subclass_of, swapped_class
from vidguide.transformer.modular_blocks import inputs_of, is_modular

SETTINGS = tuple(Settings.__annotations__)
# Names of a setting in pipeline calls, in order of preference. HunyuanVideo's `guidance_scale` is an input of the
# model; its classifier-free guidance has the scale `true_cfg_scale`.
ARGUMENT_NAMES = {
    "steps": ("num_inference_steps",),
    "frames": ("num_frames", "frames", "video_length"),
    "fps": ("frame_rate", "fps"),
    "guidance_scale": ("true_cfg_scale", "guidance_scale"),
}
DEFAULT_FPS = 16.0
# Upper limits for clips with a first image, to preserve it. NAG's authors advise lower values; these are our choice
# and were not measured. https://github.com/ChenDarYen/ComfyUI-NAG#rule-of-thumb
IMAGE_NAG = {"tau": 2.0, "alpha": 0.125}
NOISE_LEVELS, GENERATOR = "_vidguide_levels", "_vidguide_generator"


def parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a pipeline's call; of a modular pipeline, the inputs of its blocks."""
    if not is_modular(pipe):
        return inspect.signature(type(pipe).__call__).parameters
    empty = inspect.Parameter.empty
    return {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty if one.required else one.default)
        for name, one in inputs_of(pipe).items()
    }


def argument_name(pipe: Any, setting: str) -> str | None:
    """Return the name of a setting in a pipeline's call; None if the call does not have it."""
    known = parameters(pipe)
    return next((name for name in ARGUMENT_NAMES.get(setting, (setting,)) if name in known), None)


def pipeline_default(pipe: Any, setting: str) -> Any:
    """Return the pipeline's default of a setting; None if it has none."""
    name = argument_name(pipe, setting)
    if name is None and setting == "guidance_scale":  # pipelines with a guider have no such argument
        return getattr(getattr(getattr(pipe, "guider", None), "config", None), "guidance_scale", None)
    default = None if name is None else parameters(pipe)[name].default
    return None if default is inspect.Parameter.empty else default


def fill_settings(
    pipe: Any, model: Model, guidances: tuple[Guidance, ...], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Replace settings that are None by the model's, then by the pipeline's default."""

    def fill(name: str) -> Any:
        choices = (settings[name], getattr(model, name, None))
        return next((value for value in choices if value is not None), None)

    filled = {name: fill(name) for name in SETTINGS}
    filled = {name: pipeline_default(pipe, name) if value is None else value for name, value in filled.items()}
    filled["fps"] = filled["fps"] or DEFAULT_FPS
    if settings["guidance_scale"] is None and any(isinstance(guidance, CFG) for guidance in guidances):
        filled["guidance_scale"] = 1.0
    return filled


def default_nag(model: Model, has_image: bool) -> NAG:
    """Return NAG with the model's parameters, limited by `IMAGE_NAG` where the first image is optional and given."""
    values: dict[str, Any] = dict(model.nag)
    if has_image and model.image != "must":
        unlimited = {"tau": NAG.tau, "alpha": NAG.alpha, **values}
        values |= {name: min(unlimited[name], limit) for name, limit in IMAGE_NAG.items()}
    return NAG(**values)


def warn_about_cfg(name: str, model: Model, settings: dict[str, Any], guidances: tuple[Guidance, ...]) -> None:
    """Warn about classifier-free guidance on a model that was distilled to run without it."""
    scales: list[Any] = [each.scale for each in guidances if isinstance(each, CFG) and not each.neutral]
    if (settings["guidance_scale"] or 1) > 1:
        scales.append(settings["guidance_scale"])
    if model.distilled and scales:
        scale = f"{scales[0]:g}" if isinstance(scales[0], int | float) else repr(scales[0])
        warnings.warn(
            f"classifier-free guidance at scale {scale}: {name} is distilled to run without it. It doubles the model "
            "calls per step, and with few steps it oversaturates colours and breaks shapes. For a negative prompt, use "
            "NAG with guidance_scale=1",
            stacklevel=3,
        )


def noise_levels(pipe: Any, model: Model, steps: int) -> dict[str, Any]:
    """Return the model's sigmas or timesteps as an argument; empty, with a warning, for another number of steps."""
    name = "sigmas" if model.sigmas else "timesteps"
    levels = getattr(model, name)
    if levels is None:
        return {}
    if steps != len(levels):
        warnings.warn(
            f"steps={steps}: the model's noise levels are for {len(levels)} steps; using the scheduler's {steps}",
            stacklevel=5,
        )
        return {}
    return {name: list(levels)}


def call_arguments(pipe: Any, model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings, noise levels and the model's further arguments under the names of the pipeline's call.

    Settings that the call does not have are left out.
    """
    named = {argument_name(pipe, setting): value for setting, value in settings.items() if value is not None}
    arguments = {name: value for name, value in named.items() if name is not None}
    # LTX-2 has a scale of its own for the audio, and runs both passes if either is above 1.
    audio = {"audio_guidance_scale": 1.0} if settings["guidance_scale"] == 1 else {}
    audio = {name: value for name, value in audio.items() if name in parameters(pipe)}
    return {**audio, **model.call, **arguments, **noise_levels(pipe, model, settings["steps"])}


def text_arguments(pipe: Any, settings: dict[str, Any], texts: dict[str, str | None]) -> dict[str, str]:
    """Return the texts of a call: the negative prompt only where classifier-free guidance is on and takes it."""
    takes_negative = (settings["guidance_scale"] or 0) > 1 and "negative_prompt" in parameters(pipe)
    names = ("prompt", "negative_prompt") if takes_negative else ("prompt",)
    return {name: text for name in names if (text := texts[name]) is not None}


@contextmanager
def prepare_pipeline(
    pipe: Any, arguments: dict[str, Any], scale: float | None, generator: torch.Generator
) -> Iterator[dict[str, Any]]:
    """Set what the call does not take as an argument, for the duration of the context.

    This is: noise levels, passed to the scheduler; the generator of a stochastic scheduler; a guider's scale.

    Args:
        pipe: diffusers pipeline.
        arguments: of its call.
        scale: of its classifier-free guidance, for a guider; None leaves the guider unchanged.
        generator: of the noise that a stochastic scheduler adds at each step.

    Yields:
        The remaining arguments of the call.
    """
    guider, scheduler = getattr(pipe, "guider", None), getattr(pipe, "scheduler", None)
    levels = {name: arguments[name] for name in ("sigmas", "timesteps") if name in arguments}
    for_scheduler = {name: value for name, value in levels.items() if name not in parameters(pipe)}
    if guider is not None and scale is not None and "guidance_scale" in guider.config:
        pipe.guider = guider.new(guidance_scale=scale)
    try:
        with ExitStack() as stack:
            if for_scheduler:
                stack.enter_context(swapped_class(scheduler, fixed_levels_class, NOISE_LEVELS, for_scheduler))
            if getattr(getattr(scheduler, "config", None), "stochastic_sampling", False):
                stack.enter_context(swapped_class(scheduler, seeded_class, GENERATOR, generator))
            yield {name: value for name, value in arguments.items() if name not in for_scheduler}
    finally:
        if guider is not None:
            pipe.guider = guider


@functools.cache
def fixed_levels_class(base: Any) -> Any:
    """Return a subclass of a scheduler class with fixed noise levels, whatever number of steps it is asked for."""

    def set_timesteps(self: Any, num_inference_steps: int | None = None, device: Any = None, **settings: Any) -> Any:
        return base.set_timesteps(self, device=device, **{**settings, **vars(self)[NOISE_LEVELS]})

    return subclass_of(base, set_timesteps=set_timesteps)


@functools.cache
def seeded_class(base: Any) -> Any:
    """Return a subclass of a scheduler class whose step draws its noise from the generator of the call.

    Pipelines do not pass their generator to the scheduler, and some releases of diffusers ignore the argument: so the
    global generator is seeded from it as well, and restored after the step.
    """

    @functools.wraps(base.step)
    def step(self: Any, model_output: torch.Tensor, *args: Any, **settings: Any) -> Any:
        generator = vars(self)[GENERATOR]
        seed = int(torch.randint(2**62, (), generator=generator))
        devices = [model_output.device] if model_output.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            return base.step(self, model_output, *args, **{**settings, "generator": generator})

    return subclass_of(base, step=step)
