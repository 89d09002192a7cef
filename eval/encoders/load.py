"""Load the weights of an encoder by kind: a folder, a hub id (`id@revision` to pin a revision) or a file."""

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

from einops import rearrange

from vidguide.eval.encoders.catalogue import KINDS
from vidguide.eval.encoders.open_clip import load_clip_model
from vidguide.eval.encoders.raft import Raft
from vidguide.eval.encoders.transformers import Encoder, Features, TransformersEncoder
from vidguide.eval.encoders.video import load_video_encoder
from vidguide.eval.encoders.visual_question import VisualQuestion
from vidguide.eval.hashing import read_blocks, short_sha256
from vidguide.eval.hub import only_cached

# Hub id of the model that PickScore and HPS v2 were fine-tuned from; PickScore and HPS v2 lack a processor.
PREFERENCE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def has_image_features(model: Any) -> bool:
    """Return whether a model embeds images and texts in one space, as CLIP does."""
    return hasattr(model, "get_image_features")


# Class in transformers, and whether a loaded model is of the kind.
MODEL_CLASSES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "clip": ("CLIPModel", has_image_features),
    "xclip": ("XCLIPModel", lambda model: hasattr(model, "prompts_generator")),
    "dino": ("AutoModel", lambda model: not hasattr(model, "get_text_features")),
    "pickscore": ("CLIPModel", has_image_features),
    "hps": ("CLIPModel", has_image_features),
}


class LinearHead:
    """A linear predictor on unit features, such as LAION's first aesthetic predictor."""

    place = "cpu float32"

    def __init__(self, file: str) -> None:
        import torch

        path = check_file(file, "aesthetic")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if set(state) != {"weight", "bias"} or state["weight"].ndim != 2 or len(state["weight"]) != 1:
            raise ValueError(f"aesthetic={file!r}: must contain weight (1, D) and bias (1,) of one linear layer")
        self.weight, self.bias = state["weight"][0].float().numpy(), float(state["bias"])
        self.weights = f"{path.name} {short_sha256(read_blocks(path))}"

    def score(self, features: Features) -> Features:
        """Return a score `(F,)` for each row of the features `(F, D)`."""
        return features @ self.weight + self.bias


def check_file(file: str, kind: str) -> Path:
    """Return the path of a file.

    Raises:
        FileNotFoundError: it does not exist.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{kind}={file!r}: no such file; give {KINDS[kind].example}")
    return Path(file)


def load(kind: str, model: str, device: str = "cpu") -> Encoder:
    """Load the weights of a kind.

    Args:
        kind: a key of :data:`vidguide.eval.encoders.catalogue.KINDS`.
        model: a folder or hub id; for aesthetic and raft, and for an open_clip checkpoint of hps, a file; for fvd a
            file or a folder, for jedi and vqa a folder.
        device: of the network; a linear head runs on the CPU.

    Raises:
        ValueError: an unknown kind, or weights of another kind. OSError: the weights do not exist.
        ImportError: a required package is not installed.
    """
    available = [name for name, entry in KINDS.items() if not entry.unavailable]
    if kind not in available:
        raise ValueError(f"encoder={kind!r}: must be one of {', '.join(available)}")
    if kind == "aesthetic":
        return LinearHead(model)
    if kind in ("fvd", "jedi"):
        return load_video_encoder(kind, model, device)
    if kind == "vqa":
        return VisualQuestion(model, device)
    if kind == "raft":
        return Raft(str(check_file(model, kind)), device)
    return load_transformers(kind, model, device)


def load_transformers(kind: str, model: str, device: str) -> TransformersEncoder:
    """Load a model of transformers with its image processor and tokenizer."""
    name, _, revision = model.partition("@")
    options: dict[str, Any] = {"revision": revision or None}
    if name.count("/") > 1 and not Path(name).exists():
        raise FileNotFoundError(f"{kind}={model!r}: no such folder; give one, or {KINDS[kind].example}")
    class_name, is_of_kind = MODEL_CLASSES[kind]
    if kind == "hps" and Path(name).suffix in (".pt", ".pth"):
        network = load_clip_model(check_file(name, kind)).to(device)
        name, options = PREFERENCE_PROCESSOR, {"local_files_only": only_cached(PREFERENCE_PROCESSOR)}
    else:
        import transformers

        options["local_files_only"] = only_cached(name)
        network = getattr(transformers, class_name).from_pretrained(name, **options).to(device)
    if not is_of_kind(network):
        raise ValueError(f"{kind}={model!r}: is a {type(network).__name__}; must be a model of this kind")
    if kind == "dino":
        network.embeddings.interpolate_pos_encoding = MethodType(interpolate_dino_positions, network.embeddings)
    processor, tokenizer = load_processors(kind, name, options)
    return TransformersEncoder(model=network, processor=processor, tokenizer=tokenizer, name=model)


def load_processors(kind: str, name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Load image processor and tokenizer (None for DINO); PickScore, published without them, uses those of ViT-H/14."""
    import transformers

    auto: Any = transformers
    try:
        processor = auto.AutoImageProcessor.from_pretrained(name, **options)
        tokenizer = None if kind == "dino" else auto.AutoTokenizer.from_pretrained(name, **options)
    except OSError:
        if kind != "pickscore":
            raise
        options = {"local_files_only": only_cached(PREFERENCE_PROCESSOR)}
        processor = auto.AutoImageProcessor.from_pretrained(PREFERENCE_PROCESSOR, **options)
        tokenizer = auto.AutoTokenizer.from_pretrained(PREFERENCE_PROCESSOR, **options)
    return processor, tokenizer


def interpolate_dino_positions(embeddings: Any, tokens: Any, height: int, width: int) -> Any:
    """Interpolate position embeddings to another grid by a scale factor, as DINO's own code does.

    transformers interpolates to a size, which samples at slightly different positions. Source:
    interpolate_pos_encoding in facebookresearch/dino, which adds 0.1 to the grid against rounding.

    Returns:
        position embeddings `(1, 1 + h w, D)`.
    """
    import torch

    positions = embeddings.position_embeddings
    side = round((positions.shape[1] - 1) ** 0.5)
    rows, columns = height // embeddings.patch_size, width // embeddings.patch_size
    if rows == columns == side:
        return positions
    grid = rearrange(positions[:, 1:], "1 (rows columns) d -> 1 d rows columns", rows=side)
    factors = ((rows + 0.1) / side, (columns + 0.1) / side)
    resized = torch.nn.functional.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([positions[:, :1], rearrange(resized, "1 d rows columns -> 1 (rows columns) d")], 1)
