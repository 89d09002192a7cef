"""Images of a request, its first or last frame: read, scaled and described."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_image(image: Any, name: str = "image") -> Image.Image:
    """Return an image in RGB.

    Args:
        image: path, PIL image, or array `(H, W, 3)`, uint8 or floating point in 0..1.
        name: of the argument, for messages.

    Raises:
        TypeError, ValueError, OSError: it is none of these, or cannot be read.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, str | os.PathLike):
        try:
            return Image.open(Path(image).expanduser()).convert("RGB")
        except UnidentifiedImageError:
            raise ValueError(f"{name}={os.fspath(image)!r}: must be an image file") from None
        except OSError as error:
            raise OSError(f"{name}={os.fspath(image)!r}: cannot be read: {error}") from None
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name}={type(image).__name__}: must be a path, a PIL image or an array (H, W, 3)")
    return Image.fromarray(to_uint8(image, name))


def to_uint8(image: np.ndarray, name: str) -> np.ndarray:
    """Convert an array `(H, W, 3)`, uint8 or floating point in 0..1, to uint8.

    Raises:
        ValueError: another shape or dtype, or values outside 0..1.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise ValueError(f"{name}={image.dtype} {image.shape}: must be (H, W, 3), uint8 or floating point in 0..1")
    if image.dtype == np.uint8:
        return image
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"{name}: must have values in 0..1 if it is floating point; scale it, or pass uint8")
    return (image * 255).round().astype(np.uint8)


def fit(image: Image.Image, width: int | None, height: int | None) -> Image.Image:
    """Scale an image to a size in pixels, centre-cropped to the aspect ratio; unchanged if the size is None."""
    if width is None or height is None or image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def describe_image(source: Any, image: Image.Image) -> dict[str, Any]:
    """Return the provenance of an image: path, if it was given as one, size and SHA-256 of its pixels."""
    path = str(Path(source).expanduser().absolute()) if isinstance(source, str | os.PathLike) else None
    return {"path": path, "size": list(image.size), "sha256": hashlib.sha256(image.tobytes()).hexdigest()}
