"""Encoders with weights that the user has: CLIP, X-CLIP and DINO, by transformers, which loads when used.

Frames are prepared by each model's own processor, or, for the metrics that carry its name, as VBench does.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.encoders.vbench_transforms import for_clip, for_dino

BATCH = 16  # frames at once

Features = NDArray[np.float32]


class Encoder(Protocol):
    """Any kind of weights: `weights` names them and the hash of the parameters, `place` their device and dtype."""

    weights: str

    @property
    def place(self) -> str:
        """Such as `cuda:0 float16`."""
        ...


def projected(output: Any) -> Any:
    """The projected features: transformers 5 wraps them, 4 gave the tensor itself."""
    return getattr(output, "pooler_output", output)


def unit(features: Any) -> Features:
    """Features of length one, as an array."""
    array = features.detach().float().cpu().numpy()
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True), np.float32)


def fingerprint(model: Any, name: str) -> str:
    """The model's name and a hash of its parameters."""
    whole = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        whole.update(key.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return f"{name} {whole.hexdigest()[:16]}"


@dataclass
class TransformersEncoder:
    """A model of transformers with its processor and, where it reads text, its tokenizer."""

    model: Any
    processor: Any
    tokenizer: Any
    name: str

    def __post_init__(self) -> None:
        self.model.eval()
        self.weights = fingerprint(self.model, self.name)
        self.text = cache(self.encode_text)

    @property
    def place(self) -> str:
        """Device and dtype."""
        return f"{self.model.device} {str(self.model.dtype).removeprefix('torch.')}"

    @property
    def shape(self) -> tuple[int, int]:
        """Side of a patch in pixels, and width of the features."""
        vision = getattr(self.model.config, "vision_config", self.model.config)
        return vision.patch_size, getattr(self.model.config, "projection_dim", vision.hidden_size)

    @property
    def scale(self) -> float:
        """By what the model's training multiplies cosines."""
        return float(self.model.logit_scale.exp())

    def pixels(self, frames: NDArray[np.uint8]) -> Any:
        """Frames as the model takes them."""
        return self.processor(images=list(frames), return_tensors="pt")["pixel_values"].to(self.model.device)

    def tokens(self, text: str) -> tuple[Any, int]:
        """Token ids and mask, cut to what the model takes with the end mark kept, and how many were cut off."""
        limit = self.model.config.text_config.max_position_embeddings
        whole = len(self.tokenizer(text)["input_ids"])
        ids = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(self.model.device)
        return {name: ids[name] for name in ("input_ids", "attention_mask")}, max(whole - limit, 0)

    def frames(self, frames: NDArray[np.uint8]) -> Features:
        """Unit features `(F, D)` of frames `(F, H, W, 3)`, as the model's own processor prepares them."""
        return self.in_batches(frames, self.pixels)

    def vbench_frames(self, frames: NDArray[np.uint8]) -> Features:
        """Unit features `(F, D)` of frames `(F, H, W, 3)`, as VBench prepares them."""
        prepare = for_clip if hasattr(self.model, "get_image_features") else for_dino
        return self.in_batches(frames, lambda some: prepare(some).to(self.model.device))

    def in_batches(self, frames: NDArray[np.uint8], prepare: Callable[[NDArray[np.uint8]], Any]) -> Features:
        """Unit features of frames, some at a time: the projected ones of CLIP, the class token of a plain ViT."""
        starts = range(0, len(frames), BATCH)
        return np.concatenate([self.encode_pixels(prepare(frames[start : start + BATCH])) for start in starts])

    def encode_pixels(self, pixels: Any) -> Features:
        """Unit features of a batch `(N, 3, h, w)`."""
        import torch

        with torch.inference_mode():
            if hasattr(self.model, "get_image_features"):
                return unit(projected(self.model.get_image_features(pixel_values=pixels)))
            return unit(self.model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0])

    def encode_text(self, text: str) -> tuple[Features, int]:
        """Unit features `(D,)` of a text, and how many of its tokens were cut off."""
        import torch

        ids, cut = self.tokens(text)
        with torch.inference_mode():
            return unit(projected(self.model.get_text_features(**ids)))[0], cut

    def similarity(self, frames: NDArray[np.uint8], text: str) -> tuple[float, int]:
        """Cosine of a whole clip and a text by X-CLIP, whose text features depend on the clip."""
        import torch

        count = self.model.config.vision_config.num_frames
        ids, cut = self.tokens(text)
        with torch.inference_mode():
            output = self.model(pixel_values=self.pixels(frames[middle(len(frames), count)])[None], **ids)
            cosine = output.logits_per_video / self.model.logit_scale.exp()
        return float(cosine[0, 0]), cut


def middle(length: int, count: int) -> NDArray[np.int64]:
    """Indices of `count` frames, each in the middle of its share of the clip; the last is repeated if need be."""
    edges = np.linspace(0, length, min(count, length) + 1).astype(np.int64)
    picked = (edges[:-1] + edges[1:] - 1) // 2
    return np.concatenate([picked, np.repeat(picked[-1:], count - len(picked))])
