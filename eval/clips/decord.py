"""Decoding of video files by decord, as a cross-check of PyAV."""

from pathlib import Path
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import ReadError, UnreadableError
from vidguide.eval.clips.pyav import DecodedFrames, check_integrity, check_size


def read_decord(path: Path, *, partial: bool, max_bytes: int) -> DecodedFrames:
    """Decode all frames by decord, which raises on most damage and supports neither GIF nor AV1.

    Args:
        path: video file.
        partial: return what can be decoded of a truncated file, with a warning, instead of raising.
        max_bytes: largest size of the decoded frames.

    Raises:
        ReadError: the subclass names the kind of problem. ImportError: decord is not installed.
    """
    try:
        import decord
    except ImportError:
        raise ImportError("reader='decord': not installed; pip install 'vidguide[decord]', or use av") from None
    result = DecodedFrames(reader=f"decord {decord.__version__}", codec="")
    try:
        decode(decord.VideoReader(str(path), num_threads=1), path, result, max_bytes)
    except ReadError:
        raise
    except Exception as error:  # decord raises RuntimeError, DECORDError or IndexError
        lines = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UnreadableError(path, f"decord cannot read it ({lines[0]}); try reader='av'") from None
    check_integrity(path, result, [], 0, partial)
    return result


def decode(video: Any, path: Path, result: DecodedFrames, max_bytes: int) -> None:
    """Decode every frame of a `decord.VideoReader` into the result."""
    result.fps = float(video.get_avg_fps())
    if video[0].shape[-1] != 3:  # decord returns narrow frames with their row padding
        raise UnreadableError(path, "decord cannot read frames this narrow; use reader='av'")
    check_size(path, int(np.prod(video[0].shape)) * len(video), max_bytes)
    for index in range(len(video)):
        result.add(path, video[index].asnumpy(), max_bytes)
    result.times = [float(start) for start, _ in video.get_frame_timestamp(list(range(len(video))))]
