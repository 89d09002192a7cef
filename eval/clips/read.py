"""Read a clip from any source: frames in memory, a folder of frames, a video file, an image or an animation.

The result is a :class:`vidguide.Clip` of `(F, H, W, 3)` uint8. Its provenance states how it was read: `source`,
`file_sha256`, `reader`, `codec`, `times` (seconds) and `marks`, a list of warnings for readers of the scores.
A source that cannot be read completely raises an error; frames are never replaced.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.clip import Clip
from vidguide.eval.clips.arrays import convert_frames
from vidguide.eval.clips.audio import read_audio
from vidguide.eval.clips.decord import read_decord
from vidguide.eval.clips.errors import EmptyError, MissingError
from vidguide.eval.clips.images import IMAGES, frame_files, read_folder, read_image
from vidguide.eval.clips.pyav import LOSSLESS, DecodedFrames, read_av
from vidguide.eval.hashing import read_blocks, sha256

VIDEOS = {".mkv", ".mp4", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv"}
MAX_BYTES = 2 << 30  # of decoded frames; 81 frames of 832x480 are 97 MB
READERS = {"av": read_av, "decord": read_decord}
DEFAULT_FPS = 8.0


def read(
    source: Any,
    *,
    fps: float | None = None,
    reader: str = "av",
    partial: bool = False,
    max_bytes: int = MAX_BYTES,
    audio: bool = False,
) -> Clip:
    """Read one clip.

    Args:
        source: a path to a video, image, animation or folder of frames; or frames in memory (see
            :func:`vidguide.eval.clips.arrays.convert_frames`); or a Clip, which is returned unchanged.
        fps: frames per second; overrides the rate of the source.
        reader: decoder of video files, "av" or "decord".
        partial: return what can be decoded of a damaged file, with a warning, instead of raising.
        max_bytes: largest size of the decoded frames.
        audio: whether to read the audio of a video file as well, which the metrics do not use.

    Raises:
        ReadError: the subclass names the kind of problem. ValueError: an invalid argument.
    """
    check_arguments(fps, reader)
    if isinstance(source, Clip):
        return source
    if not isinstance(source, str | os.PathLike):
        decoded = DecodedFrames(reader="memory", codec="raw", fps=0.0)
        return make_clip("memory", decoded, fps, frames=convert_frames(source, max_bytes))
    path = Path(source)
    clip = make_clip(path, decode(path, READERS[reader], partial, max_bytes), fps)
    sound = read_audio(path) if audio and path.is_file() and path.suffix.lower() in VIDEOS else None
    return clip if sound is None else replace(clip, audio=sound[0], audio_sample_rate=sound[1])


def check_arguments(fps: float | None, reader: str) -> None:
    """Refuse an unknown reader and an invalid frame rate."""
    if reader not in READERS:
        raise ValueError(f"reader={reader!r}: must be one of {', '.join(READERS)}")
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps!r}: must be a finite number above 0")


def decode(path: Path, read_video: Callable[..., DecodedFrames], partial: bool, max_bytes: int) -> DecodedFrames:
    """Decode a folder of frames, an image or animation, or a video.

    Raises:
        ReadError: the subclass names the kind of problem.
    """
    if not path.exists():
        raise MissingError(path, "no such file or folder")
    if path.is_dir():
        return read_folder(path, max_bytes)
    if path.stat().st_size == 0:
        raise EmptyError(path, "the file has zero bytes; was it written completely?")
    if path.suffix.lower() in IMAGES:
        return read_image(path, max_bytes)
    return read_video(path, partial=partial, max_bytes=max_bytes)


def make_clip(source: str | Path, decoded: DecodedFrames, fps: float | None, frames: Any = None) -> Clip:
    """Return the clip of decoded frames, with its provenance."""
    provenance = {
        "source": str(source),
        "file_sha256": file_hash(source) if isinstance(source, Path) else None,
        "reader": decoded.reader,
        "codec": decoded.codec,
        "times": decoded.times if fps is None else [],
        "marks": decoded.warnings + source_warnings(decoded, fps),
    }
    return Clip(
        frames=stack_frames(decoded) if frames is None else frames,
        fps=fps or decoded.fps or DEFAULT_FPS,
        provenance=provenance,
    )


def source_warnings(decoded: DecodedFrames, fps: float | None) -> list[str]:
    """Return warnings about an unknown frame rate and a lossy codec."""
    warnings = []
    if fps is None and not decoded.fps:
        warnings.append(f"unknown frame rate: {DEFAULT_FPS:g} per second assumed")
    if decoded.codec not in LOSSLESS | {"raw", ""}:
        warnings.append(f"lossy ({decoded.codec}): compression changes temporal metrics; score a lossless copy")
    return warnings


def stack_frames(decoded: DecodedFrames) -> NDArray[np.uint8]:
    """Return the decoded frames as one array; each is freed once copied, so that memory never holds them twice."""
    clip = np.empty((len(decoded.frames), *decoded.frames[0].shape), np.uint8)
    for index in reversed(range(len(clip))):
        clip[index] = decoded.frames.pop()
    return clip


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the names and bytes of a folder's frames."""
    return sha256(folder_blocks(path) if path.is_dir() else read_blocks(path))


def folder_blocks(folder: Path) -> Iterator[bytes]:
    """Yield the name and the bytes of each frame in a folder."""
    for file in frame_files(folder):
        yield file.name.encode() + b"\0"
        yield from read_blocks(file)
