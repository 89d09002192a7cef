"""How a clip is asked of a pipeline: settings filled up from the model's and the pipeline's own, and its call."""

import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from vidguide import CFG, NAG
from vidguide.guidances.base import Guidance
from vidguide.pipelines.models.spec import Model
from vidguide.transformer.class_swap import subclass_of, swapped_class

SETTINGS = ("steps", "height", "width", "frames", "fps", "guidance_scale")
# What pipelines call them, the first that they know: HunyuanVideo's guidance_scale is an input of the model, and its
# classifier-free guidance goes by another name.
NAMES = {
    "steps": ("num_inference_steps",),
    "frames": ("num_frames", "frames", "video_length"),
    "fps": ("frame_rate", "fps"),
    "guidance_scale": ("true_cfg_scale", "guidance_scale"),
}
# For clips from an image: lower, so that the image is kept, as NAG's authors advise; the numbers are ours, unmeasured.
# https://github.com/ChenDarYen/ComfyUI-NAG#rule-of-thumb
IMAGE_NAG = {"tau": 2.0, "alpha": 0.125}
LEVELS, GENERATOR = "_vidguide_levels", "_vidguide_generator"


def parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of a pipeline's call."""
    return inspect.signature(type(pipe).__call__).parameters


def name_in(pipe: Any, setting: str) -> str | None:
    """What a pipeline's call names a setting; None where it has no such argument."""
    known = parameters(pipe)
    return next((name for name in NAMES.get(setting, (setting,)) if name in known), None)


def default_of(pipe: Any, setting: str) -> Any:
    """The pipeline's own default of a setting; None where it has none."""
    name = name_in(pipe, setting)
    if name is None and setting == "guidance_scale":  # some have a guider in place of the argument
        return getattr(getattr(getattr(pipe, "guider", None), "config", None), "guidance_scale", None)
    default = None if name is None else parameters(pipe)[name].default
    return None if default is inspect.Parameter.empty else default


def fill_settings(pipe: Any, model: Model, guidances: tuple[Guidance, ...], asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, filled up from the model's own choice, then from the pipeline's defaults."""
    settings = {}
    for name in SETTINGS:
        own = getattr(model, name)
        settings[name] = asked[name] if asked[name] is not None else default_of(pipe, name) if own is None else own
    settings["fps"] = settings["fps"] or 16.0
    if asked["guidance_scale"] is None and any(isinstance(one, CFG) for one in guidances):
        settings["guidance_scale"] = 1.0
    return settings


def default_nag(model: Model, image: bool) -> NAG:
    """NAG as the model has it; gentler for clips from an image, where the model was not made for those alone."""
    values: dict[str, Any] = dict(model.nag)
    if image and model.image != "must":
        own = {"tau": NAG.tau, "alpha": NAG.alpha, **values}
        values |= {name: min(own[name], least) for name, least in IMAGE_NAG.items()}
    return NAG(**values)


def warn_of_cfg(name: str, model: Model, settings: dict[str, Any], guidances: tuple[Guidance, ...]) -> None:
    """Tell what classifier-free guidance does to a model that was distilled to run without."""
    rules = [one.scale for one in guidances if isinstance(one, CFG) and not one.neutral]
    scales = rules + [own for own in [settings["guidance_scale"]] if own is not None and own > 1]
    if model.distilled and scales:
        scale = f"{scales[0]:g}" if isinstance(scales[0], int | float) else repr(scales[0])
        warnings.warn(
            f"classifier-free guidance at scale {scale}: {name} is distilled to run without it. Each step takes two "
            "model calls, and in few steps colours burn out and shapes break. A negative prompt works at "
            "guidance_scale=1, by NAG",
            stacklevel=3,
        )


def schedule(pipe: Any, model: Model, steps: int) -> dict[str, Any]:
    """The model's own noise levels as an argument of the pipeline's call, or of its scheduler; for its own number of
    steps only."""
    name = "sigmas" if model.sigmas else "timesteps"
    levels = getattr(model, name)
    if levels is None:
        return {}
    if steps != len(levels):
        warnings.warn(
            f"steps={steps}: the model's own noise levels are for {len(levels)} steps; the scheduler spreads {steps}",
            stacklevel=4,
        )
        return {}
    return {name: list(levels)}


def call_arguments(pipe: Any, model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings and the model's further arguments as keyword arguments of the pipeline's call; a setting that it does
    not know is left out."""
    named = {name_in(pipe, setting): value for setting, value in settings.items() if value is not None}
    arguments = {name: value for name, value in named.items() if name is not None}
    return {**model.call, **arguments, **schedule(pipe, model, settings["steps"])}


def prompts(pipe: Any, settings: dict[str, Any], prompt: str, negative: str | None) -> dict[str, Any]:
    """The texts of a call: the negative prompt only where classifier-free guidance reads it."""
    texts: dict[str, Any] = {"prompt": prompt}
    if negative is not None and (settings["guidance_scale"] or 0) > 1 and "negative_prompt" in parameters(pipe):
        texts["negative_prompt"] = negative
    return texts


@contextmanager
def prepared(
    pipe: Any, arguments: dict[str, Any], scale: float | None, generator: torch.Generator
) -> Iterator[dict[str, Any]]:
    """What a call cannot be told by arguments: noise levels that only the scheduler takes, where a scheduler that
    draws noise at each step gets it from, and a guider's scale.

    Yields:
        The arguments that are left for the call.
    """
    guider, scheduler = getattr(pipe, "guider", None), pipe.scheduler
    levels = {name: arguments[name] for name in ("sigmas", "timesteps") if name in arguments}
    unknown = {name: value for name, value in levels.items() if name not in parameters(pipe)}
    if guider is not None and scale is not None and "guidance_scale" in guider.config:
        pipe.guider = guider.new(guidance_scale=scale)
    try:
        with ExitStack() as stack:
            if unknown:
                stack.enter_context(swapped_class(scheduler, levelled_class, LEVELS, unknown))
            if getattr(scheduler.config, "stochastic_sampling", False):
                stack.enter_context(swapped_class(scheduler, seeded_class, GENERATOR, generator))
            yield {name: value for name, value in arguments.items() if name not in unknown}
    finally:
        if guider is not None:
            pipe.guider = guider


@functools.cache
def levelled_class(own: Any) -> Any:
    """A scheduler's class whose noise levels are given, whatever number of steps it is asked for. Made once per
    class."""

    def set_timesteps(self: Any, num_inference_steps: int | None = None, device: Any = None, **settings: Any) -> Any:
        return own.set_timesteps(self, device=device, **{**settings, **vars(self)[LEVELS]})

    return subclass_of(own, set_timesteps=set_timesteps)


@functools.cache
def seeded_class(own: Any) -> Any:
    """A scheduler's class whose noise comes from the call's generator, which pipelines keep from it: drawn by it, or
    from a seed that it draws where this diffusers asks nothing but the global one. Made once per class."""

    @functools.wraps(own.step)
    def step(self: Any, model_output: torch.Tensor, *args: Any, **settings: Any) -> Any:
        generator = vars(self)[GENERATOR]
        seed = int(torch.randint(2**62, (), generator=generator))
        devices = [model_output.device] if model_output.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            return own.step(self, model_output, *args, **{**settings, "generator": generator})

    return subclass_of(own, step=step)
