"""Decoding of images: still images, animations, and folders with one image per frame."""

import itertools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import (
    CorruptError,
    EmptyError,
    FramesError,
    ReadError,
    TooLargeError,
    TruncatedError,
    UnreadableError,
)
from vidguide.eval.clips.pyav import DecodedFrames, check_size

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng"}
LOSSY_IMAGES = {".jpg", ".jpeg"}
NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)(?P<after>[^0-9]*)", re.DOTALL)
WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF", b"XMP "}


def read_image(path: Path, max_bytes: int) -> DecodedFrames:
    """Decode a still image (one frame) or an animation (GIF, WebP, APNG) by Pillow.

    Raises:
        ReadError: the file is not an image, or it is truncated, transparent or larger than the limit.
    """
    import PIL

    check_structure(path)
    codec = "lossy image" if path.suffix.lower() in LOSSY_IMAGES else "png"
    result = DecodedFrames(reader=f"pillow {PIL.__version__}", codec=codec)
    try:
        durations = decode(path, result, max_bytes)
    except ReadError:
        raise
    except Exception as error:  # each image format of Pillow raises its own kinds of error
        raise UnreadableError(path, f"not an image that can be read to the end ({error})") from None
    set_times(result, durations)
    if path.suffix.lower() == ".gif":
        result.warnings.append("palette of 256 colours: fine gradations are lost")
    return result


def decode(path: Path, result: DecodedFrames, max_bytes: int) -> list[float]:
    """Decode every frame into the result, and return how long each is shown, in seconds."""
    durations = []
    with open_image(path) as image:
        check_size(path, image.width * image.height * 3, max_bytes)
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            result.add(path, to_rgb(path, image), max_bytes)
            durations.append(duration_ms(image.info) / 1000)
    return durations


def open_image(path: Path) -> "Image":
    """Open an image. Pillow's warning of many pixels is replaced by the memory limit.

    Raises:
        TooLargeError: Pillow refuses so many pixels.
    """
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        try:
            return PIL.Image.open(path)
        except PIL.Image.DecompressionBombError as error:
            raise TooLargeError(path, f"{error}; scale it down") from None


def to_rgb(path: Path, image: "Image") -> NDArray[np.uint8]:
    """Return an image as `(H, W, 3)` uint8.

    Raises:
        FramesError: the image has transparent pixels, or more than 16 bits per channel.
    """
    if image.mode.startswith("I;16"):
        grey = np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise FramesError(path, f"pixels of 32 bits (mode {image.mode}); save them with 8 or 16 bits per channel")
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        if (rgba[..., 3] != 255).any():
            raise FramesError(path, "transparent pixels; composite them over a background first")
    return np.asarray(image.convert("RGB"))


def set_times(result: DecodedFrames, durations: list[float]) -> None:
    """Set frame times and rate from the durations of the frames; leave them unset where a duration is unknown."""
    if not min(durations) > 0:
        return
    result.times = [0.0, *np.cumsum(durations)[:-1].tolist()]
    if len(durations) > 1:
        result.fps = len(durations) / sum(durations)
        if max(durations) > min(durations):
            result.warnings.append(f"variable frame rate: {min(durations):g} to {max(durations):g} s per frame")


def check_structure(path: Path) -> None:
    """Refuse an animation whose damage would read as a shorter clip.

    A GIF without its trailer was cut between two frames; a WebP with an unknown chunk lost a known one.
    """
    data = path.read_bytes()
    if data[:4] == b"GIF8" and not data.endswith(b";"):
        raise TruncatedError(path, "truncated: a GIF must end with ';'; create or copy it again")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        check_webp_chunks(path, data)


def check_webp_chunks(path: Path, data: bytes) -> None:
    """Refuse a WebP file with a chunk that the format does not define."""
    position = 12
    while position + 8 <= len(data):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name not in WEBP_CHUNKS:
            raise CorruptError(path, f"damaged: WebP has no chunk {name!r}; create or copy it again")
        position += 8 + size + size % 2


def duration_ms(metadata: Mapping[Any, Any]) -> float:
    """Return how long an image of an animation is shown, in milliseconds; 0 where it is not stated."""
    value = metadata.get("duration", 0)
    return float(value) if isinstance(value, int | float) else 0.0


def frame_files(folder: Path) -> list[Path]:
    """Return the images in a folder in natural order of their names: frame 9 before frame 10."""
    from natsort import natsorted

    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith(".")]
    return natsorted(files, key=lambda path: path.stem)


def read_folder(folder: Path, max_bytes: int) -> DecodedFrames:
    """Decode a folder with one image per frame.

    Raises:
        ReadError: there is no image, one cannot be read, sizes differ, or a frame number is missing.
    """
    files = frame_files(folder)
    if not files:
        raise EmptyError(folder, f"no frame; frames are images ({', '.join(sorted(IMAGES))})")
    check_numbers(folder, files)
    result = DecodedFrames(codec="png")
    for path in files:
        image = read_image(path, max_bytes)
        if len(image.frames) != 1:
            raise FramesError(path, "is an animation; a folder of frames must contain still images")
        check_size(folder, image.frames[0].nbytes * len(files), max_bytes)
        result.add(path, image.frames[0], max_bytes)
        result.reader, result.codec = image.reader, max(result.codec, image.codec, key=lambda codec: codec != "png")
    return result


def check_numbers(folder: Path, files: list[Path]) -> None:
    """Refuse a gap or a repetition in the frame numbers, where all names are equal but for a number."""
    matches = [NUMBERED.fullmatch(path.stem) for path in files]
    if len({match and (match["before"], match["after"]) for match in matches}) != 1 or not matches[0]:
        return
    numbers = sorted(int(match["number"]) for match in matches if match)
    for previous, number in itertools.pairwise(numbers):
        if number == previous:
            names = ", ".join(
                path.name
                for path, match in zip(files, matches, strict=True)
                if match and int(match["number"]) == number
            )
            raise FramesError(folder, f"frame {number} occurs several times ({names}); remove all but one")
        if number > previous + 1:
            raise FramesError(folder, f"frame {previous + 1} is missing between {numbers[0]} and {numbers[-1]}")
