"""Encoders of transformers: CLIP, X-CLIP and DINO.

Frames are preprocessed by each model's own processor or, for the metrics named `vbench.`, as in VBench.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.encoders.vbench_transforms import preprocess_clip, preprocess_dino
from vidguide.eval.hashing import short_sha256

BATCH = 16  # frames per forward pass

Features = NDArray[np.float32]


class Encoder(Protocol):
    """Weights of any kind: `weights` is their name and hash, `place` their device and dtype."""

    weights: str

    @property
    def place(self) -> str:
        """Return device and dtype, such as `cuda:0 float16`."""
        ...


def projected_features(output: Any) -> Any:
    """Return the projected features: transformers 5 wraps them in an output object, 4 returns the tensor."""
    return getattr(output, "pooler_output", output)


def normalize(features: Any) -> Features:
    """Return features of unit length, as an array."""
    array = features.detach().float().cpu().numpy()
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True), np.float32)


def describe_weights(model: Any, name: str) -> str:
    """Return the model's name and a hash of its parameters."""
    tensors = sorted(model.state_dict().items())
    chunks = (key.encode() + tensor.detach().float().cpu().numpy().tobytes() for key, tensor in tensors)
    return f"{name} {short_sha256(chunks)}"


def segment_centres(length: int, count: int) -> NDArray[np.int64]:
    """Return the indices of `count` frames, each at the centre of one of `count` equal segments of the clip.

    A clip of fewer frames gives all of them, the last repeated.
    """
    edges = np.linspace(0, length, min(count, length) + 1).astype(np.int64)
    centres = (edges[:-1] + edges[1:] - 1) // 2
    return np.concatenate([centres, np.repeat(centres[-1:], count - len(centres))])


@dataclass
class TransformersEncoder:
    """A model of transformers with its image processor and, if it reads text, its tokenizer."""

    model: Any
    processor: Any
    tokenizer: Any
    name: str

    def __post_init__(self) -> None:
        self.model.eval()
        self.weights = describe_weights(self.model, self.name)
        self.text = cache(self.encode_text)

    @property
    def place(self) -> str:
        """Return device and dtype."""
        return f"{self.model.device} {str(self.model.dtype).removeprefix('torch.')}"

    @property
    def shape(self) -> tuple[int, int]:
        """Return the patch size in pixels and the width of the features."""
        vision = getattr(self.model.config, "vision_config", self.model.config)
        return vision.patch_size, getattr(self.model.config, "projection_dim", vision.hidden_size)

    @property
    def scale(self) -> float:
        """Return the learned scale of the cosines."""
        return float(self.model.logit_scale.exp().item())

    def pixels(self, frames: NDArray[np.uint8]) -> Any:
        """Return frames preprocessed by the model's own processor."""
        return self.processor(images=list(frames), return_tensors="pt")["pixel_values"].to(self.model.device)

    def tokens(self, text: str) -> tuple[Any, int]:
        """Return token ids and mask, truncated before the end token to the model's limit, and the number cut off."""
        limit = self.model.config.text_config.max_position_embeddings
        length = len(self.tokenizer(text)["input_ids"])
        ids = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(self.model.device)
        return {name: ids[name] for name in ("input_ids", "attention_mask")}, max(length - limit, 0)

    def frames(self, frames: NDArray[np.uint8]) -> Features:
        """Return unit features `(F, D)` of frames `(F, H, W, 3)`, preprocessed by the model's own processor."""
        return self.encode_batches(frames, self.pixels)

    def vbench_frames(self, frames: NDArray[np.uint8]) -> Features:
        """Return unit features `(F, D)` of frames `(F, H, W, 3)`, preprocessed as in VBench."""
        preprocess = preprocess_clip if hasattr(self.model, "get_image_features") else preprocess_dino
        return self.encode_batches(frames, lambda batch: preprocess(batch).to(self.model.device))

    def patches(self, frame: NDArray[np.uint8]) -> Features:
        """Return unit features `(h, w, D)` of the patches of a frame `(H, W, 3)` by a plain ViT.

        The whole frame is preprocessed as in VBench; a rest smaller than a patch at the right and lower edge is cut.
        """
        import torch

        pixels = preprocess_dino(frame[None]).to(self.model.device)
        rows, columns = (side // self.shape[0] for side in pixels.shape[2:])
        with torch.inference_mode():
            tokens = self.model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[0]
        return normalize(tokens[-rows * columns :]).reshape(rows, columns, -1)

    def encode_batches(self, frames: NDArray[np.uint8], preprocess: Callable[[NDArray[np.uint8]], Any]) -> Features:
        """Return unit features of frames, encoded in batches."""
        starts = range(0, len(frames), BATCH)
        return np.concatenate([self.encode_pixels(preprocess(frames[start : start + BATCH])) for start in starts])

    def encode_pixels(self, pixels: Any) -> Features:
        """Return unit features of a batch `(N, 3, h, w)`: the projection of CLIP, the class token of a plain ViT."""
        import torch

        with torch.inference_mode():
            if hasattr(self.model, "get_image_features"):
                return normalize(projected_features(self.model.get_image_features(pixel_values=pixels)))
            return normalize(self.model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0])

    def encode_text(self, text: str) -> tuple[Features, int]:
        """Return unit features `(D,)` of a text, and how many of its tokens were cut off."""
        import torch

        ids, excess = self.tokens(text)
        with torch.inference_mode():
            return normalize(projected_features(self.model.get_text_features(**ids)))[0], excess

    def similarity(self, frames: NDArray[np.uint8], text: str) -> tuple[float, int]:
        """Return the cosine of a clip and a text by X-CLIP, and how many tokens of the text were cut off.

        The text features of X-CLIP depend on the clip, so that the cosine is computed by the model.
        """
        import torch

        count = self.model.config.vision_config.num_frames
        ids, excess = self.tokens(text)
        with torch.inference_mode():
            output = self.model(pixel_values=self.pixels(frames[segment_centres(len(frames), count)])[None], **ids)
            cosine = output.logits_per_video / self.model.logit_scale.exp()
        return float(cosine[0, 0]), excess
