"""Decoding of images: still images, animations, and folders with one image per frame."""

from pathlib import Path
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import CorruptError, EmptyError, FramesError, ReadError, TruncatedError, UnreadableError
from vidguide.eval.clips.pyav import DecodedFrames, check_size

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng"}
LOSSY_IMAGES = {".jpg", ".jpeg"}
WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF", b"XMP "}


def read_image(path: Path, max_bytes: int) -> DecodedFrames:
    """Decode a still image (one frame) or an animation (GIF, WebP, APNG) by imageio.

    Raises:
        ReadError: the file is not an image, or it is truncated.
    """
    import imageio

    check_structure(path)
    codec = "lossy image" if path.suffix.lower() in LOSSY_IMAGES else "png"
    result = DecodedFrames(reader=f"imageio {imageio.__version__}", codec=codec)
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
    import imageio.v3 as iio

    durations = []
    opened: Any = iio.imopen(path, "r", plugin="pillow")
    with opened as file:
        for index, frame in enumerate(file.iter(mode="RGB")):
            result.add(path, np.asarray(frame, np.uint8), max_bytes)
            durations.append(duration_ms(file.metadata(index=index)) / 1000)
    return durations


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


def duration_ms(metadata: dict[str, Any]) -> float:
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
    """Refuse a gap in the frame numbers, where all names are numbers."""
    numbers = [int(path.stem) for path in files if path.stem.isdecimal()]
    if len(numbers) == len(files) and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        gap = next(n for n in range(numbers[0], numbers[-1]) if n not in set(numbers))
        raise FramesError(folder, f"frame {gap} is missing between {numbers[0]} and {numbers[-1]}")
