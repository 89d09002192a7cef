"""First images of clips: reading them, and which diffusers pipelines take one."""

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vidguide.transformer.modular_blocks import inputs_of, is_modular

# Text-to-video pipelines and the image-to-video pipeline that runs the same weights.
PARTNERS = {
    "LTXPipeline": "LTXImageToVideoPipeline",
    "LTX2Pipeline": "LTX2ImageToVideoPipeline",
    "WanPipeline": "WanImageToVideoPipeline",
}
REQUIRES_IMAGE = ("ImageToVideo", "Image2Video", "I2V")  # in class names of pipelines that need a first image
FROM_EITHER = "TI2V"  # in class names of pipelines from text or image


def takes_image(pipeline: Any) -> str:
    """Return whether a pipeline class takes a first image: "no", "may" or "must"."""
    parameter = inspect.signature(pipeline.__call__).parameters.get("image")
    if parameter is None:
        return "no"
    by_name = FROM_EITHER not in pipeline.__name__ and any(word in pipeline.__name__ for word in REQUIRES_IMAGE)
    return "must" if by_name or parameter.default is parameter.empty else "may"


def use_of_image(pipe: Any) -> str:
    """Return whether a pipeline takes a first image: "no", "may" or "must"."""
    if not is_modular(pipe):
        return takes_image(type(pipe))
    image = inputs_of(pipe).get("image")
    return "no" if image is None else "must" if image.required else "may"


def partner(name: str, index: dict[str, Any]) -> str | None:
    """Return the class name of the image-to-video pipeline that runs the same weights.

    Args:
        name: class name of the text-to-video pipeline.
        index: content of the folder's `model_index.json`.

    Returns:
        None if there is none; for Wan, only checkpoints with one timestep per token (`expand_timesteps`) have one.
    """
    if name == "WanPipeline" and not index.get("expand_timesteps"):
        return None
    return PARTNERS.get(name)


def check_use(name: str, use: str, has_image: bool) -> None:
    """Refuse an image for a model that takes none, and a missing image for a model that needs one.

    Args:
        name: name of the pipeline or model, for messages.
        use: "no", "may" or "must".
        has_image: whether an image was given.

    Raises:
        ValueError: naming the pipeline or model.
    """
    if has_image and use == "no":
        raise ValueError(f"image: {name} takes no image; choose an image-to-video model")
    if not has_image and use == "must":
        raise ValueError(f"image=None: {name} needs a first image; pass one")


def read_image(image: Any) -> Image.Image:
    """Return an image in RGB.

    Args:
        image: path, PIL image, or array `(H, W, 3)`, uint8 or floating point in 0..1.

    Raises:
        TypeError, ValueError, OSError: it is none of these, or cannot be read.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, str | os.PathLike):
        try:
            return Image.open(Path(image).expanduser()).convert("RGB")
        except UnidentifiedImageError:
            raise ValueError(f"image={os.fspath(image)!r}: must be an image file") from None
        except OSError as error:
            raise OSError(f"image={os.fspath(image)!r}: cannot be read: {error}") from None
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image={type(image).__name__}: must be a path, a PIL image or an array (H, W, 3)")
    return Image.fromarray(to_uint8(image))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert an array `(H, W, 3)`, uint8 or floating point in 0..1, to uint8.

    Raises:
        ValueError: another shape or dtype, or values outside 0..1.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise ValueError(f"image={image.dtype} {image.shape}: must be (H, W, 3), uint8 or floating point in 0..1")
    if image.dtype == np.uint8:
        return image
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError("image: must have values in 0..1 if it is floating point; scale it, or pass uint8")
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
