"""What generate() refuses before the first step, naming the argument, its value and what would be right."""

import warnings
from typing import Any

import numpy as np


def check_words(name: str, text: Any) -> None:
    """Refuse what is not a text, or an empty one."""
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r}: must be a text")
    if not text.strip():
        raise ValueError(f"{name}={text!r}: is empty; say what the clip {'shows' if name == 'prompt' else 'avoids'}")


def check_texts(prompt: Any, negative_prompt: Any) -> None:
    """Refuse prompts that are no texts, or empty ones; there need be no negative one."""
    check_words("prompt", prompt)
    if negative_prompt is not None:
        check_words("negative_prompt", negative_prompt)


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
        if settings[name] is None:
            continue
        step = int(np.lcm(spatial * patch[axis], 16))  # diffusers' Wan pipelines want multiples of 16 as well
        nearest = max(round(settings[name] / step), 1) * step
        largest = most * spatial * patch[axis] // step * step if most else nearest
        allowed = min(nearest, largest)
        if settings[name] != allowed:
            raise ValueError(f"{name}={settings[name]}: this model makes multiples of {step}; nearest is {allowed}")
    if settings["frames"] is None:
        return
    step = temporal * patch[0]
    nearest = max(round((settings["frames"] - 1) / step), 0) * step + 1
    largest = (most * patch[0] - 1) * temporal + 1 if most else nearest
    allowed = min(nearest, largest)
    if settings["frames"] != allowed:
        raise ValueError(f"frames={settings['frames']}: this model makes 1 + multiples of {step}; nearest is {allowed}")


def check_steps(pipe: Any, steps: int, levels: bool) -> None:
    """Refuse a single step where the scheduler spreads the noise levels between a first and a last: it divides by 0.

    Args:
        levels: whether the noise levels are given.
    """
    if steps == 1 and not levels and getattr(pipe.scheduler.config, "shift_terminal", None):
        raise ValueError("steps=1: this model's scheduler spreads its noise levels to a last one; give at least 2")


def check_lengths(pipe: Any, length: int | None, prompt: str, negative_prompt: str | None) -> None:
    """Refuse texts that the encoder would cut."""
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        check_length(pipe, name, text, length)


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
        warnings.warn(f"{name}: the model does not know {', '.join(words)}{known}", stacklevel=4)
