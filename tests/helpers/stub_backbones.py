"""Stub backbones with fixed weights, with which VBench's functions and the metrics must give equal values.

The weights are drawn by numpy, so that they are the same in every environment.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 16


def numbers(seed: int, *shape: int) -> Tensor:
    """Return fixed normally distributed numbers."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def features(images: Tensor, seed: int) -> Tensor:
    """Return features `(N, WIDTH)` of images `(N, 3, H, W)`: a projection of 4 x 4 means and 3 x 3 maxima."""
    parts = [F.adaptive_avg_pool2d(images, 4), F.adaptive_max_pool2d(images, 3)]
    flat = torch.cat([part.flatten(1) for part in parts], 1)
    return torch.tanh(flat @ numbers(seed, flat.shape[1], WIDTH) / 4)


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return a displacement `(1, 2, H, W)` from two images `(1, 3, H, W)` in 0..255."""
    return torch.stack([(second - first).mean(1), (first - 128).mean(1) / 64], 1) / 16


def head() -> torch.nn.Linear:
    """Return a linear head of one output."""
    layer = torch.nn.Linear(WIDTH, 1)
    layer.load_state_dict({"weight": numbers(2, 1, WIDTH), "bias": numbers(3, 1)})
    return layer.eval()
