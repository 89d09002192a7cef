"""The dual encoder of the shipped world: a small network that puts clips and captions of that world into one space.

It ships with its weights (`eval/weights/dual`, described there) and is trained by `training/dual_encoder.py` on renders
of the world. It sees motion, as it reads eight frames in order; it knows the words of the world and no others.
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

from vidguide.eval.encoders.transformers import Features, middle
from vidguide.eval.world.scene import ATTRIBUTES, HEIGHT, WIDTH

SEEN = 8  # frames that it looks at, each from the middle of its share of the clip
FILLERS = ("a", "background", "moving", "object", "on", "staying")
VOCABULARY = (*FILLERS, *(value for values in ATTRIBUTES.values() for value in values))


class DualEncoder(nn.Module):
    """Unit features of clips and of captions; their cosine says how well one tells of the other.

    Args:
        width: of the features and of both towers.
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
        self.time_table = nn.Parameter(torch.randn(SEEN, width) / width**0.5)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.order = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.film = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.word_table = nn.Embedding(len(VOCABULARY), width)
        self.caption = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))

    def clips(self, frames: Tensor) -> Tensor:
        """Unit features `(B, D)` of clips `(B, SEEN, H, W, 3)`, values in -1..1."""
        pictures = self.picture(rearrange(frames, "clips seen h w c -> (clips seen) c h w"))
        pictures = rearrange(pictures, "(clips seen) d -> clips seen d", seen=SEEN)
        return F.normalize(self.film(self.order(pictures + self.time_table).mean(1)), dim=-1)

    def captions(self, counts: Tensor) -> Tensor:
        """Unit features `(B, D)` of captions, given as how often each word occurs `(B, words)`."""
        return F.normalize(self.caption(counts @ self.word_table.weight), dim=-1)

    def logits(self, clips: Tensor, captions: Tensor) -> Tensor:
        """Log-odds `(clips, captions)` that a caption is true of a clip."""
        return self.log_scale.exp() * clips @ captions.T + self.bias


def spread(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames `(SEEN, H, W, 3)` that the network looks at."""
    return frames[middle(len(frames), SEEN)]


def scaled(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Levels 0..255 in -1..1."""
    return frames.astype(np.float32) / 127.5 - 1


def counted(words: Sequence[str]) -> NDArray[np.float32]:
    """How often each word of the vocabulary occurs, `(words,)`; the others are passed over."""
    return np.array([list(words).count(word) for word in VOCABULARY], np.float32)


class TrainedEncoder:
    """The dual encoder with the weights in a folder, as metrics use it."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.model = DualEncoder(**json.loads((folder / "config.json").read_text())).eval()
        stored = load_file(folder / "model.safetensors")
        self.model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})

    def clip(self, frames: NDArray[np.uint8]) -> Features:
        """Unit features `(D,)` of a clip `(F, 64, 64, 3)`."""
        with torch.inference_mode():
            return np.asarray(self.model.clips(torch.from_numpy(scaled(spread(frames)))[None])[0])

    def caption(self, words: Sequence[str]) -> Features:
        """Unit features `(D,)` of a caption, from its words."""
        with torch.inference_mode():
            return np.asarray(self.model.captions(torch.from_numpy(counted(words))[None])[0])

    def probability(self, cosine: float) -> float:
        """Probability that a caption of this cosine is true of the clip, as the training's labels went."""
        with torch.inference_mode():
            return float(torch.sigmoid(self.model.log_scale.exp() * cosine + self.model.bias))
