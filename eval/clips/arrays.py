"""Frames in memory, of whatever kind, to the canonical `(F, H, W, 3)` uint8."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import EmptyError, FramesError, TooLargeError

SLACK = 1e-3  # how far outside 0..1 a float may lie and still be rounding


def canonical(frames: Any, max_bytes: int) -> NDArray[np.uint8]:
    """Frames as `(F, H, W, 3)` uint8, converted one at a time so that no float copy of the whole exists.

    Args:
        frames: array or tensor, uint8 in 0..255 or float in 0..1, `(F, H, W, C)` or `(F, C, H, W)`, C of 1, 3 or 4
            (opaque), or a sequence of such frames or of PIL images. A leading axis of length one is dropped.
        max_bytes: largest result.

    Raises:
        FramesError, EmptyError, TooLargeError: naming shape, type or range, and what would be right.
    """
    listed = list(frames) if isinstance(frames, Sequence) else frames
    many = listed if isinstance(listed, list) else as_numpy(listed)
    if not isinstance(many, list) and many.ndim == 5 and len(many) == 1:
        many = many[0]
    if not isinstance(many, list) and many.ndim != 4:
        raise FramesError("array", f"has shape {many.shape}; give (F, H, W, 3) or (F, 3, H, W), one clip at a time")
    if not len(many):
        raise EmptyError("frames", "there is no frame; give at least one")
    first = one_frame(many[0])
    size = first.nbytes * len(many)
    if size > max_bytes:
        raise TooLargeError("frames", f"needs {size >> 20} MiB, allowed are {max_bytes >> 20}; raise max_bytes")
    whole = np.empty((len(many), *first.shape), np.uint8)
    for index, frame in enumerate(many):
        converted = one_frame(frame)
        if converted.shape != first.shape:
            raise FramesError(f"frame {index}", f"has shape {converted.shape} where frame 0 has {first.shape}")
        whole[index] = converted
    return whole


def as_numpy(frame: Any) -> NDArray[Any]:
    """An array from an array, a tensor on any device and of any dtype, or a PIL image."""
    if hasattr(frame, "detach"):  # a torch tensor; numpy has no bfloat16
        frame = frame.detach().cpu()
        return np.asarray(frame.float() if frame.is_floating_point() else frame)
    if hasattr(frame, "convert"):  # a PIL image; palettes and alpha become colours here
        return np.asarray(frame.convert("RGB"))
    array = np.asarray(frame)
    if array.dtype == object or array.dtype.kind not in "uif":
        raise FramesError("frames", f"are of {array.dtype}; give uint8 in 0..255, float in 0..1, or PIL images")
    return array


def one_frame(frame: Any) -> NDArray[np.uint8]:
    """One frame as `(H, W, 3)` uint8."""
    pixels = in_range(channels_last(as_numpy(frame)))
    if pixels.shape[-1] == 4:
        if (pixels[..., 3] != 255).any():
            raise FramesError("frames", "have transparent pixels; lay them over a background first")
        pixels = pixels[..., :3]
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def channels_last(frame: NDArray[Any]) -> NDArray[Any]:
    """`(H, W, C)` from that, from `(C, H, W)` or from `(H, W)`; what could be both is refused."""
    if frame.ndim == 2:
        return frame[..., None]
    last, first = frame.ndim == 3 and frame.shape[-1] in (1, 3, 4), frame.ndim == 3 and frame.shape[0] in (1, 3, 4)
    if last == first:
        raise FramesError("frames", f"each has shape {frame.shape}; it must be (H, W, 3) or (3, H, W), and be clear")
    return frame if last else np.moveaxis(frame, 0, -1)


def in_range(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 from uint8, from whole numbers in 0..255 or from floats in 0..1 (rounded, not cut off)."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.size and pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise FramesError("frames", "have values that are not finite (NaN or infinite)")
    top, slack = (1.0, SLACK) if pixels.dtype.kind == "f" else (255, 0)
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    if low < -slack or high > top + slack:
        raise FramesError("frames", f"{pixels.dtype} in {low:g}..{high:g}; give float in 0..1 or uint8 in 0..255")
    return np.rint(np.clip(pixels.astype(np.float64), 0, top) * (255 / top)).astype(np.uint8)
