"""calibrate(): the direction test of guidances on a model, with every argument checked before the model runs."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidguide.calls.guided_model import guided_model
from vidguide.eval.files import validate
from vidguide.guidances.base import Guidance
from vidguide.pipelines.calibration.candidates import Candidate, candidates, defaults, fitting
from vidguide.pipelines.calibration.clips import Clips, Sources, list_clips, render_clips
from vidguide.pipelines.calibration.latents import check_encodable, encode
from vidguide.pipelines.calibration.measure import measure
from vidguide.pipelines.calibration.playback import schedule
from vidguide.pipelines.calibration.result import Calibration, Level
from vidguide.pipelines.loading.load import declaration, load, model_name, resolve
from vidguide.pipelines.models.spec import SHIPPED, Model
from vidguide.pipelines.request.call_settings import call_arguments, fill_settings, prepare_pipeline
from vidguide.pipelines.request.schema import Request
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.request.validation import check_lengths, check_size, check_steps
from vidguide.pipelines.request.visual_inputs import use_of
from vidguide.transformer.modular_blocks import is_modular
from vidguide.transformer.prediction_space import Levels

AT = (0.2, 0.5, 0.75)
RENDERS, RENDER_BATCH = 48, 16
Progress = Callable[[int, int], None]


def calibrate(
    model: str | os.PathLike[str] | Model = "tiny",
    *,
    clips: Clips | None = None,
    prompts: str | os.PathLike[str] | None = None,
    count: int | None = None,
    guidance: Sequence[Guidance] | None = None,
    layers: Sequence[int] | None = None,
    at: Sequence[float] = AT,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    max_sequence_length: int | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    setup: Setup | None = None,
    pipe: Any = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure which directions of guidance point to the truth, and the scale at which each comes nearest to it.

    Clips are encoded to x_0 and noised to x_t. Of the model's error `e = v_true - c` and a guidance's direction
    `d = c - c~`, `w* = <e, d> / <d, d>` is the scale of least squares: see :mod:`vidguide.functional.direction`.
    No clip is sampled. It does not see guidances that sharpen modes: docs/calibration.md.

    Args:
        model: as for :func:`vidguide.generate`.
        clips: a video, or a folder of videos or frame folders; or pairs of a clip and its prompt. All have the size of
            the model's clips. None for renders of the world of the shipped models.
        prompts: manifest of the prompts, see :func:`vidguide.eval.clips.manifest.read_manifest`; None for the JSON
            files next to the clips.
        count: number of renders (48 by default), or of the clips, the first ones.
        guidance: EMAG, PAG, SEG, STG, TPG, S2Guidance or CFG, of which scale and window are not used; each in every
            layer where it names none. None for all of them, with several settings of EMAG.
        layers: to compare; None for all.
        at: noise levels as fractions of the run, 0 to below 1.
        steps, height, width, frames, max_sequence_length: None for the model's defaults.
        seed: of the noise, and of the renders.
        batch: clips in one call; None for 16 renders, or one given clip.
        revision, device, dtype, setup: see :func:`vidguide.pipelines.loading.load.load`.
        pipe: loaded pipeline; `model` then only selects settings.
        progress: called with the number of completed measurements, and their total.

    Raises:
        ValueError, TypeError, OSError: before the model runs, naming the argument, its value and what would be right.

    Examples:
        >>> from vidguide import PAG, calibrate
        >>> result = calibrate("tiny", guidance=[PAG()], layers=[2], at=[0.5], count=2)
        >>> result.products.shape  # settings, levels, clips, sums
        torch.Size([1, 1, 2, 4])
    """
    settings: dict[str, Any] = dict(steps=steps, height=height, width=width, frames=frames)
    settings |= dict(fps=None, guidance_scale=1.0, max_sequence_length=max_sequence_length)
    validate(Request, {**settings, "seed": seed})
    check_counts(count=count, batch=batch)
    check_fractions(at)
    sources = choose_clips(model, clips, prompts, count, seed)
    declared = resolve(model) if pipe is None else declaration(model)
    if pipe is None:
        pipe = load(model, revision=revision, device=device, dtype=dtype, setup=setup, progress=progress is not None)
    check_pipeline(pipe)
    settings = fill_settings(pipe, declared, (), settings)
    check_clips(pipe, sources, settings)
    compared, notes = choose(pipe, guidance, layers, settings)
    call = call_arguments(pipe, declared, settings)
    check_steps(pipe, settings["steps"], "sigmas" in call or "timesteps" in call)
    pipe.set_progress_bar_config(disable=True)
    size = batch or (RENDER_BATCH if clips is None else 1)
    guidances = tuple(candidate.guidance for candidate in compared)
    with prepare_pipeline(pipe, call, 1.0, torch.Generator().manual_seed(seed)) as arguments:
        levels = schedule(pipe, {**arguments, "prompt": sources.prompts[:1]})
        chosen = steps_at(at, levels)
        products = measure_all(pipe, arguments, sources, guidances, levels, chosen, seed, size, progress)
    return Calibration(
        model=model_name(model),
        clips=sources.name,
        steps=len(levels),
        seed=seed,
        levels=tuple(Level(step=step, sigma=float(abs(levels[step][1]))) for step in chosen),
        candidates=tuple(compared),
        products=products,
        notes=tuple(notes),
        settings={name: settings[name] for name in ("height", "width", "frames")},
    )


def check_counts(**counts: int | None) -> None:
    """Refuse a number below 1; None is not checked.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in counts.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name}={value!r}: must be an integer of at least 1")


def check_fractions(at: Sequence[float]) -> None:
    """Refuse noise levels that are no fractions of a run.

    Raises:
        ValueError: naming the value.
    """
    if not at or any(isinstance(value, bool) or not 0 <= value < 1 for value in at):
        raise ValueError(f"at={tuple(at)}: must be fractions of the run, from 0 to below 1")


def choose_clips(
    model: str | os.PathLike[str] | Model, clips: Clips | None, prompts: Any, count: int | None, seed: int
) -> Sources:
    """Return the given clips, or renders for a shipped model.

    Raises:
        ValueError: another model without clips; otherwise as :func:`vidguide.pipelines.calibration.clips.list_clips`.
    """
    if clips is not None:
        return list_clips(clips, prompts, count)
    if model_name(model) not in SHIPPED:
        raise ValueError(
            f"clips=None: give clips with prompts for {model_name(model)!r}; only {', '.join(SHIPPED)} have renders"
        )
    if prompts is not None:
        raise ValueError(f"prompts={os.fspath(prompts)!r}: are of given clips; renders have captions")
    return render_clips(count or RENDERS, seed)


def check_pipeline(pipe: Any) -> None:
    """Refuse a pipeline whose runs cannot be played back.

    Raises:
        ValueError: naming it, and why.
    """
    name = type(pipe).__name__
    if is_modular(pipe) or getattr(pipe, "scheduler", None) is None:
        raise ValueError(f"{name}: is a modular pipeline; calibrate its model with the pipeline of one class")
    if use_of(pipe, "image") == "must":
        raise ValueError(f"{name}: needs a first image; calibrate with the text-to-video pipeline of the family")
    check_encodable(pipe)


def check_clips(pipe: Any, sources: Sources, settings: dict[str, Any]) -> None:
    """Refuse a size that the model cannot generate, clips of another size, and texts that are too long.

    Raises:
        ValueError: naming the clip or the argument.
    """
    check_size(pipe, settings)
    for name in ("frames", "height", "width"):
        if settings[name] is None:
            raise ValueError(f"{name}=None: {type(pipe).__name__} has no default; give the clips' {name}")
    sources.check(settings["frames"], settings["height"], settings["width"])
    for prompt in dict.fromkeys(sources.prompts):
        check_lengths(pipe, settings["max_sequence_length"], {"prompt": prompt})


def choose(
    pipe: Any, guidance: Sequence[Guidance] | None, layers: Sequence[int] | None, settings: dict[str, Any]
) -> tuple[list[Candidate], list[str]]:
    """Return the settings to compare, and notes on those of the defaults that the pipeline does not allow.

    Raises:
        ValueError, TypeError, LookupError: a given guidance does not fit, or none is given.
    """
    model, _ = guided_model(pipe.transformer, False)
    if guidance is None:
        guidances, notes = fitting(pipe, defaults(video_tokens(pipe, settings)))
    else:
        guidances, notes = list(guidance), []
    compared = candidates(guidances, model.depth, layers)
    if not compared:
        raise ValueError("guidance=[]: give at least one, or None for all")
    _, refused = fitting(pipe, [candidate.guidance for candidate in compared])
    if refused:
        raise ValueError(refused[0])
    return compared, notes


def video_tokens(pipe: Any, settings: dict[str, Any]) -> int:
    """Estimate the number of the video's tokens, after the VAE's and the transformer's reduction."""
    spatial = getattr(pipe, "vae_scale_factor_spatial", None) or getattr(pipe, "vae_spatial_compression_ratio", 8)
    temporal = getattr(pipe, "vae_scale_factor_temporal", None) or getattr(pipe, "vae_temporal_compression_ratio", 4)
    patch = getattr(pipe.transformer.config, "patch_size", 1)
    side = patch[-1] if isinstance(patch, list | tuple) else patch
    per_frame = (settings["height"] // spatial // side) * (settings["width"] // spatial // side)
    return int(per_frame * ((settings["frames"] - 1) // temporal + 1))


def steps_at(at: Sequence[float], levels: list[Levels]) -> list[int]:
    """Return the steps at fractions of the run, without repetitions.

    Raises:
        ValueError: pure noise under noise prediction, where x_0 is not determined.
    """
    chosen = sorted({math.floor(value * len(levels) + 1e-9) for value in at})
    for step in chosen:
        if levels[step][2] == "epsilon" and float(levels[step][0]) == 0:
            raise ValueError(f"at={step / len(levels):g}: is pure noise, where epsilon does not determine x_0")
    return chosen


def measure_all(
    pipe: Any,
    arguments: dict[str, Any],
    sources: Sources,
    guidances: tuple[Guidance, ...],
    levels: list[Levels],
    chosen: list[int],
    seed: int,
    batch: int,
    progress: Progress | None,
) -> Tensor:
    """Measure all clips, batch by batch, at the chosen steps; return their products `(S, T, N, 4)`."""
    parts, starts = [], range(0, len(sources), batch)
    for number, start in enumerate(starts):
        indices = range(start, min(start + batch, len(sources)))
        clean = encode(pipe, sources.frames(indices))
        call = {**arguments, "prompt": [sources.prompts[index] for index in indices]}
        measured = []
        for position, step in enumerate(chosen):
            noise = noise_of(clean, indices, seed, step)
            measured.append(measure(pipe, call, clean, noise, guidances, levels, step))
            if progress is not None:
                progress(number * len(chosen) + position + 1, len(starts) * len(chosen))
        parts.append(torch.stack(measured, 1))
    return torch.cat(parts, 2)


def noise_of(clean: Tensor, indices: Sequence[int], seed: int, step: int) -> Tensor:
    """Draw the noise of each clip at a step, on the CPU, independent of the batch."""
    draws = []
    for index in indices:
        state = np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        draws.append(torch.randn(clean.shape[1:], generator=generator))
    return torch.stack(draws).to(clean)
