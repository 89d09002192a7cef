"""Conversion of frames in memory, of any common kind, to `(F, H, W, 3)` uint8."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import EmptyError, FramesError, TooLargeError

TOLERANCE = 1e-3  # by which a float may exceed 0..1 because of rounding


def convert_frames(frames: Any, max_bytes: int) -> NDArray[np.uint8]:
    """Convert frames to `(F, H, W, 3)` uint8, one at a time, so that no float copy of the whole clip exists.

    Args:
        frames: array or tensor, uint8 in 0..255 or float in 0..1, `(F, H, W, C)` or `(F, C, H, W)`, C of 1, 3 or 4
            (opaque), or a sequence of such frames or of PIL images. A leading axis of length one is dropped.
        max_bytes: largest size of the result.

    Raises:
        FramesError, EmptyError, TooLargeError: naming shape, dtype or range, and what they must be.
    """
    sequence = split_frames(frames)
    if not len(sequence):
        raise EmptyError("frames", "no frame; give at least one")
    first = convert_frame(sequence[0])
    size = first.nbytes * len(sequence)
    if size > max_bytes:
        raise TooLargeError("frames", f"needs {size >> 20} MiB, the limit is {max_bytes >> 20}; raise max_bytes")
    clip = np.empty((len(sequence), *first.shape), np.uint8)
    for index, frame in enumerate(sequence):
        converted = convert_frame(frame)
        if converted.shape != first.shape:
            raise FramesError(f"frame {index}", f"shape {converted.shape} differs from {first.shape} of frame 0")
        clip[index] = converted
    return clip


def split_frames(frames: Any) -> list[Any] | NDArray[Any]:
    """Return a list of frames, or an array `(F, ...)` of four axes."""
    if isinstance(frames, Sequence):
        return list(frames)
    array = to_numpy(frames)
    if array.ndim == 5 and len(array) == 1:
        array = array[0]
    if array.ndim != 4:
        raise FramesError("array", f"shape {array.shape}; must be (F, H, W, 3) or (F, 3, H, W), one clip at a time")
    return array


def to_numpy(frame: Any) -> NDArray[Any]:
    """Return an array from an array, a tensor on any device and of any dtype, or a PIL image."""
    if hasattr(frame, "detach"):  # a torch tensor; numpy has no bfloat16
        frame = frame.detach().cpu()
        return np.asarray(frame.float() if frame.is_floating_point() else frame)
    if hasattr(frame, "convert"):  # a PIL image: resolves palettes and alpha
        return np.asarray(frame.convert("RGB"))
    array = np.asarray(frame)
    if array.dtype == object or array.dtype.kind not in "uif":
        raise FramesError("frames", f"dtype {array.dtype}; must be uint8 in 0..255, float in 0..1, or PIL images")
    return array


def convert_frame(frame: Any) -> NDArray[np.uint8]:
    """Convert one frame to `(H, W, 3)` uint8."""
    pixels = to_uint8(channels_last(to_numpy(frame)))
    if pixels.shape[-1] == 4:
        if (pixels[..., 3] != 255).any():
            raise FramesError("frames", "transparent pixels; composite them over a background first")
        pixels = pixels[..., :3]
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def channels_last(frame: NDArray[Any]) -> NDArray[Any]:
    """Return `(H, W, C)` from `(H, W, C)`, `(C, H, W)` or `(H, W)`; refuse an ambiguous shape."""
    if frame.ndim == 2:
        return frame[..., None]
    last, first = frame.ndim == 3 and frame.shape[-1] in (1, 3, 4), frame.ndim == 3 and frame.shape[0] in (1, 3, 4)
    if last == first:
        raise FramesError("frames", f"each has shape {frame.shape}; must be unambiguous: (H, W, 3) or (3, H, W)")
    return frame if last else np.moveaxis(frame, 0, -1)


def to_uint8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return uint8 from uint8, from integers in 0..255 or from floats in 0..1 (rounded, not truncated)."""
    if pixels.dtype == np.uint8:
        return pixels
    is_float = pixels.dtype.kind == "f"
    if pixels.size and is_float and not np.isfinite(pixels).all():
        raise FramesError("frames", "values that are not finite (NaN or infinite)")
    limit, tolerance = (1.0, TOLERANCE) if is_float else (255, 0)
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    if low < -tolerance or high > limit + tolerance:
        raise FramesError("frames", f"{pixels.dtype} in {low:g}..{high:g}; must be float in 0..1 or uint8 in 0..255")
    return np.rint(np.clip(pixels.astype(np.float64), 0, limit) * (255 / limit)).astype(np.uint8)
