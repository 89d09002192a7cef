"""generate(): from a prompt to a clip in one call, with everything checked before the first step."""

import inspect
import json
import os
import platform
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidguide import CFG, NAG, Clip, __version__, guide
from vidguide.guidance import Guidance
from vidguide.pipelines.arms import KINDS, with_negative
from vidguide.pipelines.load import load
from vidguide.pipelines.models import SHIPPED

SETTINGS = ("steps", "height", "width", "frames", "fps", "guidance_scale")
TUPLES = ("layers", "select")  # JSON has lists for them
PIPELINE_NAMES = {"steps": "num_inference_steps", "frames": "num_frames"}


def generate(
    prompt: str,
    *,
    model: str | os.PathLike[str] = "tiny",
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
        model: a shipped name, a local pipeline folder, or a hub id.
        negative_prompt: what it should not show; given to every guidance that takes one and has none, and to the
            pipeline's own classifier-free guidance where that is on.
        guidance: guidances; None for `NAG()` where there is a negative prompt, else none.
        guidance_scale: of the pipeline's own classifier-free guidance; 1 is off. None for the model's own choice:
            off for shipped models and with our `CFG`, else the pipeline's default.
        steps, height, width, frames, fps: None for the model's defaults; pixels, frames per second.
        seed: of the noise, drawn on the CPU so that it is the same on every device.
        max_sequence_length: text length in tokens; None for the pipeline's default.
        revision, device, dtype, offload: see :func:`vidguide.pipelines.load.load`.
        pipe: a pipeline that is loaded already; `model` then only names it.
        progress: show the pipeline's progress bar.

    Returns:
        A :class:`vidguide.Clip` whose provenance holds all of this, versions, seconds and the trace's summary.

    Raises:
        ValueError, TypeError: before any step, naming the argument, its value and what would be right.
    """
    check_words("prompt", prompt)
    if negative_prompt is not None:
        check_words("negative_prompt", negative_prompt)
    if guidance is None:
        guidance = () if negative_prompt is None else (NAG(),)
    guidances = with_negative(tuple(guidance), negative_prompt)
    asked = dict(steps=steps, height=height, width=width, frames=frames, fps=fps, guidance_scale=guidance_scale)
    check_numbers(asked, seed)
    if pipe is None:
        pipe = load(model, revision=revision, device=device, dtype=dtype, offload=offload)
    settings = fill_settings(pipe, os.fspath(model), guidances, asked)
    check_size(pipe, settings)
    length = max_sequence_length or default_of(pipe, "max_sequence_length")
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        check_length(pipe, name, text, length)
    call = call_arguments(pipe, settings, prompt, negative_prompt, length)
    pipe.set_progress_bar_config(disable=not progress)
    generator = torch.Generator("cpu").manual_seed(seed)
    started = time.perf_counter()
    with guide(pipe, *guidances) as run:
        video = pipe(**call, generator=generator, output_type="np").frames[0]
    seconds = time.perf_counter() - started
    provenance = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "model": os.fspath(model),
        "revision": revision,
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


def to_frames(video: Any) -> np.ndarray:
    """A pipeline's frames in 0..1 to `(F, H, W, 3)` uint8."""
    frames: np.ndarray = np.round(np.clip(np.asarray(video), 0, 1) * 255).astype(np.uint8)
    return frames


def versions() -> dict[str, str]:
    """Versions of what the frames depend on."""
    found = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"python": platform.python_version(), "vidguide": __version__, **found}


def check_words(name: str, text: Any) -> None:
    """Refuse what is not a text, or an empty one."""
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r}: must be a text")
    if not text.strip():
        raise ValueError(f"{name}={text!r}: is empty; say what the clip {'shows' if name == 'prompt' else 'avoids'}")


def check_numbers(asked: dict[str, Any], seed: Any) -> None:
    """Refuse settings that cannot be, whatever the model."""
    for name in ("steps", "height", "width", "frames"):
        if asked[name] is not None and (type(asked[name]) is not int or asked[name] < 1):
            raise ValueError(f"{name}={asked[name]!r}: must be a whole number, at least 1")
    for name, least in (("fps", 0.0), ("guidance_scale", 0.0)):
        value = asked[name]
        if value is not None and not (isinstance(value, int | float) and np.isfinite(value) and value > least):
            raise ValueError(f"{name}={value!r}: must be a finite number above {least:g}")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: must be a whole number from 0 to 2^63 - 1")


def default_of(pipe: Any, name: str) -> Any:
    """The pipeline's own default of a call argument; None where it has no such argument."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def fill_settings(pipe: Any, model: str, guidances: tuple[Guidance, ...], asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, filled up from the shipped model's own choice, else from the pipeline's defaults."""
    shipped = SHIPPED.get(model)
    settings = {}
    for name in SETTINGS:
        own = getattr(shipped, name, None) if shipped else default_of(pipe, PIPELINE_NAMES.get(name, name))
        settings[name] = asked[name] if asked[name] is not None else own
    settings["fps"] = settings["fps"] or 16.0
    if asked["guidance_scale"] is None and any(isinstance(one, CFG) for one in guidances):
        settings["guidance_scale"] = 1.0
    return settings


def call_arguments(
    pipe: Any, settings: dict[str, Any], prompt: str, negative_prompt: str | None, length: int | None
) -> dict[str, Any]:
    """Keyword arguments of the pipeline's call; those it does not know are left out."""
    arguments = {PIPELINE_NAMES.get(name, name): value for name, value in settings.items() if name != "fps"}
    arguments["prompt"] = prompt
    if (settings["guidance_scale"] or 0) > 1:
        arguments["negative_prompt"] = negative_prompt
    arguments["max_sequence_length"] = length
    known = inspect.signature(type(pipe).__call__).parameters
    return {name: value for name, value in arguments.items() if name in known and value is not None}


def check_size(pipe: Any, settings: dict[str, Any]) -> None:
    """Refuse a size or frame count that the model cannot make, and name the nearest that it can.

    Raises:
        ValueError: naming the argument, its value and the nearest allowed.
    """
    spatial = getattr(pipe, "vae_scale_factor_spatial", None)
    temporal = getattr(pipe, "vae_scale_factor_temporal", None)
    patch = getattr(pipe.transformer.config, "patch_size", None)
    if not spatial or not temporal or not isinstance(patch, list | tuple):
        return
    most = getattr(pipe.transformer.config, "rope_max_seq_len", None)
    for name, axis in (("height", 1), ("width", 2)):
        step = int(np.lcm(spatial * patch[axis], 16))  # diffusers' Wan pipelines want multiples of 16 as well
        nearest = max(round(settings[name] / step), 1) * step
        largest = most * spatial * patch[axis] // step * step if most else nearest
        allowed = min(nearest, largest)
        if settings[name] != allowed:
            raise ValueError(f"{name}={settings[name]}: this model makes multiples of {step}; nearest is {allowed}")
    step = temporal * patch[0]
    nearest = max(round((settings["frames"] - 1) / step), 0) * step + 1
    largest = (most * patch[0] - 1) * temporal + 1 if most else nearest
    allowed = min(nearest, largest)
    if settings["frames"] != allowed:
        raise ValueError(f"frames={settings['frames']}: this model makes 1 + multiples of {step}; nearest is {allowed}")


def check_length(pipe: Any, name: str, text: str | None, length: int | None) -> None:
    """Refuse a text that the encoder would cut, and warn of words that a small vocabulary does not have."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if text is None or tokenizer is None:
        return
    ids = tokenizer(text).input_ids
    if length is not None and len(ids) > length:
        raise ValueError(f"{name}: has {len(ids)} tokens and the encoder takes {length}; shorten it: {text[:80]!r}...")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids:
        words = [word for word in text.split() if unknown in tokenizer(word).input_ids]
        vocabulary = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
        known = f"; it knows {', '.join(vocabulary)}" if len(vocabulary) < 100 else ""
        warnings.warn(f"{name}: the model does not know {', '.join(words)}{known}", stacklevel=3)


def load_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON that a clip was written with.

    Raises:
        ValueError, OSError: the file cannot be read or is none of ours.
    """
    try:
        provenance = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r}: is not JSON: {error}") from None
    missing = {"prompt", "model", "seed", "guidance"} - set(provenance if isinstance(provenance, dict) else ())
    if missing:
        raise ValueError(f"{os.fspath(path)!r}: lacks {', '.join(sorted(missing))}; give the JSON beside a clip")
    return dict(provenance)


def arguments_from(provenance: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of :func:`generate` that make a clip again from its provenance.

    Raises:
        ValueError: a guidance was given ready embeddings, which the JSON does not hold.
    """
    signature = inspect.signature(generate).parameters
    arguments = {name: provenance[name] for name in signature if name in provenance and name != "guidance"}
    kinds = {kind.__name__: kind for kind in KINDS.values()}
    guidances = []
    for entry in provenance["guidance"]:
        values = {name: value for name, value in entry.items() if name != "name"}
        if values.get("negative_prompt_embeds") is not None:
            raise ValueError(f"{entry['name']}: was given embeddings, which the JSON does not hold")
        values = {name: tuple(value) if name in TUPLES and value else value for name, value in values.items()}
        guidances.append(kinds[entry["name"]](**values))
    return {**arguments, "guidance": guidances}
