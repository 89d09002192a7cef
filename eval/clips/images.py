"""Decode images: stills, animations, and folders of one image per frame."""

from pathlib import Path
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import CorruptError, EmptyError, FramesError, ReadError, TruncatedError, UnreadableError
from vidguide.eval.clips.pyav import Decoded, check_bytes

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng"}
LOSSY_IMAGES = {".jpg", ".jpeg"}
WEBP_PARTS = {b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF", b"XMP "}


def read_image(path: Path, max_bytes: int) -> Decoded:
    """A still (one frame) or an animation (GIF, WebP, APNG), by imageio.

    Raises:
        ReadError: it is no image, or is cut short.
    """
    import imageio
    import imageio.v3 as iio

    check_structure(path)
    codec = "lossy image" if path.suffix.lower() in LOSSY_IMAGES else "png"
    result = Decoded(reader=f"imageio {imageio.__version__}", codec=codec)
    try:
        opened: Any = iio.imopen(path, "r", plugin="pillow")
        with opened as file:
            for index, frame in enumerate(file.iter(mode="RGB")):
                result.add(path, np.asarray(frame, np.uint8), max_bytes)
                result.times.append(milliseconds(file.metadata(index=index)) / 1000)
    except ReadError:
        raise
    except Exception as error:  # each of Pillow's formats raises kinds of its own on damage
        raise UnreadableError(path, f"is not an image that can be read whole ({error})") from None
    durations, result.times = result.times, [0.0, *np.cumsum(result.times)[:-1].tolist()]
    if not min(durations) > 0:
        result.times = []
    elif len(durations) > 1:
        result.fps = len(durations) / sum(durations)
        if max(durations) > min(durations):
            result.marks.append(f"variable frame rate: {min(durations):g} to {max(durations):g} s per frame")
    if path.suffix.lower() == ".gif":
        result.marks.append("a palette of 256 colours: fine tones are lost")
    return result


def check_structure(path: Path) -> None:
    """Refuse an animation whose damage would read as a shorter clip.

    A GIF without its end mark was cut between two frames; a WebP with a part of unknown name lost one.
    """
    data = path.read_bytes()
    if data[:4] == b"GIF8" and not data.endswith(b";"):
        raise TruncatedError(path, "breaks off: a GIF ends with ';', this one does not; make or copy it again")
    place = 12
    while data[:4] == b"RIFF" and data[8:12] == b"WEBP" and place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name not in WEBP_PARTS:
            raise CorruptError(path, f"is damaged: a WebP has no part {name!r}; make or copy it again")
        place += 8 + size + size % 2


def milliseconds(metadata: dict[str, Any]) -> float:
    """How long an image of an animation is shown; 0 where it does not say."""
    value = metadata.get("duration", 0)
    return float(value) if isinstance(value, int | float) else 0.0


def frame_files(folder: Path) -> list[Path]:
    """The images in a folder, by name, numbers in names by their value."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith(".")]
    return sorted(files, key=lambda path: [(int(p), "") if p.isdigit() else (-1, p) for p in split_digits(path.stem)])


def split_digits(name: str) -> list[str]:
    """`frame12b` to `frame`, `12`, `b`."""
    parts: list[str] = []
    for letter in name:
        if parts and parts[-1][-1].isdecimal() == letter.isdecimal():
            parts[-1] += letter
        else:
            parts.append(letter)
    return parts


def read_folder(folder: Path, max_bytes: int) -> Decoded:
    """A folder of one image per frame.

    Raises:
        ReadError: no image in it, one that cannot be read, sizes that differ, or a number left out.
    """
    files = frame_files(folder)
    if not files:
        raise EmptyError(folder, f"has no frame; frames are images ({', '.join(sorted(IMAGES))})")
    numbers = [int(path.stem) for path in files if path.stem.isdecimal()]
    if len(numbers) == len(files) and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        gap = next(n for n in range(numbers[0], numbers[-1]) if n not in set(numbers))
        raise FramesError(folder, f"frame {gap} is missing between {numbers[0]} and {numbers[-1]}")
    result = Decoded(codec="png")
    for path in files:
        still = read_image(path, max_bytes)
        if len(still.frames) != 1:
            raise FramesError(path, "is an animation within a folder of frames")
        check_bytes(folder, still.frames[0].nbytes * len(files), max_bytes)
        result.add(path, still.frames[0], max_bytes)
        result.reader, result.codec = still.reader, max(result.codec, still.codec, key=lambda codec: codec != "png")
    return result
