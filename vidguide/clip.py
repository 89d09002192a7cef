"""A clip: frames, audio and provenance; writes video files, contact sheets and JSON."""

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

UPSCALED_SIZE = 384  # smaller frames are upscaled by whole numbers to about this many pixels for MP4 and GIF
SHEET_WIDTH = 1024  # contact sheets are upscaled by whole numbers to about this
SUFFIXES = {
    ".mp4": "H.264 and AAC for viewing",
    ".mkv": "FFV1 and FLAC, lossless",
    ".gif": "animation, without audio",
    ".png": "contact sheet, without audio",
}
BLOCK_BYTES = 1 << 20
LAYOUTS = {1: "mono", 2: "stereo"}  # by number of channels


class Encoding(NamedTuple):
    """How a container is encoded: the video's codec, pixel format and options, and the audio's codec and bit rate."""

    video: str
    pixels: str
    options: dict[str, str]
    audio: str
    bit_rate: int | None = None


ENCODINGS = {
    ".mp4": Encoding("libx264", "yuv420p", {"crf": "12"}, "aac", 192_000),
    ".mkv": Encoding("ffv1", "bgr0", {}, "flac"),
}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video in memory, with its audio if it has any.

    Attributes:
        frames: `(F, H, W, 3)` uint8.
        fps: frames per second.
        audio: `(N, C)` int16, N samples of C channels: one (mono) or two (stereo). None without audio.
        audio_sample_rate: samples of the audio per second; None without audio.
        provenance: the settings and versions that produced it, as plain values; written as JSON next to each file.

    Raises:
        ValueError: the frames or the audio are no such array, or a rate is not positive.

    Examples:
        >>> import numpy as np
        >>> from vidguide import Clip
        >>> Clip(frames=np.zeros((13, 64, 64, 3), np.uint8), fps=8).frames.shape
        (13, 64, 64, 3)
        >>> Clip(frames=np.zeros((13, 64, 64), np.uint8), fps=8)
        Traceback (most recent call last):
        ValueError: Clip(frames=uint8 (13, 64, 64)): must be a numpy array (F, H, W, 3) of uint8
    """

    frames: NDArray[np.uint8]
    fps: float
    audio: NDArray[np.int16] | None = None
    audio_sample_rate: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = self.frames
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            actual = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise ValueError(f"Clip(frames={actual}): must be a numpy array (F, H, W, 3) of uint8")
        if not len(frames):
            raise ValueError("Clip(frames=...): has no frame")
        if not self.fps > 0:
            raise ValueError(f"Clip(fps={self.fps!r}): must be above 0")
        self._check_audio()

    def _check_audio(self) -> None:
        """Refuse audio that is no such array, and a rate that is no positive integer."""
        audio, rate = self.audio, self.audio_sample_rate
        if audio is None:
            if rate is not None:
                raise ValueError(f"Clip(audio_sample_rate={rate!r}): must be None without audio")
            return
        if not isinstance(audio, np.ndarray) or audio.dtype != np.int16 or audio.ndim != 2:
            actual = f"{audio.dtype} {audio.shape}" if isinstance(audio, np.ndarray) else type(audio).__name__
            raise ValueError(f"Clip(audio={actual}): must be a numpy array (samples, channels) of int16")
        if not len(audio) or audio.shape[1] not in LAYOUTS:
            raise ValueError(f"Clip(audio={audio.shape}): must have at least one sample, of 1 or 2 channels")
        if not isinstance(rate, int) or isinstance(rate, bool) or rate <= 0:
            raise ValueError(f"Clip(audio_sample_rate={rate!r}): must be an integer above 0")

    @property
    def sha256(self) -> str:
        """SHA-256 of the frames: equal if and only if all pixels are."""
        return _sha256(self.frames)

    @property
    def audio_sha256(self) -> str | None:
        """SHA-256 of the audio's samples, equal if and only if all of them are; None without audio."""
        return None if self.audio is None else _sha256(self.audio)

    def describe(self) -> dict[str, Any]:
        """Return the provenance, the rates, and the SHA-256 of frames and audio, as plain values."""
        frames = {**self.provenance, "fps": self.fps, "sha256": self.sha256}
        if self.audio is None:
            return frames
        return {**frames, "audio_sample_rate": self.audio_sample_rate, "audio_sha256": self.audio_sha256}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the clip in the suffix's format (.mp4 to view, .mkv lossless, .gif, .png contact sheet), and its JSON.

        Each file is complete on the disk before it replaces an earlier one, whose JSON is removed first, so that no
        clip is ever next to the JSON of another. The JSON has size and SHA-256 of the file, in `files`. Audio is AAC in
        .mp4 and FLAC in .mkv, which is exact to the sample.

        Raises:
            ValueError, OSError: before anything is encoded, for an unknown suffix, a folder that cannot be written, or
                a rate of the audio that the format does not have.

        Warns:
            UserWarning: the clip has audio, and the format has none.
        """
        target = check_output(path)
        suffix = target.suffix.lower()
        self._check_format(suffix)
        writers: dict[str, Callable[[Path], None]] = {
            ".mp4": lambda temporary: self._encode(temporary, self.upscaled_frames(), ENCODINGS[".mp4"]),
            ".mkv": lambda temporary: self._encode(temporary, self.frames, ENCODINGS[".mkv"]),
            ".gif": self._write_gif,
            ".png": self._write_sheet,
        }
        path_of_json = target.with_suffix(".json")
        others = self._files_of(path_of_json)
        replace_whole(target, writers[suffix], before=lambda: path_of_json.unlink(missing_ok=True))
        content = {**self.describe(), "files": {**others, target.name: describe_file(target)}}
        text = json.dumps(content, indent=2) + "\n"
        replace_whole(path_of_json, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return target

    def _files_of(self, path: Path) -> dict[str, Any]:
        """Return the files that a JSON lists, if it describes this very clip; other JSON is about to be replaced."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files: dict[str, Any] = content.pop("files", {})
            return files if content == json.loads(json.dumps(self.describe())) else {}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}

    def upscaled_frames(self) -> NDArray[np.uint8]:
        """Return the frames, small ones upscaled by a whole number (nearest neighbour)."""
        factor = max(UPSCALED_SIZE // max(self.frames.shape[1:3]), 1)
        return self.frames.repeat(factor, 1).repeat(factor, 2)

    def contact_sheet(self, columns: int = 7) -> NDArray[np.uint8]:
        """Return evenly spaced frames in one row, `(H, columns * W, 3)` uint8."""
        indices = np.linspace(0, len(self.frames) - 1, min(columns, len(self.frames))).round().astype(int)
        return np.concatenate(list(self.frames[indices]), axis=1)

    def _check_format(self, suffix: str) -> None:
        """Refuse a rate of the audio that a format does not have; warn where a format has no audio."""
        if self.audio is None or self.audio_sample_rate is None:
            return
        if suffix not in ENCODINGS:
            message = f"output={suffix!r}: has no audio, so that of the clip is left out; write .mp4 or .mkv to keep it"
            warnings.warn(message, stacklevel=3)
            return
        import av

        rates = av.codec.Codec(ENCODINGS[suffix].audio, "w").audio_rates or [self.audio_sample_rate]
        if self.audio_sample_rate not in rates:
            known = ", ".join(map(str, sorted(rates)))
            raise ValueError(
                f"Clip(audio_sample_rate={self.audio_sample_rate}): {suffix} has audio at {known}; write .mkv"
            )

    def _encode(self, path: Path, frames: NDArray[np.uint8], encoding: Encoding) -> None:
        import av

        # The edit list of .mp4 counts in this unit, so that it states the audio's length to the sample.
        in_mp4 = self.audio is not None and encoding is ENCODINGS[".mp4"]
        unit = {"movie_timescale": str(self.audio_sample_rate)} if in_mp4 else {}
        with av.open(str(path), "w", options=unit) as container:
            streams = [_video_packets(container, frames, self.fps, encoding)]
            if self.audio is not None and self.audio_sample_rate is not None:
                streams.append(_audio_packets(container, self.audio, self.audio_sample_rate, encoding))
            for packet in merge(*streams, key=lambda packet: packet.dts * packet.time_base):
                container.mux(packet)

    def _write_gif(self, path: Path) -> None:
        import imageio.v3 as iio

        iio.imwrite(path, self.upscaled_frames(), duration=1000 / self.fps, loop=0)

    def _write_sheet(self, path: Path) -> None:
        import imageio.v3 as iio

        sheet = self.contact_sheet()
        factor = max(SHEET_WIDTH // sheet.shape[1], 1)
        iio.imwrite(path, sheet.repeat(factor, 0).repeat(factor, 1))


def check_output(path: str | os.PathLike[str]) -> Path:
    """Validate a path that a clip is written to, and create its folder.

    Raises:
        ValueError: an unknown suffix. OSError: the folder cannot be created or written.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        known = ", ".join(f"{suffix} ({what})" for suffix, what in SUFFIXES.items())
        raise ValueError(f"output={str(path)!r}: the suffix must be one of {known}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"output={str(path)!r}: its folder cannot be made: {error}") from error
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise OSError(f"output={str(path)!r}: cannot be written; choose a file in a folder you may write to")
    return target


def replace_whole(target: Path, write: Callable[[Path], object], before: Callable[[], object] = lambda: None) -> None:
    """Write a file atomically: `write` fills a temporary file in the same folder, which then replaces the target.

    The content is on the disk before the name changes, and the name before this returns, so that after a loss of power
    the target is the earlier file or the new one.

    Args:
        target: path to write.
        write: called with the path of the temporary file.
        before: called when the temporary file is complete, before it replaces the target.
    """
    handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}-", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        _synchronize(temporary)
        before()
        temporary.replace(target)
        _synchronize(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporaries(target: Path) -> list[Path]:
    """Return the temporary files of a target that :func:`replace_whole` left behind when its process was killed."""
    pattern = re.compile(rf"\.{re.escape(target.stem)}-[a-z0-9_]{{8}}{re.escape(target.suffix)}")
    return [path for path in target.parent.glob(f".*{target.suffix}") if pattern.fullmatch(path.name)]


def describe_file(path: Any) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of a file, a path with the method `open`."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _synchronize(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; Windows cannot open folders."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _video_packets(container: Any, frames: NDArray[np.uint8], fps: float, encoding: Encoding) -> Iterator[Any]:
    """Add a video stream to a container, and return its packets in order; frames are encoded as they are read."""
    import av

    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    encoded = even if encoding.video == "libx264" else frames  # 4:2:0 colour needs even sides
    stream = container.add_stream(
        encoding.video, rate=Fraction(fps).limit_denominator(1001), options=dict(encoding.options)
    )
    stream.height, stream.width, stream.pix_fmt = encoded.shape[1], encoded.shape[2], encoding.pixels
    images = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in encoded)
    return (packet for image in chain(images, [None]) for packet in stream.encode(image))


def _audio_packets(container: Any, audio: NDArray[np.int16], rate: int, encoding: Encoding) -> Iterator[Any]:
    """Add an audio stream to a container, and return its packets in order."""
    import av

    layout = LAYOUTS[audio.shape[1]]
    stream = container.add_stream(encoding.audio, rate=rate, layout=layout)
    if encoding.bit_rate is not None:
        stream.bit_rate = encoding.bit_rate
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio).reshape(1, -1), format="s16", layout=layout)
    whole.sample_rate, whole.pts = rate, 0
    return _resampled_packets(stream, whole)


def _resampled_packets(stream: Any, whole: Any) -> Iterator[Any]:
    """Yield the packets of an audio frame, in the sample format and frame size of the stream's encoder."""
    import av

    # The encoder has a frame size once it is open; None makes the resampler return what is left of the last frame.
    stream.codec_context.open(strict=False)
    settings: dict[str, Any] = dict(format=stream.format.name, layout=stream.layout.name, rate=stream.rate)
    resampler = av.AudioResampler(**settings, frame_size=stream.codec_context.frame_size or None)
    for piece in (whole, None):
        for frame in resampler.resample(piece):
            yield from stream.encode(frame)
    yield from stream.encode(None)
