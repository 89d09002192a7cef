"""A clip: frames, frame rate and provenance; writes video files, contact sheets and JSON."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UPSCALED_SIZE = 384  # smaller frames are upscaled by whole numbers to about this many pixels for MP4 and GIF
SHEET_WIDTH = 1024  # contact sheets are upscaled by whole numbers to about this
SUFFIXES = {".mp4": "H.264 for viewing", ".mkv": "FFV1, lossless", ".gif": "animation", ".png": "contact sheet"}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video in memory.

    Attributes:
        frames: `(F, H, W, 3)` uint8.
        fps: frames per second.
        provenance: the settings and versions that produced it, as plain values; written as JSON next to each file.

    Raises:
        ValueError: the frames are no such array, or fps is not positive.
    """

    frames: NDArray[np.uint8]
    fps: float
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

    @property
    def sha256(self) -> str:
        """SHA-256 of the frames: equal if and only if all pixels are."""
        return hashlib.sha256(np.ascontiguousarray(self.frames).tobytes()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the clip in the suffix's format (.mp4 to view, .mkv lossless, .gif, .png contact sheet), and its JSON.

        Files are written atomically.

        Raises:
            ValueError, OSError: before anything is encoded, for an unknown suffix or a folder that cannot be written.
        """
        target = check_output(path)
        writers: dict[str, Callable[[Path], None]] = {
            ".mp4": lambda temporary: _encode(
                temporary, self.upscaled_frames(), self.fps, "libx264", "yuv420p", {"crf": "12"}
            ),
            ".mkv": lambda temporary: _encode(temporary, self.frames, self.fps, "ffv1", "bgr0", {}),
            ".gif": self._write_gif,
            ".png": self._write_sheet,
        }
        replace_whole(target, writers[target.suffix.lower()])
        self.save_json(target.with_suffix(".json"))
        return target

    def save_json(self, path: Path) -> None:
        """Write the provenance and the SHA-256 of the frames."""
        text = json.dumps({**self.provenance, "fps": self.fps, "sha256": self.sha256}, indent=2) + "\n"
        replace_whole(path, lambda temporary: temporary.write_text(text))

    def upscaled_frames(self) -> NDArray[np.uint8]:
        """Return the frames, small ones upscaled by a whole number (nearest neighbour)."""
        factor = max(UPSCALED_SIZE // max(self.frames.shape[1:3]), 1)
        return self.frames.repeat(factor, 1).repeat(factor, 2)

    def contact_sheet(self, columns: int = 7) -> NDArray[np.uint8]:
        """Return evenly spaced frames in one row, `(H, columns * W, 3)` uint8."""
        indices = np.linspace(0, len(self.frames) - 1, min(columns, len(self.frames))).round().astype(int)
        return np.concatenate(list(self.frames[indices]), axis=1)

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


def replace_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: `write` fills a temporary file in the same folder, which then replaces the target."""
    handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}-", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(path: Path, frames: NDArray[np.uint8], fps: float, codec: str, pixels: str, options: Any) -> None:
    import av

    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    encoded = even if codec == "libx264" else frames  # 4:2:0 colour needs even sides
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = encoded.shape[1], encoded.shape[2], pixels
        for frame in encoded:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
