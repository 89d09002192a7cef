"""generate(): a clip from a prompt in one call, with every argument checked before the first denoising step."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from typing_extensions import TypedDict, Unpack

from vidguide.clip import Clip
from vidguide.eval.files import validate
from vidguide.guidances.base import Guidance
from vidguide.guiding.guide import guide
from vidguide.pipelines.loading.hub import FINGERPRINTS
from vidguide.pipelines.loading.load import choose_device, declaration, load, model_name, resolve
from vidguide.pipelines.loading.progress_bars import step_bars
from vidguide.pipelines.loading.set_up import SETUPS
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.call_settings import (
    call_arguments,
    default_nag,
    fill_settings,
    prepare_pipeline,
    text_arguments,
    warn_about_cfg,
)
from vidguide.pipelines.request.fingerprint import fingerprints_of
from vidguide.pipelines.request.guidance_spec import check_negative_prompts, fill_negative_prompt
from vidguide.pipelines.request.provenance import describe_preset, describe_setup, device_name, versions
from vidguide.pipelines.request.schema import Count, Prompts, Request
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.request.validation import (
    check_cached_steps,
    check_lengths,
    check_setup_of_guidances,
    check_size,
    check_steps,
)
from vidguide.pipelines.request.visual_inputs import INPUTS, VisualInputs, read_inputs
from vidguide.tracing.run import Trace
from vidguide.transformer.family import family_of
from vidguide.transformer.modular_blocks import is_modular


class Arguments(TypedDict, total=False):
    """Types of the keyword arguments of :func:`generate`, for the two overloads."""

    model: str | os.PathLike[str] | Model
    image: Any
    last_image: Any
    video: Any
    strength: float | None
    negative_prompt: str | None
    guidance: Sequence[Guidance] | None
    guidance_scale: float | None
    steps: int | None
    height: int | None
    width: int | None
    frames: int | None
    fps: float | None
    seed: int
    num_videos_per_prompt: int
    max_sequence_length: int | None
    revision: str | None
    device: str | None
    dtype: str | None
    setup: Setup | None
    pipe: Any
    on_trace: Callable[[Trace], object] | None
    on_step: Callable[[int, int], object] | None
    progress: bool


@overload
def generate(prompt: str, **arguments: Unpack[Arguments]) -> Clip: ...
@overload
def generate(prompt: list[str] | tuple[str, ...], **arguments: Unpack[Arguments]) -> list[Clip]: ...
def generate(
    prompt: str | Sequence[str],
    *,
    model: str | os.PathLike[str] | Model = "tiny",
    image: Any = None,
    last_image: Any = None,
    video: Any = None,
    strength: float | None = None,
    negative_prompt: str | None = None,
    guidance: Sequence[Guidance] | None = None,
    guidance_scale: float | None = None,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    seed: int = 0,
    num_videos_per_prompt: int = 1,
    max_sequence_length: int | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    setup: Setup | None = None,
    pipe: Any = None,
    on_trace: Callable[[Trace], object] | None = None,
    on_step: Callable[[int, int], object] | None = None,
    progress: bool = True,
) -> Clip | list[Clip]:
    """Generate a clip, or several with one loaded model.

    Args:
        prompt: what the clip shows; or a list of prompts, for a list of clips.
        model: shipped name, preset, local pipeline folder, Hugging Face repo id, or a
            :class:`vidguide.pipelines.models.spec.Model`.
        image: first image of the clip, for a model that takes one: path, PIL image, or array `(H, W, 3)`, uint8 or
            floating point in 0..1. It is scaled to the size of the clip and centre-cropped to its aspect ratio.
        last_image: last image of the clip, for a model that takes one besides the first; as `image`.
        video: video that the clip starts from, for a model that takes one: path, :class:`vidguide.Clip` or frames. A
            clip of video-to-video has its number of frames and its rate, unless `frames` (the first so many) and `fps`
            are given.
        strength: how far a clip departs from its video, above 0 to 1: the share of the steps that are taken. None for
            the default of the pipeline.
        negative_prompt: what the clip should not show. Every guidance that takes a negative prompt and has none gets
            this one, and so does the pipeline's classifier-free guidance if it is on.
        guidance: guidances; None for NAG with the model's parameters if there is a negative prompt, else none.
        guidance_scale: scale of the pipeline's classifier-free guidance; 1 switches it off. None for the model's
            default: 1 for shipped models, presets and with our `CFG`, else the default of the pipeline.
        steps: number of denoising steps; None for the model's default, as for the following four.
        height, width: pixels.
        frames: number of frames.
        fps: frames per second.
        seed: of the noise, drawn on the CPU so that it is the same on every device.
        num_videos_per_prompt: number of clips of each prompt of a list, at `seed`, `seed + 1` and so on.
        max_sequence_length: length of the text in tokens; None for the default of the pipeline.
        revision, device, dtype, setup: see :func:`vidguide.pipelines.loading.load.load`.
        pipe: loaded pipeline; `model` then only selects settings and appears in the provenance, as does `revision`.
        on_trace: called with the trace of each clip; `lambda trace: trace.plot().save("trace.svg")` draws it.
        on_step: called after each step with the number of completed steps and of all; an exception that it raises ends
            the call, and leaves the pipeline as it was.
        progress: show progress bars of loading and of the steps; in a file or a pipe a line every 30 seconds.

    Returns:
        A :class:`vidguide.Clip`, with audio where the pipeline makes it, and with these arguments, versions, seconds
        and a summary of the trace in its provenance. For a list of prompts a list of clips, those of the first
        prompt first. They are sampled one after the other, each as if it were made alone.

    Raises:
        ValueError, TypeError: before any step, naming the argument, its value and what it must be.
        OSError, ImportError: an image, the video or the model's files cannot be read, or need another package.
        FloatingPointError: after the steps, if the frames or the audio have NaN.

    Warns:
        UserWarning: classifier-free guidance on a model that is distilled to run without it; words that are not in the
            model's vocabulary; a number of steps other than that of the model's noise levels.

    Examples:
        >>> from vidguide import generate
        >>> clip = generate("a large circle moving right", negative_prompt="red", steps=2, progress=False)
        >>> clip.frames.shape, clip.fps
        ((13, 64, 64, 3), 8)
        >>> clip.provenance["guidance"][0]["name"]
        'NAG'
    """
    settings: dict[str, Any] = dict(steps=steps, height=height, width=width, frames=frames, fps=fps)
    settings |= dict(guidance_scale=guidance_scale, max_sequence_length=max_sequence_length)
    prompts = check_prompts(prompt, num_videos_per_prompt)
    for text in prompts:
        texts: dict[str, Any] = {"prompt": text, "negative_prompt": negative_prompt}
        validate(Request, {**texts, **settings, "seed": seed, "strength": strength})
    seeds = [seed + number for number in range(num_videos_per_prompt)]
    validate(Request, {"seed": seeds[-1]})
    sources = {"image": image, "last_image": last_image, "video": video}
    inputs = read_inputs(**sources, strength=strength)
    declared = resolve(model) if pipe is None else declaration(model)
    guidances = choose_guidances(guidance, declared, image is not None, negative_prompt)
    placement: dict[str, Any] = dict(revision=revision, device=device, dtype=dtype, setup=setup)
    starts: dict[str, Any] = {name: inputs.has(name) for name in INPUTS}
    if pipe is not None and setup is not None:
        raise ValueError("setup: applies to a model that is loaded here; with pipe=, pass it to load()")
    if pipe is not None:
        check_placement(pipe, device, dtype)
    check_setup_of_guidances(guidances, setup or Setup())
    if pipe is None:
        pipe = load(model, **starts, progress=progress, **placement)
    inputs.check(pipe)
    settings = inputs.settings(pipe, settings, fill_settings(pipe, declared, guidances, settings))
    warn_about_cfg(model_name(model), declared, settings, guidances)
    requests = [{"prompt": text, "negative_prompt": negative_prompt} for text in prompts]
    calls = [check_call(pipe, declared, settings, each, inputs) for each in requests]
    pipe.set_progress_bar_config(**step_bars(progress))
    common = {
        "model": model_name(model),
        "revision": revision,
        "preset": describe_preset(declared, FINGERPRINTS.get(pipe, {})),
        **inputs.describe(sources),
        "guidance": [each.describe() for each in guidances],
        **settings,
        "setup": describe_setup(SETUPS.get(pipe), FINGERPRINTS.get(pipe, {})),
        "weights": fingerprints_of(pipe),
    }
    clips = [
        make_clip(pipe, call, guidances, {**text, **common, "seed": each}, on_trace, on_step)
        for text, call in zip(requests, calls, strict=True)
        for each in seeds
    ]
    return clips[0] if isinstance(prompt, str) else clips


def check_prompts(prompt: str | Sequence[str], count: int) -> list[str]:
    """Return the prompts as a list.

    Args:
        prompt: one, or several.
        count: number of clips of each.

    Raises:
        ValueError, TypeError: there is none, or one is not a text, by its position; or several clips of a single text,
            which would be a list without a list of prompts.
    """
    validate(Count, count, "num_videos_per_prompt")
    if not isinstance(prompt, list | tuple):
        if count > 1:
            raise ValueError(f"num_videos_per_prompt={count}: needs a list of prompts, such as [{prompt!r}]")
        return [prompt]  # type: ignore[list-item] # checked by the caller
    listed: list[str] = validate(Prompts, {"prompt": list(prompt)})["prompt"]
    return listed


def make_clip(
    pipe: Any,
    call: dict[str, Any],
    guidances: Sequence[Guidance],
    provenance: dict[str, Any],
    on_trace: Callable[[Trace], object] | None,
    on_step: Callable[[int, int], object] | None,
) -> Clip:
    """Sample one clip.

    Args:
        pipe: diffusers pipeline.
        call: arguments of its call.
        guidances: guidances.
        provenance: of the clip, with its settings and seed.
        on_trace, on_step: as for :func:`generate`.
    """
    output, result, trace = sample(pipe, call, guidances, provenance["guidance_scale"], provenance["seed"], on_step)
    if on_trace is not None:
        on_trace(trace)
    frames = to_frames(frames_of(output))
    return Clip(frames=frames, fps=provenance["fps"], **audio_of(pipe, output), provenance={**provenance, **result})


def check_placement(pipe: Any, device: str | None, dtype: str | None) -> None:
    """Refuse a device or dtype that a loaded pipeline does not have.

    Raises:
        ValueError: with the one that it has.
    """
    current = torch.device(getattr(pipe, "_execution_device", pipe.device)).type
    if device is not None and choose_device(device).type != current:
        raise ValueError(f"device={device!r}: pipe= is on {current}; move it, or leave device out")
    loaded = str(pipe.transformer.dtype).removeprefix("torch.")
    if dtype is not None and dtype != loaded:
        raise ValueError(f"dtype={dtype!r}: pipe= is in {loaded}; load it in {dtype}, or leave dtype out")


def choose_guidances(
    guidance: Sequence[Guidance] | None, model: Model, has_image: bool, negative_prompt: str | None
) -> tuple[Guidance, ...]:
    """Return the guidances with the negative prompt filled in; None for the model's NAG if there is a negative prompt.

    Args:
        guidance: as for :func:`generate`.
        model: declaration, for the parameters of its NAG.
        has_image: whether the clip has a first image.
        negative_prompt: as for :func:`generate`.
    """
    if guidance is None:
        guidance = () if negative_prompt is None else (default_nag(model, has_image),)
    return check_negative_prompts(fill_negative_prompt(guidance, negative_prompt))


def check_call(
    pipe: Any, model: Model, settings: dict[str, Any], texts: dict[str, str | None], inputs: VisualInputs
) -> dict[str, Any]:
    """Return the arguments of the pipeline call, after checks of size, text lengths and steps.

    Raises:
        ValueError: naming the argument, its value and the nearest valid value.
    """
    check_size(pipe, settings)
    check_lengths(pipe, settings["max_sequence_length"], texts)
    arguments = call_arguments(pipe, model, settings)
    check_cached_steps(SETUPS.get(pipe), settings["steps"])
    check_steps(pipe, settings["steps"], "sigmas" in arguments or "timesteps" in arguments)
    return arguments | text_arguments(pipe, settings, texts) | inputs.arguments(pipe, settings)


def sample(
    pipe: Any,
    arguments: dict[str, Any],
    guidances: Sequence[Guidance],
    scale: float | None,
    seed: int,
    on_step: Callable[[int, int], object] | None = None,
) -> tuple[Any, dict[str, Any], Trace]:
    """Call the pipeline under guidance.

    Args:
        pipe: diffusers pipeline.
        arguments: of its call.
        guidances: guidances.
        scale: of its classifier-free guidance, for a pipeline with a guider, whose call does not take a scale.
        seed: of the noise.
        on_step: as for :func:`generate`.

    Returns:
        The pipeline's output, its frames `(1, F, H, W, 3)` in 0..1; for the provenance: device, dtype, seconds, trace
        and versions; and the whole trace.
    """
    generator, started = torch.Generator("cpu").manual_seed(seed), time.perf_counter()
    with prepare_pipeline(pipe, arguments, scale, generator) as call, guide(pipe, *guidances) as run:
        run.on_step = on_step
        output = pipe(**call, generator=generator, output_type="np")
    provenance = {
        "device": str(pipe._execution_device),
        "device_name": device_name(pipe._execution_device),
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "seconds": round(time.perf_counter() - started, 3),
        "trace": run.trace.summary(),
        "versions": versions(),
    }
    return output, provenance, run.trace


def frames_of(output: Any) -> Any:
    """Return the frames of the first clip in the output of a pipeline, or in the state of a modular one."""
    return output.frames[0] if hasattr(output, "frames") else output.get("videos")[0]


def audio_of(pipe: Any, output: Any) -> dict[str, Any]:
    """Return the audio in a pipeline's output as fields of a :class:`vidguide.Clip`; empty where there is none."""
    audio = family_of(getattr(pipe.transformer, "_orig_mod", pipe.transformer)).audio
    if audio is None:
        return {}
    waveform = output.get(audio.output) if is_modular(pipe) else getattr(output, audio.output, None)
    if waveform is None:
        return {}
    return {"audio": to_samples(waveform[0]), "audio_sample_rate": audio.sample_rate(pipe, output)}


def to_frames(video: Any) -> np.ndarray:
    """Convert a pipeline's frames in 0..1 to `(F, H, W, 3)` uint8.

    Raises:
        FloatingPointError: there are NaN, which would become black.
    """
    values = np.asarray(video)
    check_nan("frames", values)
    frames: np.ndarray = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return frames


def to_samples(waveform: Any) -> np.ndarray:
    """Convert a pipeline's waveform `(samples,)` or `(channels, samples)` in -1..1 to `(samples, channels)` int16.

    Raises:
        FloatingPointError: there are NaN, which would become silence. ValueError: the waveform has another shape.
    """
    values = torch.as_tensor(waveform).float().cpu().numpy()
    if values.ndim not in (1, 2):
        raise ValueError(f"audio{values.shape}: must be (samples,) or (channels, samples)")
    check_nan("audio", values)
    samples: np.ndarray = np.round(np.clip(np.atleast_2d(values).T, -1, 1) * 32767).astype(np.int16)
    return samples


def check_nan(name: str, values: np.ndarray) -> None:
    """Refuse NaN in a pipeline's output, with a FloatingPointError."""
    if np.isnan(values).any():
        share = np.isnan(values).mean()
        raise FloatingPointError(f"{name}: {share:.0%} of the values are NaN; the model overflowed, try dtype=float32")
