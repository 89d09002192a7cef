"""Load weights that the user has, by kind: folders, hub ids (`id@revision` for a fixed one) or files."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

from einops import rearrange

from vidguide.eval.encoders.catalogue import KINDS
from vidguide.eval.encoders.open_clip import clip_model
from vidguide.eval.encoders.raft import Raft
from vidguide.eval.encoders.transformers import Encoder, Features, TransformersEncoder

PREFERENCE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # of the model that PickScore and HPS v2 were tuned from
HEADS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "clip": ("CLIPModel", lambda made: hasattr(made, "get_image_features")),
    "xclip": ("XCLIPModel", lambda made: hasattr(made, "prompts_generator")),
    "dino": ("AutoModel", lambda made: not hasattr(made, "get_text_features")),
    "pickscore": ("CLIPModel", lambda made: hasattr(made, "get_image_features")),
    "hps": ("CLIPModel", lambda made: hasattr(made, "get_image_features")),
}


class LinearHead:
    """A linear predictor on unit features, such as LAION's first aesthetic one."""

    place = "cpu float32"

    def __init__(self, file: str) -> None:
        import torch

        path = existing(file, "aesthetic")
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if set(stored) != {"weight", "bias"} or stored["weight"].ndim != 2 or len(stored["weight"]) != 1:
            raise ValueError(f"aesthetic={file!r}: must hold the weight (1, D) and bias (1,) of one linear layer")
        self.weight, self.bias = stored["weight"][0].float().numpy(), float(stored["bias"])
        self.weights = f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"

    def score(self, features: Features) -> Features:
        """A score `(F,)` for each of the features `(F, D)`."""
        return features @ self.weight + self.bias


def existing(file: str, kind: str) -> Path:
    """The file as a path.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{kind}={file!r}: there is no such file; give {KINDS[kind].example}")
    return Path(file)


def load(kind: str, model: str, device: str = "cpu") -> Encoder:
    """The weights of a kind.

    Args:
        kind: one of :data:`vidguide.eval.encoders.catalogue.KINDS`.
        model: a folder or hub id; for aesthetic and raft, and where it is an open_clip checkpoint for hps, a file.

    Raises:
        ValueError: the kind is unknown, or the weights are of another. OSError: they are not there.
        ImportError: a package that loads them is not installed.
    """
    known = [name for name, found in KINDS.items() if not found.here]
    if kind not in known:
        raise ValueError(f"encoder={kind!r}: must be one of {', '.join(known)}")
    if kind == "aesthetic":
        return LinearHead(model)
    if kind == "raft":
        return Raft(str(existing(model, kind)), device)
    return transformer(kind, model, device)


def transformer(kind: str, model: str, device: str) -> TransformersEncoder:
    """A model of transformers with what prepares its frames and texts."""
    import transformers

    auto: Any = transformers
    name, _, revision = model.partition("@")
    where = {"revision": revision or None}
    head, fits = HEADS[kind]
    if name.count("/") > 1 and not Path(name).exists():
        raise FileNotFoundError(f"{kind}={model!r}: there is no such folder; give one, or {KINDS[kind].example}")
    if kind == "hps" and Path(name).suffix in (".pt", ".pth"):
        made = clip_model(existing(name, kind)).to(device)
        name, where = PREFERENCE_PROCESSOR, {}
    else:
        made = getattr(transformers, head).from_pretrained(name, **where).to(device)
    if not fits(made):
        raise ValueError(f"{kind}={model!r}: is a {type(made).__name__}, not a model of this kind")
    if kind == "dino":
        made.embeddings.interpolate_pos_encoding = MethodType(positions_of_dino, made.embeddings)
    try:
        processor = auto.AutoImageProcessor.from_pretrained(name, **where)
        tokenizer = None if kind == "dino" else auto.AutoTokenizer.from_pretrained(name, **where)
    except OSError:  # PickScore is published without either
        if kind != "pickscore":
            raise
        processor = auto.AutoImageProcessor.from_pretrained(PREFERENCE_PROCESSOR)
        tokenizer = auto.AutoTokenizer.from_pretrained(PREFERENCE_PROCESSOR)
    return TransformersEncoder(model=made, processor=processor, tokenizer=tokenizer, name=model)


def positions_of_dino(embeddings: Any, tokens: Any, height: int, width: int) -> Any:
    """Position embeddings `(1, 1 + h w, D)` for another grid, interpolated by a factor as in DINO's own code.

    transformers interpolates to a size, which samples at slightly other places. Source: the description of
    interpolate_pos_encoding in facebookresearch/dino, whose grid is enlarged by 0.1 against rounding.
    """
    import torch

    stored = embeddings.position_embeddings
    side = round((stored.shape[1] - 1) ** 0.5)
    rows, columns = height // embeddings.patch_size, width // embeddings.patch_size
    if rows == columns == side:
        return stored
    grid = rearrange(stored[:, 1:], "1 (rows columns) d -> 1 d rows columns", rows=side)
    factors = ((rows + 0.1) / side, (columns + 0.1) / side)
    spread = torch.nn.functional.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([stored[:, :1], rearrange(spread, "1 d rows columns -> 1 (rows columns) d")], 1)
