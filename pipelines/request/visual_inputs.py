"""Images and video that a clip starts from: which diffusers pipelines take them, and the arguments of their calls."""

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidguide.clip import Clip
from vidguide.eval.clips.errors import ReadError
from vidguide.eval.clips.read import read
from vidguide.pipelines.request.images import describe_image, fit, read_image
from vidguide.transformer.modular_blocks import inputs_of, is_modular

# What a clip can start from: arguments of generate() and of pipeline calls, and what they are for messages.
INPUTS = {"image": "first image", "last_image": "last image", "video": "video"}
# Text-to-video pipelines, and the pipeline that runs the same weights from an image or a video.
PARTNERS = {
    "image": {
        "LTXPipeline": "LTXImageToVideoPipeline",
        "LTX2Pipeline": "LTX2ImageToVideoPipeline",
        "WanPipeline": "WanImageToVideoPipeline",
    },
    "video": {
        "CogVideoXPipeline": "CogVideoXVideoToVideoPipeline",
        "SkyReelsV2DiffusionForcingPipeline": "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        "WanPipeline": "WanVideoToVideoPipeline",
    },
}
# Parts of class names of pipelines that need an input, whatever the default of the argument is.
REQUIRED_BY = {"image": ("ImageToVideo", "Image2Video", "I2V"), "last_image": (), "video": ("VideoToVideo",)}
FROM_EITHER = "TI2V"  # in class names of pipelines from text or image


def takes(pipeline: Any, name: str) -> str:
    """Return whether a pipeline class takes an input of `INPUTS`: "no", "may" or "must"."""
    parameter = inspect.signature(pipeline.__call__).parameters.get(name)
    if parameter is None:
        return "no"
    by_name = FROM_EITHER not in pipeline.__name__ and any(word in pipeline.__name__ for word in REQUIRED_BY[name])
    return "must" if by_name or parameter.default is parameter.empty else "may"


def use_of(pipe: Any, name: str) -> str:
    """Return whether a pipeline takes an input of `INPUTS`: "no", "may" or "must"."""
    if not is_modular(pipe):
        return takes(type(pipe), name)
    declared = inputs_of(pipe).get(name)
    return "no" if declared is None else "must" if declared.required else "may"


def partner(name: str, index: Mapping[str, Any], given: str) -> str | None:
    """Return the class name of the pipeline that runs the same weights from an image or a video.

    Args:
        name: class name of the text-to-video pipeline.
        index: content of the folder's `model_index.json`.
        given: "image" or "video".

    Returns:
        None if there is none. For Wan, only checkpoints with one timestep per token (`expand_timesteps`) have one from
        an image, and only those without, of one transformer, from a video.
    """
    if name == "WanPipeline":
        per_token, second = bool(index.get("expand_timesteps")), (index.get("transformer_2") or [None])[0]
        if (given == "image") != per_token or (given == "video" and second):
            return None
    return PARTNERS.get(given, {}).get(name)


def check_use(model: str, use: str, given: bool, name: str = "image") -> None:
    """Refuse an input that a model does not take, and a missing one that it needs.

    Args:
        model: name of the pipeline or model, for messages.
        use: "no", "may" or "must".
        given: whether the input was given.
        name: of the input, in `INPUTS`.

    Raises:
        ValueError: naming the pipeline or model.
    """
    what = INPUTS[name]
    if given and use == "no":
        kind = "a video-to-video" if name == "video" else "an image-to-video"
        raise ValueError(f"{name}: {model} takes no {what.removeprefix('first ')}; choose {kind} model")
    if not given and use == "must":
        raise ValueError(f"{name}=None: {model} needs a {what}; pass one")


@dataclass(frozen=True)
class VisualInputs:
    """What a clip starts from, read.

    Attributes:
        image, last_image: first and last frame. video: frames to start from. strength: as the pipeline takes it.
    """

    image: Image.Image | None = None
    last_image: Image.Image | None = None
    video: Clip | None = None
    strength: float | None = None

    def has(self, name: str) -> bool:
        """Return whether an input of `INPUTS` was given."""
        return getattr(self, name) is not None

    def check(self, pipe: Any) -> None:
        """Refuse inputs that a loaded pipeline does not take, and missing ones; raises as :func:`check_use`."""
        for name in INPUTS:
            check_use(type(pipe).__name__, use_of(pipe, name), self.has(name), name)
        if self.strength is not None and "strength" not in parameters_of(pipe):
            raise ValueError(f"strength={self.strength}: {type(pipe).__name__} takes none; leave it out")

    def settings(self, pipe: Any, given: Mapping[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a clip that are those of its video: frames and rate, unless they were given.

        Args:
            pipe: pipeline. One whose call takes a number of frames makes another number than the video has.
            given: settings as the user gave them. filled: with the defaults of the model.

        Raises:
            ValueError: the video has fewer frames than are asked for.
        """
        if self.video is None or {"num_frames", "frames"} & set(parameters_of(pipe)):
            return dict(filled)
        available = len(self.video.frames)
        frames = given["frames"] or available
        if frames > available:
            raise ValueError(f"frames={frames}: the video has {available}; ask for at most as many")
        return {**filled, "frames": frames, "fps": given["fps"] or self.video.fps}

    def arguments(self, pipe: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a pipeline call, at the size of the clip.

        Raises:
            ValueError: a strength with which no step would be taken.
        """
        size = settings["width"], settings["height"]
        images = {name: fit(getattr(self, name), *size) for name in ("image", "last_image") if self.has(name)}
        if self.video is None:
            return images
        limit = None if {"num_frames", "frames"} & set(parameters_of(pipe)) else settings["frames"]
        frames = [fit(Image.fromarray(frame), *size) for frame in self.video.frames[:limit]]
        if self.strength is None:
            return {**images, "video": frames}
        if int(self.strength * settings["steps"]) < 1:
            raise ValueError(f"strength={self.strength}: takes no step of steps={settings['steps']}; raise either")
        return {**images, "video": frames, "strength": self.strength}

    def describe(self, sources: Mapping[str, Any]) -> dict[str, Any]:
        """Return the provenance of the inputs; None for those that were not given.

        Args:
            sources: as they were given, by name.
        """
        images = {name: getattr(self, name) for name in ("image", "last_image")}
        described = {name: image and describe_image(sources[name], image) for name, image in images.items()}
        video = self.video and describe_video(sources["video"], self.video)
        return {**described, "video": video, "strength": self.strength}


def parameters_of(pipe: Any) -> Mapping[str, Any]:
    """Return the parameters of a pipeline's call by name."""
    return inputs_of(pipe) if is_modular(pipe) else inspect.signature(type(pipe).__call__).parameters


def read_inputs(image: Any, last_image: Any, video: Any, strength: float | None) -> VisualInputs:
    """Read what a clip starts from.

    Args:
        image, last_image: as for :func:`vidguide.pipelines.request.images.read_image`.
        video: path, :class:`vidguide.Clip`, or frames in memory.
        strength: number in 0..1, for a video.

    Raises:
        TypeError, ValueError, OSError: one is none of these, or cannot be read, or two do not go together.
    """
    if last_image is not None and image is None:
        raise ValueError("last_image: needs the first image as well; pass image")
    if image is not None and video is not None:
        raise ValueError("video: cannot be combined with image; pass one of them")
    if strength is not None and video is None:
        raise ValueError(f"strength={strength}: needs a video to start from; pass video")
    return VisualInputs(
        image=None if image is None else read_image(image),
        last_image=None if last_image is None else read_image(last_image, "last_image"),
        video=None if video is None else read_video(video),
        strength=strength,
    )


def read_video(video: Any) -> Clip:
    """Return the frames of a video.

    Raises:
        ValueError, OSError: it is no video, or cannot be read.
    """
    source = Path(video).expanduser() if isinstance(video, str | os.PathLike) else video
    try:
        return read(source)
    except ReadError as error:
        raise ValueError(f"video: {error}") from None


def describe_video(source: Any, clip: Clip) -> dict[str, Any]:
    """Return the provenance of a video: path, if it was given as one, shape and SHA-256 of its frames."""
    path = str(Path(source).expanduser().absolute()) if isinstance(source, str | os.PathLike) else None
    digest = hashlib.sha256(np.ascontiguousarray(clip.frames).tobytes()).hexdigest()
    return {"path": path, "shape": list(clip.frames.shape), "sha256": digest}


def same_input(name: str, description: Mapping[str, Any], source: Any) -> Any:
    """Return an input of a clip, after a check of its pixels.

    Args:
        name: of the input, in `INPUTS`.
        description: in the clip's provenance.
        source: the input; None for the recorded path.

    Raises:
        ValueError: there is neither, or the pixels differ.
        OSError: it cannot be read.
    """
    source, what = description["path"] if source is None else source, INPUTS[name]
    if source is None:
        raise ValueError(f"{name}=None: must be given, since the clip's {what} was not a file")
    if name == "video":
        described = describe_video(source, read_video(source))
    else:
        described = describe_image(source, read_image(source, name))
    if described["sha256"] != description["sha256"]:
        raise ValueError(f"{name}={source!r}: must be the clip's {what}, but its pixels differ")
    return source
