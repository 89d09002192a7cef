"""Video networks that describe a whole clip: I3D as TorchScript, and VideoMAE and V-JEPA 2 of transformers.

Nothing is downloaded: the weights are a file or a folder. The preprocessing is the same for all: frames at the centres
of equal segments of the clip, resized by bilinear interpolation, a centre crop, and standardised channels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.encoders.catalogue import KINDS
from vidguide.eval.encoders.transformers import Features, describe_weights, segment_centres
from vidguide.eval.hashing import read_blocks, short_sha256

if TYPE_CHECKING:
    from torch import Tensor

I3D_OPTIONS = {"rescale": False, "resize": False, "return_features": True}  # of the published I3D in TorchScript
MODEL_TYPES = {"fvd": "videomae", "jedi": "vjepa2"}  # of the configuration of a folder
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
PREPROCESSING = "segment-centres/bilinear/centre-crop/1"  # part of the versions of metrics that use the features


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a network reads a clip.

    Attributes:
        frames: number of them.
        side: pixels of the square crop.
        short_side: pixels of the short side before the crop.
        mean, std: of each channel, in 0..1.
        antialias: whether the resizing suppresses aliasing.
    """

    frames: int
    side: int
    short_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = True

    def __call__(self, frames: NDArray[np.uint8]) -> "Tensor":
        """Return the pixels `(frames, 3, side, side)` of a clip `(F, H, W, 3)`."""
        import torch

        chosen = np.ascontiguousarray(frames[segment_centres(len(frames), self.frames)])
        pixels = torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 255
        short = min(pixels.shape[2:])
        size = [round(length * self.short_side / short) for length in pixels.shape[2:]]
        pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=self.antialias)
        top, left = ((length - self.side) // 2 for length in size)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels[..., top : top + self.side, left : left + self.side] - mean) / std


# As in the implementations of FVD in PyTorch: values in -1..1, no antialiasing.
I3D = Preprocessing(frames=16, side=224, short_side=224, mean=(0.5,) * 3, std=(0.5,) * 3, antialias=False)


class ScriptedVideoEncoder:
    """A network in TorchScript from videos `(1, 3, T, 224, 224)` in -1..1 to features `(1, D)`, such as I3D."""

    def __init__(self, file: str, device: str = "cpu") -> None:
        import torch

        try:
            self.model: Any = torch.jit.load(file, map_location=device).eval()
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"fvd={file!r}: not a TorchScript file ({reason}); give {KINDS['fvd'].example}") from None
        known = {argument.name for argument in self.model.forward.schema.arguments}
        self.options = {name: value for name, value in I3D_OPTIONS.items() if name in known}
        self.device, self.preprocess = device, I3D
        self.weights = f"{Path(file).name} {short_sha256(read_blocks(Path(file)))}"
        self.check_output(file)

    @property
    def place(self) -> str:
        """Return device and dtype."""
        return f"{self.device} float32"

    @property
    def frames(self) -> int:
        """Return the number of frames that the network sees."""
        return self.preprocess.frames

    def check_output(self, file: str) -> None:
        """Run the network on a black clip.

        Raises:
            ValueError: it fails, or does not return features `(1, D)`.
        """
        expected = "must map (1, 3, 16, 224, 224) to features (1, D)"
        try:
            shape = tuple(self.run(np.zeros((self.frames, 32, 32, 3), np.uint8)).shape)
        except (RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"fvd={file!r}: fails on a black clip ({reason}); {expected}") from None
        if len(shape) != 2 or shape[0] != 1:
            raise ValueError(f"fvd={file!r}: returns shape {shape}; {expected}")

    def run(self, frames: NDArray[np.uint8]) -> "Tensor":
        """Return the output of the network for a clip `(F, H, W, 3)`."""
        import torch

        video = self.preprocess(frames).transpose(0, 1)[None].to(self.device)
        with torch.inference_mode():
            output: Tensor = self.model(video, **self.options)
        return output

    def clip(self, frames: NDArray[np.uint8]) -> Features:
        """Return the features `(D,)` of a clip `(F, H, W, 3)`."""
        return np.asarray(self.run(frames)[0].float().cpu().numpy())


class TransformersVideoEncoder:
    """VideoMAE or V-JEPA 2 of transformers; the features are the mean of the tokens, or those of an attentive pooler.

    The pooler is used where the folder contains one: V-JEPA 2 with a classifier, as JEDi uses that of V-JEPA.
    """

    def __init__(self, kind: str, folder: str, device: str = "cpu") -> None:
        config = self.check_config(kind, folder)
        self.preprocess = folder_preprocessing(kind, folder, config)
        self.model: Any = load_model(kind, folder, config).to(device).float().eval()
        self.weights = describe_weights(self.model, folder)

    @staticmethod
    def check_config(kind: str, folder: str) -> Any:
        """Return the configuration of a folder.

        Raises:
            ValueError: it is of another kind of model.
        """
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != MODEL_TYPES[kind]:
            expected = f"must be {MODEL_TYPES[kind]!r}: give {KINDS[kind].example}"
            raise ValueError(f"{kind}={folder!r}: model_type is {config.model_type!r}; {expected}")
        return config

    @property
    def place(self) -> str:
        """Return device and dtype."""
        return f"{self.model.device} {str(self.model.dtype).removeprefix('torch.')}"

    @property
    def frames(self) -> int:
        """Return the number of frames that the network sees."""
        return self.preprocess.frames

    def clip(self, frames: NDArray[np.uint8]) -> Features:
        """Return the features `(D,)` of a clip `(F, H, W, 3)`."""
        import torch

        video = self.preprocess(frames)[None].to(self.model.device)
        with torch.inference_mode():
            return np.asarray(self.features(video)[0].cpu().numpy())

    def features(self, video: "Tensor") -> "Tensor":
        """Return the features `(N, D)` of videos `(N, T, 3, side, side)`."""
        if self.model.config.model_type == "videomae":
            tokens: Tensor = self.model(pixel_values=video).last_hidden_state
            return tokens.mean(1)
        encoder = getattr(self.model, "vjepa2", self.model)
        tokens = encoder(pixel_values_videos=video, skip_predictor=True).last_hidden_state
        pooled: Tensor = self.model.pooler(tokens) if hasattr(self.model, "pooler") else tokens.mean(1)
        return pooled


def load_model(kind: str, folder: str, config: Any) -> Any:
    """Load the model of a folder: V-JEPA 2 with its pooler where it has a classifier.

    Raises:
        ValueError: weights are missing.
    """
    import transformers

    has_pooler = kind == "jedi" and "VJEPA2ForVideoClassification" in (config.architectures or ())
    auto: Any = transformers.AutoModelForVideoClassification if has_pooler else transformers.AutoModel
    model, report = auto.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{kind}={folder!r}: lacks the weights {missing[0]!r} and {len(missing) - 1} more")
    return model


def folder_preprocessing(kind: str, folder: str, config: Any) -> Preprocessing:
    """Return the preprocessing of a folder: sizes of the model, mean and std of its processor.

    Raises:
        ValueError: the folder has no processor with mean and std.
    """
    files = [Path(folder) / name for name in PROCESSORS if (Path(folder) / name).is_file()]
    stored = json.loads(files[0].read_text()) if files else {}
    if not {"image_mean", "image_std"} <= set(stored):
        raise ValueError(f"{kind}={folder!r}: must contain {' or '.join(PROCESSORS)} with image_mean and image_std")
    mean, std = tuple(stored["image_mean"]), tuple(stored["image_std"])
    if kind == "jedi":  # resized as by VJEPA2VideoProcessor
        side, frames = config.crop_size, config.frames_per_clip
        return Preprocessing(frames=frames, side=side, short_side=int(side * 256 / 224), mean=mean, std=std)
    side = config.image_size
    return Preprocessing(frames=config.num_frames, side=side, short_side=side, mean=mean, std=std)


def load_video_encoder(kind: str, model: str, device: str) -> ScriptedVideoEncoder | TransformersVideoEncoder:
    """Load a video network from a file or a folder.

    Raises:
        FileNotFoundError: there is neither. ValueError: it is no network of this kind.
    """
    path = Path(model)
    if path.is_file() and kind == "fvd":
        return ScriptedVideoEncoder(model, device)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{kind}={model!r}: no such weights; nothing is downloaded: give {KINDS[kind].example}")
    return TransformersVideoEncoder(kind, model, device)
