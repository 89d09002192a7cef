"""A clip: frames, their rate, and all that made them; it writes the files that people look at."""

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

VIEWING_SIDE = 384  # viewing copies of smaller frames are scaled up by whole numbers to about this many pixels
SHEET_WIDTH = 1024  # contact sheets are scaled up by whole numbers to about this
SUFFIXES = {".mp4": "H.264 for viewing", ".mkv": "FFV1, lossless", ".gif": "animation", ".png": "contact sheet"}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video in memory.

    Attributes:
        frames: `(F, H, W, 3)` uint8.
        fps: frames per second.
        provenance: everything that made it, as plain values; written as JSON beside each file.

    Raises:
        ValueError: the frames are not such an array, or the rate is not positive.
    """

    frames: NDArray[np.uint8]
    fps: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = self.frames
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            got = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise ValueError(f"Clip(frames={got}): must be a numpy array (F, H, W, 3) of uint8")
        if not len(frames):
            raise ValueError("Clip(frames=...): has no frame")
        if not self.fps > 0:
            raise ValueError(f"Clip(fps={self.fps!r}): must be above 0")

    @property
    def sha256(self) -> str:
        """Fingerprint of the frames: equal exactly where every pixel is."""
        return hashlib.sha256(np.ascontiguousarray(self.frames).tobytes()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the clip by its suffix (.mp4 to view, .mkv lossless, .gif, .png contact sheet), and its JSON beside it.

        Each file appears whole or not at all.

        Raises:
            ValueError, OSError: before anything is encoded, when the suffix or the folder will not do.
        """
        target = check_output(path)
        writers: dict[str, Callable[[Path], None]] = {
            ".mp4": lambda temporary: _encode(temporary, self.viewing(), self.fps, "libx264", "yuv420p", {"crf": "12"}),
            ".mkv": lambda temporary: _encode(temporary, self.frames, self.fps, "ffv1", "bgr0", {}),
            ".gif": self._write_gif,
            ".png": self._write_sheet,
        }
        replace_whole(target, writers[target.suffix.lower()])
        self.save_json(target.with_suffix(".json"))
        return target

    def save_json(self, path: Path) -> None:
        """Write the provenance and the fingerprint of the frames."""
        text = json.dumps({**self.provenance, "fps": self.fps, "sha256": self.sha256}, indent=2) + "\n"
        replace_whole(path, lambda temporary: temporary.write_text(text))

    def viewing(self) -> NDArray[np.uint8]:
        """The frames, small ones scaled up by a whole number, so that a pixel stays a pixel."""
        factor = max(VIEWING_SIDE // max(self.frames.shape[1:3]), 1)
        return self.frames.repeat(factor, 1).repeat(factor, 2)

    def contact_sheet(self, columns: int = 7) -> NDArray[np.uint8]:
        """Frames spread evenly over the clip, side by side: `(H, columns * W, 3)` uint8."""
        picked = np.linspace(0, len(self.frames) - 1, min(columns, len(self.frames))).round().astype(int)
        return np.concatenate(list(self.frames[picked]), axis=1)

    def _write_gif(self, path: Path) -> None:
        import imageio.v3 as iio

        iio.imwrite(path, self.viewing(), duration=1000 / self.fps, loop=0)

    def _write_sheet(self, path: Path) -> None:
        import imageio.v3 as iio

        sheet = self.contact_sheet()
        factor = max(SHEET_WIDTH // sheet.shape[1], 1)
        iio.imwrite(path, sheet.repeat(factor, 0).repeat(factor, 1))


def check_output(path: str | os.PathLike[str]) -> Path:
    """A path that a clip can be written to; its folder is made.

    Raises:
        ValueError: a suffix that is none of ours. OSError: the folder cannot be made or written to.
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
    """Let `write` fill a temporary file beside the target, then put it in place at once."""
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
    shown = even if codec == "libx264" else frames  # 4:2:0 colour needs even sides
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = shown.shape[1], shown.shape[2], pixels
        for frame in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
