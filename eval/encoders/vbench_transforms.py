"""Preprocessing of frames as in VBench: resizing without antialiasing, unlike any processor of transformers.

As in VBench's float path, bicubic values outside 0..255 are not clamped. tests/eval/test_vbench.py compares the metrics
with values of VBench.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 224  # pixels of the short side
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def resize(frames: NDArray[np.uint8], mode: str) -> "Tensor":
    """Return frames `(F, H, W, 3)` as `(F, 3, h, w)` floats in 0..255 with a short side of SIDE pixels."""
    import torch

    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (SIDE * height // short, SIDE * width // short)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(pixels, size=size, mode=mode, align_corners=False, antialias=False)


def standardize(pixels: "Tensor", mean: tuple[float, ...], std: tuple[float, ...]) -> "Tensor":
    """Return values in 0..255 scaled to 0..1 and standardized per channel."""
    import torch

    channel_mean, channel_std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (pixels / 255 - channel_mean) / channel_std


def preprocess_clip(frames: NDArray[np.uint8]) -> "Tensor":
    """Return `(F, 3, 224, 224)`: bicubic, centre crop, as VBench's clip_transform(224)."""
    pixels = resize(frames, "bicubic")
    top, left = (round((side - SIDE) / 2) for side in pixels.shape[-2:])
    return standardize(pixels[..., top : top + SIDE, left : left + SIDE], CLIP_MEAN, CLIP_STD)


def preprocess_dino(frames: NDArray[np.uint8]) -> "Tensor":
    """Return `(F, 3, h, w)`: bilinear, not cropped, as VBench's dino_transform(224)."""
    return standardize(resize(frames, "bilinear"), DINO_MEAN, DINO_STD)
