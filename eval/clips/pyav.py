"""Decoding of video files by PyAV. Truncation and damage raise an error instead of being concealed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.containers import (
    LENGTH_WARNING,
    UNSTATED_LENGTH,
    count_empty_avi_chunks,
    cut_packet,
)
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
# Relative spread of frame durations above which the rate is variable; the clocks of containers are coarse.
RATE_TOLERANCE = 0.01


@dataclass(kw_only=True)
class DecodedFrames:
    """Frames of a clip as they are decoded.

    Attributes:
        frames: `(H, W, 3)` uint8 arrays in order.
        times: start of each frame in seconds; empty if unknown.
        fps: frames per second; 0 if unknown.
        reader, codec: decoder with its version, and codec of the file.
        warnings: sentences that a reader of the scores must know; stored as `marks` in provenance and results.
    """

    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    fps: float = 0.0
    reader: str = ""
    codec: str = ""
    warnings: list[str] = field(default_factory=list)

    def add(self, path: Path, frame: NDArray[np.uint8], max_bytes: int) -> None:
        """Append a frame; refuse one of another size, or one that exceeds the memory limit."""
        if self.frames and frame.shape != self.frames[0].shape:
            raise FramesError(path, f"frame size changes from {self.frames[0].shape} to {frame.shape}; cut it there")
        check_size(path, frame.nbytes * (len(self.frames) + 1), max_bytes)
        self.frames.append(frame)


def check_size(path: Path, size: int, max_bytes: int) -> None:
    """Refuse a clip whose frames exceed the memory limit."""
    if size > max_bytes:
        needs = f"needs {size >> 20} MiB of frames, the limit is {max_bytes >> 20}"
        raise TooLargeError(path, f"{needs}; shorten it or raise max_bytes (--memory)")


def read_av(path: Path, *, partial: bool, max_bytes: int) -> DecodedFrames:
    """Decode all frames by PyAV.

    Slice threading is used, because with frame threading FFmpeg does not report a truncated file.

    Args:
        path: video file.
        partial: return what can be decoded of a damaged file, with a warning, instead of raising.
        max_bytes: largest size of the decoded frames.

    Raises:
        ReadError: the subclass names the kind of problem.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_type = "SLICE"
        result = describe_stream(stream)
        area = stream.codec_context.width * stream.codec_context.height * 3
        check_size(path, area * max(stream.frames, 1), max_bytes)
        with capture_decoder_errors() as log:
            problems = decode(container, stream, path, result, max_bytes)
        problems += log if result.codec in LOSSLESS else []
        missing = count_missing(container, stream, path, result, problems)
        if container.format.name in UNSTATED_LENGTH:
            result.warnings.append(LENGTH_WARNING)
        cut = cut_packet(path) if container.format.name == "mpegts" else ""
    check_integrity(path, result, problems, missing, partial, cut)
    if log and not problems:
        result.warnings.append(f"the decoder reported: {'; '.join(log[:3])}")
    return result


def open_container(path: Path) -> Any:
    """Open a media file.

    Raises:
        UnreadableError: FFmpeg cannot open it.
    """
    import av

    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError(path, f"not a video that PyAV can open ({error}); is it complete?") from None


def video_stream(container: Any, path: Path) -> Any:
    """Return the first video stream that is not a cover picture.

    Raises:
        NoVideoError: there is none. UnreadableError: FFmpeg does not recognise its codec.
    """
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NoVideoError(path, f"no video stream, only {kinds}")
    if streams[0].codec_context is None:
        raise UnreadableError(path, "video stream of an unknown codec; is the file complete?")
    return streams[0]


def describe_stream(stream: Any) -> DecodedFrames:
    """Return an empty result with reader, codec and frame rate of a stream."""
    import av

    rate = stream.average_rate or stream.guessed_rate
    fps = float(rate) if rate else 0.0
    return DecodedFrames(reader=f"av {av.__version__}", codec=stream.codec_context.name, fps=fps)


@contextmanager
def capture_decoder_errors() -> Iterator[list[str]]:
    """Collect the errors that FFmpeg's decoders log inside the block; the list is filled on exit.

    Some decoders replace damaged data by the previous frame and report that only in the log: FFV1 does so with a slice
    of wrong checksum.
    """
    import av.logging

    messages: list[str] = []
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as logs:
            yield messages
        messages += [f"{source}: {text.strip()}" for _, source, text in logs if not text.startswith("at ")]
    finally:
        av.logging.set_level(level)


def decode(container: Any, stream: Any, path: Path, result: DecodedFrames, max_bytes: int) -> list[str]:
    """Decode packet by packet into the result, and return the problems met."""
    import av

    problems: list[str] = []
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                problems.append(f"frame {len(result.frames)}: {error}")
                continue
            for frame in frames:
                if frame.is_corrupt:
                    problems.append(f"frame {len(result.frames)}: flagged as damaged by the decoder")
                result.add(path, rotate(frame, result), max_bytes)
                result.times.append(float(frame.time) if frame.time is not None else -1.0)
    except av.error.FFmpegError as error:  # the container itself is truncated
        problems.append(f"after frame {len(result.frames)}: {error}")
    return problems


def rotate(frame: Any, result: DecodedFrames) -> NDArray[np.uint8]:
    """Return a decoded frame as `(H, W, 3)` uint8, rotated by the angle that the file states."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    degrees = round(frame.rotation) if frame.rotation else 0
    if degrees and degrees % 90 == 0:
        pixels = np.ascontiguousarray(np.rot90(pixels, degrees // 90))
    if degrees and not result.frames:
        action = "applied" if degrees % 90 == 0 else "ignored, not a multiple of 90"
        result.warnings.append(f"rotation {degrees} degrees in the file: {action}")
    return pixels


def count_missing(container: Any, stream: Any, path: Path, result: DecodedFrames, problems: list[str]) -> int:
    """Return how many frames the file declares beyond those decoded, by frame count, else by duration.

    Frames that an edit list hides are in the frame count, but are not missing: the decoded times then cover the
    whole duration. Nor are the empty chunks of an AVI file, which repeat a frame.
    """
    by_duration = missing_by_duration(container, stream, result)
    missing = int(stream.frames) - len(result.frames) if stream.frames else by_duration or 0
    if missing > 0 and container.format.name == "avi":
        missing -= count_empty_avi_chunks(path, stream.index)
    steps = np.diff(result.times)
    regular = len(steps) > 0 and bool((steps < 1.5 * np.median(steps)).all())
    has_edit_list = "mov" in container.format.name
    if has_edit_list and by_duration == 0 and regular and missing > 0 and not problems:
        result.warnings.append(f"an edit list hides {missing} frames of the file")
        return 0
    return missing


def missing_by_duration(container: Any, stream: Any, result: DecodedFrames) -> int | None:
    """Return how many frames are missing from the stated duration; None where times or duration are unknown."""
    seconds = stated_duration(container, stream)
    if not (seconds and result.fps and result.times and min(result.times) >= 0):
        return None
    decoded = result.times[-1] - result.times[0] + 1 / result.fps
    return max(round((seconds - decoded) * result.fps), 0)


def stated_duration(container: Any, stream: Any) -> float | None:
    """Return the duration of the video stream in seconds, as the file states it; None where it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    clock = stream.metadata.get("DURATION", "").split(":")  # Matroska
    if len(clock) == 3 and all(part.replace(".", "", 1).isdigit() for part in clock):
        return int(clock[0]) * 3600 + int(clock[1]) * 60 + float(clock[2])
    only_stream = len(container.streams) == 1
    return container.duration / 1e6 if only_stream and container.duration else None


def check_integrity(
    path: Path, result: DecodedFrames, problems: list[str], missing: int, partial: bool, cut: str = ""
) -> None:
    """Refuse a damaged or truncated clip (with `partial`: add a warning), and check its frame times.

    Args:
        path: of the clip.
        result: decoded frames.
        problems: of the decoder.
        missing: number of frames.
        partial: whether damage is a warning.
        cut: how the file is truncated apart from missing frames; empty if it is not.
    """
    if not result.frames:
        raise (CorruptError if problems else EmptyError)(path, "no frame can be decoded")
    error = damage(path, len(result.frames), problems, missing, cut)
    if error and not partial:
        raise error
    if error:
        result.warnings.append(f"damaged, read in part: {error}")
    check_times(result)


def damage(path: Path, frames: int, problems: list[str], missing: int, cut: str) -> ReadError | None:
    """Return the error that describes the damage of a file; None where there is none."""
    if missing > 0 or cut:
        counts = f"{frames} of {frames + missing} frames" if missing > 0 else cut
        return TruncatedError(path, f"truncated: {counts}; create or copy it again")
    if problems:
        return CorruptError(path, f"damaged: {'; '.join(problems[:3])}; create or copy it again")
    return None


def check_times(result: DecodedFrames) -> None:
    """Warn of a variable frame rate and set its mean; drop frame times that do not increase."""
    steps = np.diff(result.times)
    if not len(steps):
        return
    if steps.min() <= 0:
        result.warnings.append("frame times do not increase")
        result.times = []
    elif np.ptp(steps) > max(RATE_TOLERANCE * float(np.median(steps)), 0.0015):
        result.warnings.append(f"variable frame rate: {steps.min():.4f} to {steps.max():.4f} s per frame")
        result.fps = float(len(steps) / (result.times[-1] - result.times[0]))
