"""Decode video files by PyAV. Truncation and damage are found, never decoded over."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import (
    CorruptError,
    EmptyError,
    FramesError,
    NoVideoError,
    ReadError,
    TooLargeError,
    TruncatedError,
    UnreadableError,
)

LOSSLESS = {"ffv1", "png", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "qtrle", "apng", "gif"}
UNEVEN = 0.01  # relative spread of frame durations beyond which the rate counts as variable; clocks tick coarsely


@dataclass(kw_only=True)
class Decoded:
    """Frames `(H, W, 3)` uint8 in order, times in seconds, rate per second, and marks for whoever reads a score."""

    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    fps: float = 0.0
    reader: str = ""
    codec: str = ""
    marks: list[str] = field(default_factory=list)

    def add(self, path: Path, frame: NDArray[np.uint8], max_bytes: int) -> None:
        """Keep one more frame, within the memory and of the same size as the others."""
        if self.frames and frame.shape != self.frames[0].shape:
            raise FramesError(path, f"the picture changes from {self.frames[0].shape} to {frame.shape}; cut it there")
        check_bytes(path, frame.nbytes * (len(self.frames) + 1), max_bytes)
        self.frames.append(frame)


def check_bytes(path: Path, size: int, max_bytes: int) -> None:
    """Refuse a clip that would not fit."""
    if size > max_bytes:
        trouble = (
            f"needs {size >> 20} MiB of frames, allowed are {max_bytes >> 20}; shorten it or raise max_bytes (--memory)"
        )
        raise TooLargeError(path, trouble)


def read_av(path: Path, *, partial: bool, max_bytes: int) -> Decoded:
    """All frames by PyAV.

    Slice threading, because with frame threading FFmpeg hides that a file breaks off. With `partial`, what could
    be decoded of a damaged file is given, marked.

    Raises:
        ReadError: of the kind that tells what is wrong.
    """
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError(path, f"is not a video that PyAV opens ({error}); is it whole?") from None
    with container:
        moving = [one for one in container.streams.video if not one.disposition & av.stream.Disposition.attached_pic]
        if not moving:
            kinds = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
            raise NoVideoError(path, f"has no moving picture, only {kinds}")
        stream = moving[0]
        if stream.codec_context is None:
            raise UnreadableError(path, "has a picture track whose kind cannot be told; is the file whole?")
        stream.codec_context.thread_type = "SLICE"
        result = Decoded(reader=f"av {av.__version__}", codec=stream.codec_context.name)
        rate = stream.average_rate or stream.guessed_rate
        result.fps = float(rate) if rate else 0.0
        area = stream.codec_context.width * stream.codec_context.height * 3
        check_bytes(path, area * max(stream.frames, 1), max_bytes)
        with complaints() as said:
            troubles = decode(container, stream, path, result, max_bytes)
        troubles += said if result.codec in LOSSLESS else []
        missing = promised(container, stream, result, troubles)
    settle(path, result, troubles, missing, partial)
    if said and not troubles:
        result.marks.append(f"the decoder complained: {'; '.join(said[:3])}")
    return result


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What FFmpeg's decoders say of errors meanwhile, filled at the end.

    Some replace what is damaged by the frame before and tell of it nowhere else: FFV1 does so with a slice whose
    checksum is wrong.
    """
    import av.logging

    said: list[str] = []
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as logs:
            yield said
        said += [f"{who}: {what.strip()}" for _, who, what in logs if not what.startswith("at ")]
    finally:
        av.logging.set_level(before)


def decode(container: Any, stream: Any, path: Path, result: Decoded, max_bytes: int) -> list[str]:
    """Decode packet by packet into the result; returns what went wrong on the way."""
    import av

    troubles: list[str] = []
    try:
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError as error:
                troubles.append(f"frame {len(result.frames)}: {error}")
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    troubles.append(f"frame {len(result.frames)}: flagged as damaged by the decoder")
                result.add(path, upright(frame, result), max_bytes)
                result.times.append(float(frame.time) if frame.time is not None else -1.0)
    except av.error.FFmpegError as error:  # the container itself breaks off
        troubles.append(f"after frame {len(result.frames)}: {error}")
    return troubles


def upright(frame: Any, result: Decoded) -> NDArray[np.uint8]:
    """A decoded frame as `(H, W, 3)` uint8, turned as its file says that it should be shown."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turn = round(frame.rotation) if frame.rotation else 0
    if turn and turn % 90 == 0:
        pixels = np.ascontiguousarray(np.rot90(pixels, turn // 90))
    if turn and not result.frames:
        done = "turned" if turn % 90 == 0 else "left unturned, as it is no quarter turn"
        result.marks.append(f"rotation {turn} degrees in the file: {done}")
    return pixels


def promised(container: Any, stream: Any, result: Decoded, troubles: list[str]) -> int:
    """How many frames the file promises beyond those decoded: by its count, or where it has none by its duration.

    Frames that an edit list hides are counted by the file, yet not promised: then the times are whole.
    """
    late = 0
    seconds = duration(container, stream)
    timed = bool(seconds and result.fps and result.times and min(result.times) >= 0)
    if timed and seconds:
        shown = result.times[-1] - result.times[0] + 1 / result.fps
        late = max(round((seconds - shown) * result.fps), 0)
    missing = int(stream.frames) - len(result.frames) if stream.frames else late
    steps = np.diff(result.times)
    even = len(steps) > 0 and bool((steps < 1.5 * np.median(steps)).all())
    if timed and even and missing > 0 and not (late or troubles):
        result.marks.append(f"an edit list hides {missing} frames of the file")
        return 0
    return missing


def duration(container: Any, stream: Any) -> float | None:
    """Seconds of the picture track as its file states them; None where it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    clock = stream.metadata.get("DURATION", "").split(":")  # Matroska
    if len(clock) == 3 and all(part.replace(".", "", 1).isdigit() for part in clock):
        return int(clock[0]) * 3600 + int(clock[1]) * 60 + float(clock[2])
    alone = len(container.streams) == 1
    return container.duration / 1e6 if alone and container.duration else None


def settle(path: Path, result: Decoded, troubles: list[str], missing: int, partial: bool) -> None:
    """Refuse or mark what is damaged or cut short, and mark an uneven rate."""
    error: ReadError | None = None
    if not result.frames:
        raise (CorruptError if troubles else EmptyError)(path, "has no frame that can be decoded")
    if missing > 0:
        whole = len(result.frames) + missing
        error = TruncatedError(path, f"breaks off: {len(result.frames)} of {whole} frames; make or copy it again")
    elif troubles:
        error = CorruptError(path, f"is damaged: {'; '.join(troubles[:3])}; make or copy it again")
    if error and not partial:
        raise error
    if error:
        result.marks.append(f"damaged, read in part: {error}")
    steps = np.diff(result.times)
    if len(steps) and steps.min() > 0 and np.ptp(steps) > max(UNEVEN * float(np.median(steps)), 0.0015):
        result.marks.append(f"variable frame rate: {steps.min():.4f} to {steps.max():.4f} s per frame")
        result.fps = float(len(steps) / (result.times[-1] - result.times[0]))
    elif len(steps) and steps.min() <= 0:
        result.marks.append("frame times do not increase")
        result.times = []
