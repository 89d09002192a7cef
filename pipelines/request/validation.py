"""Checks of a request against the loaded model. Each error names the argument, its value and the nearest valid one."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidguide.guidances.base import Guidance
from vidguide.guiding.compatibility import cache_reason
from vidguide.pipelines.request.setup import Setup


def check_setup_of_guidances(guidances: Sequence[Guidance], setup: Setup) -> None:
    """Refuse a cache with which a guidance works on no model, before the model is loaded.

    Raises:
        ValueError: naming the guidance, the cache, the reason and the cure.
    """
    kind = "" if setup.cache is None else setup.cache.partition(":")[0]
    for guidance in guidances:
        if isinstance(guidance, Guidance) and (reason := cache_reason(kind, guidance)):
            raise ValueError(f"{type(guidance).__name__} with cache={setup.cache!r}: {reason}, or leave cache out")


def check_cached_steps(setup: Setup | None, steps: int) -> None:
    """Refuse a cache that was configured for another number of steps, with a ValueError."""
    if setup is None or setup.cache is None or not setup.cache.startswith("MagCache"):
        return
    if f"num_inference_steps={steps}" not in setup.cache.partition(":")[2].split(","):
        raise ValueError(f"cache={setup.cache!r}: must have num_inference_steps={steps}, the number of steps")


def check_size(pipe: Any, settings: dict[str, Any]) -> None:
    """Refuse a size or number of frames that the model cannot generate.

    Args:
        pipe: diffusers pipeline.
        settings: with height and width in pixels, and frames; None is not checked.

    Raises:
        ValueError: naming the argument, its value and the nearest valid value.
    """
    spatial = getattr(pipe, "vae_scale_factor_spatial", None)
    temporal = getattr(pipe, "vae_scale_factor_temporal", None)
    patch = getattr(pipe.transformer.config, "patch_size", None)
    if not spatial or not temporal or not isinstance(patch, list | tuple):
        return
    positions = getattr(pipe.transformer.config, "rope_max_seq_len", None)  # per axis of the token grid
    for name, axis in (("height", 1), ("width", 2)):
        step = int(np.lcm(spatial * patch[axis], 16))  # diffusers' Wan pipelines also require multiples of 16
        largest = positions * spatial * patch[axis] // step * step if positions else None
        check_multiple(name, settings[name], step, 0, largest)
    largest = (positions * patch[0] - 1) * temporal + 1 if positions else None
    check_multiple("frames", settings["frames"], temporal * patch[0], 1, largest)


def check_multiple(name: str, value: int | None, step: int, offset: int, largest: int | None) -> None:
    """Refuse a value that is not `offset` plus a multiple of `step`, is below 1, or exceeds `largest`.

    Raises:
        ValueError: naming the argument, its value and the nearest valid value.
    """
    if value is None:
        return
    nearest = max(round((value - offset) / step), 1 - offset) * step + offset
    valid = min(nearest, largest or nearest)
    if value != valid:
        multiple = f"{offset} + a multiple of {step}" if offset else f"a multiple of {step}"
        raise ValueError(f"{name}={value}: must be {multiple} for this model; the nearest is {valid}")


def check_steps(pipe: Any, steps: int, has_noise_levels: bool) -> None:
    """Refuse a single step where the scheduler stretches its noise levels to a terminal one: it divides by zero.

    Args:
        pipe: diffusers pipeline.
        steps: number of denoising steps.
        has_noise_levels: whether the noise levels are passed explicitly.

    Raises:
        ValueError: naming the argument.
    """
    if steps == 1 and not has_noise_levels and getattr(pipe.scheduler.config, "shift_terminal", None):
        raise ValueError("steps=1: must be at least 2 for this model, whose scheduler has a terminal noise level")


def check_lengths(pipe: Any, length: int | None, texts: dict[str, str | None]) -> None:
    """Refuse texts that the encoder would truncate; warn about words that are not in a small vocabulary.

    Args:
        pipe: diffusers pipeline.
        length: maximum length in tokens; None for no limit.
        texts: by the name of the argument.

    Raises:
        ValueError: naming the argument, its length and the maximum.
    """
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return
    for name, text in texts.items():
        if text is not None:
            ids = tokenizer(text).input_ids
            if length is not None and len(ids) > length:
                raise ValueError(
                    f"{name}={text[:80]!r}...: must be at most {length} tokens, not {len(ids)}; shorten it"
                )
            warn_about_unknown_words(tokenizer, name, text, ids)


def warn_about_unknown_words(tokenizer: Any, name: str, text: str, ids: list[int]) -> None:
    """Warn about words of a text that the tokenizer maps to its unknown token."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown not in ids:
        return
    words = [word for word in text.split() if unknown in tokenizer(word).input_ids]
    vocabulary = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    listing = f"; its vocabulary: {', '.join(vocabulary)}" if len(vocabulary) < 100 else ""
    warnings.warn(f"{name}: the model does not know {', '.join(words)}{listing}", stacklevel=5)
