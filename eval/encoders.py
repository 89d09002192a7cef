"""Encoders with weights that the user has: CLIP, X-CLIP and DINO, by transformers, which loads when used.

Frames are prepared by each model's own processor. That is not VBench's preprocessing (no antialiasing there), so
nothing here carries VBench's names.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BATCH = 16  # frames at once

Features = NDArray[np.float32]


class Encoder(Protocol):
    """What metrics ask of an encoder; `weights` names the model and the hash of its parameters."""

    weights: str

    def frames(self, frames: NDArray[np.uint8]) -> Features:
        """Unit features `(F, D)` of frames `(F, H, W, 3)`."""
        ...

    def text(self, text: str) -> tuple[Features, int]:
        """Unit features `(D,)` of a text, and how many of its tokens were cut off."""
        ...

    def similarity(self, frames: NDArray[np.uint8], text: str) -> tuple[float, int]:
        """Cosine of a whole clip and a text, and how many of its tokens were cut off."""
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
        """Unit features `(F, D)` of frames `(F, H, W, 3)`, in batches."""
        batches = [self.encode_frames(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
        return np.concatenate(batches)

    def encode_frames(self, frames: NDArray[np.uint8]) -> Features:
        """Unit features of a batch: the projected ones of CLIP, the class token of a plain vision transformer."""
        import torch

        with torch.inference_mode():
            if hasattr(self.model, "get_image_features"):
                return unit(projected(self.model.get_image_features(pixel_values=self.pixels(frames))))
            return unit(self.model(pixel_values=self.pixels(frames)).last_hidden_state[:, 0])

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


def load(kind: str, model: str, device: str = "cpu") -> Encoder:
    """An encoder from a folder or a hub id, `id@revision` for a fixed one.

    Args:
        kind: clip, xclip or dino.

    Raises:
        ValueError: the kind is unknown. OSError: the model is not there.
    """
    loaders: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "clip": ("CLIPModel", lambda made: hasattr(made, "get_image_features")),
        "xclip": ("XCLIPModel", lambda made: hasattr(made, "prompts_generator")),
        "dino": ("AutoModel", lambda made: not hasattr(made, "get_text_features")),
    }
    if kind not in loaders:
        raise ValueError(f"encoder={kind!r}: must be one of {', '.join(loaders)}")
    import transformers

    name, _, revision = model.partition("@")
    where = {"revision": revision or None}
    head, fits = loaders[kind]
    made = getattr(transformers, head).from_pretrained(name, **where).to(device)
    if not fits(made):
        raise ValueError(f"{kind}={model!r}: is a {type(made).__name__}, not a model of this kind")
    auto: Any = transformers
    processor = auto.AutoImageProcessor.from_pretrained(name, **where)
    tokenizer = None if kind == "dino" else transformers.AutoTokenizer.from_pretrained(name, **where)
    return TransformersEncoder(model=made, processor=processor, tokenizer=tokenizer, name=model)
