"""The dual encoder: a small network that embeds clips and captions of the synthetic world in one space.

Its weights ship in `eval/weights/dual`, whose README describes them; `training/dual_encoder.py` trains it on renders of
the world. It reads eight frames in order, so that it sees motion, and knows only the words of the world.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidguide.eval.encoders.transformers import Features, segment_centres
from vidguide.eval.world.scene import ATTRIBUTES, HEIGHT, WIDTH

NUM_FRAMES = 8  # that the network reads, each from the centre of its segment of the clip
FILLERS = ("a", "background", "moving", "object", "on", "staying")
VOCABULARY = (*FILLERS, *(value for values in ATTRIBUTES.values() for value in values))


class DualEncoder(nn.Module):
    """Two encoders, of clips and of captions; the cosine of their unit features is the similarity.

    Args:
        width: of the features and of both encoders.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(width // 2, width * 3 // 4, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width * 3 // 4, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(width * (HEIGHT // 16) * (WIDTH // 16), width),
        )
        self.time_table = nn.Parameter(torch.randn(NUM_FRAMES, width) / width**0.5)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.order = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.film = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.word_table = nn.Embedding(len(VOCABULARY), width)
        self.caption = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))

    def clips(self, frames: Tensor) -> Tensor:
        """Return unit features `(B, D)` of clips `(B, NUM_FRAMES, H, W, 3)` in -1..1."""
        images = self.picture(rearrange(frames, "b f h w c -> (b f) c h w"))
        images = rearrange(images, "(b f) d -> b f d", f=NUM_FRAMES)
        return F.normalize(self.film(self.order(images + self.time_table).mean(1)), dim=-1)

    def captions(self, counts: Tensor) -> Tensor:
        """Return unit features `(B, D)` of captions, given as word counts `(B, len(VOCABULARY))`."""
        return F.normalize(self.caption(counts @ self.word_table.weight), dim=-1)

    def logits(self, clips: Tensor, captions: Tensor) -> Tensor:
        """Return the log-odds `(B, C)` that each of C captions is true of each of B clips."""
        return self.log_scale.exp() * clips @ captions.T + self.bias


def sample_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frames `(NUM_FRAMES, H, W, 3)` that the network reads."""
    return frames[segment_centres(len(frames), NUM_FRAMES)]


def scale_pixels(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Map pixel values from 0..255 to -1..1."""
    return frames.astype(np.float32) / 127.5 - 1


def word_counts(words: Sequence[str]) -> NDArray[np.float32]:
    """Return how often each word of the vocabulary occurs, `(len(VOCABULARY),)`; other words are ignored."""
    return np.array([list(words).count(word) for word in VOCABULARY], np.float32)


class TrainedEncoder:
    """The dual encoder with the weights of a folder, for metrics."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.model = DualEncoder(**json.loads((folder / "config.json").read_text())).eval()
        state = load_file(folder / "model.safetensors")
        self.model.load_state_dict({name: tensor.float() for name, tensor in state.items()})

    def clip(self, frames: NDArray[np.uint8]) -> Features:
        """Return unit features `(D,)` of a clip `(F, 64, 64, 3)`."""
        with torch.inference_mode():
            return np.asarray(self.model.clips(torch.from_numpy(scale_pixels(sample_frames(frames)))[None])[0])

    def caption(self, words: Sequence[str]) -> Features:
        """Return unit features `(D,)` of a caption, given as its words."""
        with torch.inference_mode():
            return np.asarray(self.model.captions(torch.from_numpy(word_counts(words))[None])[0])

    def probability(self, cosine: float) -> float:
        """Return the probability that a caption of this cosine is true of the clip, as calibrated by training."""
        with torch.inference_mode():
            return float(torch.sigmoid(self.model.log_scale.exp() * cosine + self.model.bias))
