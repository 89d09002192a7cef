"""Decoding of a file's audio by PyAV, as int16."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import AudioError, CorruptError, TruncatedError
from vidguide.eval.clips.pyav import open_container

MAX_CHANNELS = 2


def read_audio(path: Path) -> tuple[NDArray[np.int16], int] | None:
    """Decode the first audio stream of a file.

    The encoder of AAC pads its last frame: .mp4 states the length, to which the samples are cut.

    Returns:
        Samples `(N, C)` int16, rounded where the file has more bits, and their number per second. None without audio.

    Raises:
        ReadError: the subclass names the kind of problem.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.channels > MAX_CHANNELS:
            raise AudioError(path, f"its audio has {stream.channels} channels, must have 1 or 2; mix them down")
        samples = decode_samples(container, stream, path)
        stated = stated_samples(container, stream)
        rate = int(stream.rate)
    if not len(samples):
        raise AudioError(path, "its audio has no sample; remove it, or read the clip without audio")
    if stated is not None and stated > len(samples):
        raise TruncatedError(path, f"truncated: {len(samples)} of {stated} audio samples; create or copy it again")
    return samples[:stated], rate


def decode_samples(container: Any, stream: Any, path: Path) -> NDArray[np.int16]:
    """Return all samples of an audio stream, `(N, C)` int16.

    Raises:
        CorruptError: the decoder failed.
    """
    import av

    stream.codec_context.options = {"err_detect": "crccheck+explode"}  # without it, damaged FLAC becomes other samples
    layout = "mono" if stream.channels == 1 else "stereo"
    to_int16 = av.AudioResampler(format="s16", layout=layout, rate=stream.rate)
    parts: list[NDArray[Any]] = [np.empty((1, 0), np.int16)]
    try:
        for frame in chain(container.decode(stream), [None]):
            parts += [part.to_ndarray() for part in to_int16.resample(frame)]
    except av.error.FFmpegError as error:
        raise CorruptError(path, f"damaged audio: {error}; create or copy it again") from None
    return np.concatenate(parts, axis=1).reshape(-1, stream.channels)


def stated_samples(container: Any, stream: Any) -> int | None:
    """Return how many samples the edit list of an .mp4 states; None for other containers, whose durations are rounded
    or estimated."""
    if "mp4" not in container.format.name or not stream.duration:
        return None
    return round(stream.duration * stream.time_base * stream.rate)
