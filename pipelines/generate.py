"""generate(): from a prompt to a clip in one call, with everything checked before the first step."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vidguide import Clip, guide
from vidguide.guidances.base import Guidance
from vidguide.pipelines.loading.hub import FINGERPRINTS
from vidguide.pipelines.loading.load import known, label, load, resolve
from vidguide.pipelines.models.spec import SHIPPED, Model
from vidguide.pipelines.request.call_settings import (
    call_arguments,
    default_nag,
    default_of,
    fill_settings,
    prepared,
    prompts,
    warn_of_cfg,
)
from vidguide.pipelines.request.guidance_spec import with_negative
from vidguide.pipelines.request.images import check_use, described, fitted, read_image, takes_image
from vidguide.pipelines.request.provenance import versions
from vidguide.pipelines.request.validation import check_lengths, check_numbers, check_size, check_steps, check_texts
from vidguide.tracing.run import Run


def generate(
    prompt: str,
    *,
    model: str | os.PathLike[str] | Model = "tiny",
    image: Any = None,
    negative_prompt: str | None = None,
    guidance: Sequence[Guidance] | None = None,
    guidance_scale: float | None = None,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    seed: int = 0,
    max_sequence_length: int | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offload: str = "auto",
    pipe: Any = None,
    progress: bool = True,
) -> Clip:
    """Generate a clip.

    Args:
        prompt: what the clip shows.
        model: a shipped name, a preset, a local pipeline folder, a hub id, or a
            :class:`vidguide.pipelines.models.spec.Model` of your own.
        image: first image of the clip, for a model that takes one: a path, a PIL image, or an array `(H, W, 3)`, uint8
            or floating point in 0..1. It is scaled to the clip's size, and cut at its middle to the clip's aspect.
        negative_prompt: what it should not show; given to every guidance that takes one and has none, and to the
            pipeline's own classifier-free guidance where that is on.
        guidance: guidances; None for NAG with the model's own parameters where there is a negative prompt, else none.
        guidance_scale: of the pipeline's own classifier-free guidance; 1 is off. None for the model's own choice:
            off for shipped models, presets and with our `CFG`, else the pipeline's default.
        steps, height, width, frames, fps: None for the model's defaults; pixels, frames per second.
        seed: of the noise, drawn on the CPU so that it is the same on every device.
        max_sequence_length: text length in tokens; None for the pipeline's default.
        revision, device, dtype, offload: see :func:`vidguide.pipelines.loading.load.load`.
        pipe: a pipeline that is loaded already; `model` then only names it and its settings.
        progress: show the bars of loading and of the steps.

    Returns:
        A :class:`vidguide.Clip` whose provenance holds all of this, versions, seconds and the trace's summary.

    Raises:
        ValueError, TypeError: before any step, naming the argument, its value and what would be right.
        OSError, ImportError: the image or the model's files cannot be read, or need another package.
        FloatingPointError: after the steps, where what came out is no picture.

    Warns of classifier-free guidance on a model that was distilled to run without.
    """
    check_texts(prompt, negative_prompt)
    asked = dict(steps=steps, height=height, width=width, frames=frames, fps=fps, guidance_scale=guidance_scale)
    check_numbers(asked, seed)
    picture = None if image is None else read_image(image)
    chosen = resolve(model) if pipe is None else known(model)
    guidances = chosen_guidances(guidance, chosen, image is not None, negative_prompt)
    if pipe is None:
        placing: dict[str, Any] = dict(device=device, dtype=dtype, offload=offload)
        pipe = load(model, revision=revision, image=image is not None, progress=progress, **placing)
    check_use(type(pipe).__name__, takes_image(type(pipe)), image is not None)
    settings = fill_settings(pipe, chosen, guidances, asked)
    warn_of_cfg(label(model), chosen, settings, guidances)
    check_size(pipe, settings)
    length = max_sequence_length or default_of(pipe, "max_sequence_length")
    check_lengths(pipe, length, prompt, negative_prompt)
    arguments = call_arguments(pipe, chosen, {**settings, "max_sequence_length": length})
    check_steps(pipe, settings["steps"], "sigmas" in arguments or "timesteps" in arguments)
    arguments |= prompts(pipe, settings, prompt, negative_prompt)
    if picture is not None:
        arguments["image"] = fitted(picture, settings["width"], settings["height"])
    pipe.set_progress_bar_config(disable=not progress)
    started = time.perf_counter()
    video, run = sample(pipe, arguments, guidances, settings["guidance_scale"], seed)
    seconds = time.perf_counter() - started
    provenance = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "model": label(model),
        "revision": revision,
        "preset": preset_told(pipe, chosen),
        "image": None if picture is None else described(image, picture),
        "guidance": [one.describe() for one in guidances],
        **settings,
        "seed": seed,
        "max_sequence_length": length,
        "device": str(pipe._execution_device),
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "offload": offload,
        "seconds": round(seconds, 3),
        "trace": run.trace.summary(),
        "versions": versions(),
    }
    return Clip(frames=to_frames(video), fps=settings["fps"], provenance=provenance)


def chosen_guidances(
    guidance: Sequence[Guidance] | None, model: Model, image: bool, negative_prompt: str | None
) -> tuple[Guidance, ...]:
    """The guidances asked for, or where only a negative prompt was, the model's own NAG; all with that prompt."""
    if guidance is None:
        guidance = () if negative_prompt is None else (default_nag(model, image),)
    return with_negative(tuple(guidance), negative_prompt)


def sample(
    pipe: Any, arguments: dict[str, Any], guidances: Sequence[Guidance], scale: float | None, seed: int
) -> tuple[np.ndarray, Run]:
    """Call the pipeline under guidance.

    Args:
        arguments: of its call. scale: of its own classifier-free guidance, for a guider, which takes none by call.

    Returns:
        Frames `(F, H, W, 3)` in 0..1, and the run that made them.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    with prepared(pipe, arguments, scale, generator) as call, guide(pipe, *guidances) as run:
        return pipe(**call, generator=generator, output_type="np").frames[0], run


def preset_told(pipe: Any, model: Model) -> dict[str, Any] | None:
    """For provenance, all values of a preset and the fingerprints of its further files; None for other models."""
    if model in SHIPPED.values() or model == Model(source=model.source):
        return None
    return {"values": model.values(), "files": FINGERPRINTS.get(pipe, {})}


def to_frames(video: Any) -> np.ndarray:
    """A pipeline's frames in 0..1 to `(F, H, W, 3)` uint8.

    Raises:
        FloatingPointError: there are NaN among them, which would be written as black.
    """
    values = np.asarray(video)
    if np.isnan(values).any():
        share = np.isnan(values).mean()
        raise FloatingPointError(
            f"frames: {share:.0%} of them is NaN: the model or its VAE overflowed; try dtype=float32"
        )
    frames: np.ndarray = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return frames
