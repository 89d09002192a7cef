"""Frames as VBench prepares them: resized without antialiasing, unlike any processor of transformers.

Its float path: bicubic values beyond 0..255 are kept. tests/eval/test_vbench.py holds it to VBench's values.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 224  # pixels of the short side
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def resized(frames: NDArray[np.uint8], mode: str) -> "Tensor":
    """Frames `(F, H, W, 3)` as `(F, 3, h, w)` floats of 0..255 whose short side is SIDE."""
    import torch

    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (SIDE * height // short, SIDE * width // short)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(pixels, size=size, mode=mode, align_corners=False, antialias=False)


def normalised(pixels: "Tensor", mean: tuple[float, ...], std: tuple[float, ...]) -> "Tensor":
    """Levels of 0..255 scaled by a mean and a deviation for each channel."""
    import torch

    middle, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (pixels / 255 - middle) / spread


def for_clip(frames: NDArray[np.uint8]) -> "Tensor":
    """`(F, 3, 224, 224)`: bicubic, the middle cut out; VBench's clip_transform(224)."""
    pixels = resized(frames, "bicubic")
    top, left = (round((side - SIDE) / 2) for side in pixels.shape[-2:])
    return normalised(pixels[..., top : top + SIDE, left : left + SIDE], CLIP_MEAN, CLIP_STD)


def for_dino(frames: NDArray[np.uint8]) -> "Tensor":
    """`(F, 3, h, w)`: bilinear, uncut; VBench's dino_transform(224)."""
    return normalised(resized(frames, "bilinear"), DINO_MEAN, DINO_STD)
