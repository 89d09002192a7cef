"""Decode video files by decord, where asked: a second opinion on what PyAV reads."""

from pathlib import Path

import numpy as np

from vidguide.eval.clips.errors import ReadError, UnreadableError
from vidguide.eval.clips.pyav import Decoded, check_bytes, settle


def read_decord(path: Path, *, partial: bool, max_bytes: int) -> Decoded:
    """All frames by decord, a second opinion: it raises on most damage and knows no GIF or AV1.

    Raises:
        ReadError: of the kind that tells what is wrong. ImportError: decord is not installed.
    """
    try:
        import decord
    except ImportError:
        raise ImportError("reader='decord': is not installed; pip install 'vidguide[decord]', or leave av") from None
    result = Decoded(reader=f"decord {decord.__version__}", codec="")
    try:
        video = decord.VideoReader(str(path), num_threads=1)
        result.fps = float(video.get_avg_fps())
        if video[0].shape[-1] != 3:  # narrow frames come with the padding of their rows
            raise UnreadableError(path, "decord cannot read frames this narrow; leave reader='av'")
        check_bytes(path, int(np.prod(video[0].shape)) * len(video), max_bytes)
        for index in range(len(video)):
            result.add(path, video[index].asnumpy(), max_bytes)
        result.times = [float(start) for start, _ in video.get_frame_timestamp(list(range(len(video))))]
    except ReadError:
        raise
    except Exception as error:  # decord raises RuntimeError, DECORDError and IndexError alike
        trouble = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UnreadableError(path, f"decord cannot read it ({trouble[0]}); try reader='av'") from None
    settle(path, result, [], 0, partial)
    return result
