"""First images of clips: how they are read, and which pipelines of diffusers take one."""

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pipelines for text whose weights serve another for images; Wan's only where a timestep per token is meant.
PARTNERS = {
    "LTXPipeline": "LTXImageToVideoPipeline",
    "LTX2Pipeline": "LTX2ImageToVideoPipeline",
    "WanPipeline": "WanImageToVideoPipeline",
}
MUST = ("ImageToVideo", "Image2Video", "I2V")  # in the names of pipelines that cannot do without


def takes_image(pipeline: Any) -> str:
    """Whether a pipeline class starts from an image: "no", "may" or "must"."""
    parameter = inspect.signature(pipeline.__call__).parameters.get("image")
    if parameter is None:
        return "no"
    named = any(word in pipeline.__name__ for word in MUST)
    return "must" if named or parameter.default is parameter.empty else "may"


def partner(name: str, index: dict[str, Any]) -> str | None:
    """The image-to-video pipeline of the same weights, None where there is none; `index` is the folder's own."""
    if name == "WanPipeline" and not index.get("expand_timesteps"):
        return None
    return PARTNERS.get(name)


def check_use(name: str, use: str, given: bool) -> None:
    """Refuse an image where none is taken, and none where one is needed.

    Raises:
        ValueError: naming the pipeline or model.
    """
    if given and use == "no":
        raise ValueError(f"image: {name} takes no image; choose an image-to-video model")
    if not given and use == "must":
        raise ValueError(f"image=None: {name} makes clips from a first image; give one")


def read_image(image: Any) -> Image.Image:
    """A picture in RGB from a path, a PIL image or an array `(H, W, 3)`, uint8 or floating point in 0..1.

    Raises:
        TypeError, ValueError, OSError: it is none of these, or cannot be read.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, str | os.PathLike):
        try:
            return Image.open(Path(image).expanduser()).convert("RGB")
        except UnidentifiedImageError:
            raise ValueError(f"image={os.fspath(image)!r}: is no picture") from None
        except OSError as error:
            raise OSError(f"image={os.fspath(image)!r}: cannot be read: {error}") from None
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image={type(image).__name__}: must be a path, a PIL image or an array (H, W, 3)")
    return Image.fromarray(pixels(image))


def pixels(image: np.ndarray) -> np.ndarray:
    """An array `(H, W, 3)`, uint8 or floating point in 0..1, as uint8.

    Raises:
        ValueError: it is no such array.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise ValueError(f"image={image.dtype} {image.shape}: must be (H, W, 3), uint8 or floating point in 0..1")
    if image.dtype == np.uint8:
        return image
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError("image: has values outside of 0..1; give uint8, or scale them")
    return (image * 255).round().astype(np.uint8)


def fitted(image: Image.Image, width: int | None, height: int | None) -> Image.Image:
    """The image at a clip's size: scaled, and cut at its middle to the clip's aspect rather than stretched."""
    if width is None or height is None or image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def described(given: Any, image: Image.Image) -> dict[str, Any]:
    """What provenance keeps of an image: its path, where it has one, and the fingerprint of its pixels."""
    path = str(Path(given).expanduser().absolute()) if isinstance(given, str | os.PathLike) else None
    return {"path": path, "size": list(image.size), "sha256": hashlib.sha256(image.tobytes()).hexdigest()}
