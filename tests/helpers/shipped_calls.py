"""Calls of the shipped model's pipeline."""

from typing import Any

import numpy as np
import torch

from vidguide import guide
from vidguide.guidances.base import Guidance
from vidguide.pipelines.loading.load import load

CALL: dict[str, Any] = dict(height=64, width=64, num_frames=9, num_inference_steps=3, output_type="np")
PROMPT, RED, BLUE = "a circle moves right", "red", "blue"


def load_tiny() -> Any:
    pipe = load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, *args: Any, **call: Any) -> np.ndarray:
    """Return the frames of a short call, by default without classifier-free guidance."""
    call = {"guidance_scale": 1.0, **CALL, **call, "generator": torch.Generator().manual_seed(0)}
    frames: np.ndarray = pipe(*args, **call).frames
    return frames


def guided(pipe: Any, guidance: Guidance, *args: Any, **call: Any) -> np.ndarray:
    """Return the frames of a short call under a guidance."""
    with guide(pipe, guidance):
        return sample(pipe, *args, **call)
