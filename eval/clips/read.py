"""Read a clip from wherever it is: frames in memory, a folder of frames, a video file, an image or an animation.

Every source becomes a :class:`vidguide.Clip` of `(F, H, W, 3)` uint8 whose provenance tells how it was read: `source`,
`file_sha256`, `reader`, `codec`, `times` (seconds), and `marks`, the sentences that a reader of a score must know.
A source that cannot be read whole raises; nothing is replaced by black frames.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.clip import Clip
from vidguide.eval.clips.arrays import canonical
from vidguide.eval.clips.decord import read_decord
from vidguide.eval.clips.errors import EmptyError, MissingError
from vidguide.eval.clips.images import IMAGES, frame_files, read_folder, read_image
from vidguide.eval.clips.pyav import LOSSLESS, Decoded, read_av

VIDEOS = {".mkv", ".mp4", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv"}
MAX_BYTES = 2 << 30  # of decoded frames: 81 frames of 832x480 are 97 MB
READERS = {"av": read_av, "decord": read_decord}
DEFAULT_FPS = 8.0


def read(
    source: Any,
    *,
    fps: float | None = None,
    reader: str = "av",
    partial: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Clip:
    """Read one clip.

    Args:
        source: a path to a video, image, animation or folder of frames; or frames in memory (see
            :func:`vidguide.eval.clips.arrays.canonical`); or a Clip, given back as it is.
        fps: frames per second, where the source has none or a wrong one.
        reader: for video files, "av" or "decord".
        partial: give what can be decoded of a damaged file, marked, instead of raising.
        max_bytes: largest size of the decoded frames.

    Raises:
        ReadError: the subclass tells what is wrong. ValueError: an argument is not what it should be.
    """
    check_arguments(fps, reader)
    if isinstance(source, Clip):
        return source
    if not isinstance(source, str | os.PathLike):
        decoded = Decoded(reader="memory", codec="raw", fps=0.0)
        return as_clip("memory", decoded, fps, frames=canonical(source, max_bytes))
    return as_clip(Path(source), read_path(Path(source), READERS[reader], partial, max_bytes), fps)


def check_arguments(fps: float | None, reader: str) -> None:
    """Refuse a reader that does not exist, or a rate that cannot be."""
    if reader not in READERS:
        raise ValueError(f"reader={reader!r}: must be one of {', '.join(READERS)}")
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps!r}: must be a finite number above 0")


def read_path(path: Path, read_video: Callable[..., Decoded], partial: bool, max_bytes: int) -> Decoded:
    """Decode a folder of frames, an image or animation, or a video.

    Raises:
        ReadError: the subclass tells what is wrong.
    """
    if not path.exists():
        raise MissingError(path, "there is no such file or folder")
    if path.is_dir():
        return read_folder(path, max_bytes)
    if path.stat().st_size == 0:
        raise EmptyError(path, "is a file of no bytes; was it written to the end?")
    if path.suffix.lower() in IMAGES:
        return read_image(path, max_bytes)
    return read_video(path, partial=partial, max_bytes=max_bytes)


def as_clip(source: str | Path, decoded: Decoded, fps: float | None, frames: Any = None) -> Clip:
    """The clip of what was decoded, with how that was done."""
    marks = list(decoded.marks)
    if fps is None and not decoded.fps:
        marks.append(f"no frame rate known: {DEFAULT_FPS:g} per second assumed")
    if decoded.codec not in LOSSLESS | {"raw", ""}:
        marks.append(f"lossy ({decoded.codec}): compression changes temporal metrics; score a lossless copy")
    if fps is not None:
        decoded.times = []
    provenance = {
        "source": str(source),
        "file_sha256": file_hash(source) if isinstance(source, Path) else None,
        "reader": decoded.reader,
        "codec": decoded.codec,
        "times": decoded.times,
        "marks": marks,
    }
    return Clip(
        frames=joined(decoded) if frames is None else frames,
        fps=fps or decoded.fps or DEFAULT_FPS,
        provenance=provenance,
    )


def joined(decoded: Decoded) -> NDArray[np.uint8]:
    """The decoded frames as one array; each is let go as it is copied, so that memory never holds them twice."""
    whole = np.empty((len(decoded.frames), *decoded.frames[0].shape), np.uint8)
    for index in reversed(range(len(whole))):
        whole[index] = decoded.frames.pop()
    return whole


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of a folder's frames."""
    whole = hashlib.sha256()
    for file in frame_files(path) if path.is_dir() else [path]:
        if path.is_dir():
            whole.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()
