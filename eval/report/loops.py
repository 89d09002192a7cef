"""Loops of clips for the report: one or several variants next to each other in one small MP4, as a data URI.

All variants are in one file, so that they are always at the same frame. A bar below them shows the time and marks the
worst frame; in that frame the variant that has it is framed.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

TILE = 224  # longer side of a variant, pixels
GAP, BAR, BORDER = 16, 8, 3  # between variants, least height of the bar, width of the frame around the worst, pixels
BLOCK = 16  # pixels of a macroblock of H.264, of which all sides are multiples
MAX_FRAMES = 97  # of a loop; of longer clips those around the worst frame
MAX_BYTES = 1 << 20  # of a loop
TOTAL_BYTES = 12 << 20  # of all loops of a report
QUALITIES = (23, 30, 37)  # CRF of H.264, tried in this order
GREY, TIME, MARK = (128, 128, 128), (60, 110, 200), (200, 40, 40)


@dataclass(frozen=True)
class Worst:
    """The worst frame: its index, and the index of the variant that has it."""

    frame: int
    variant: int


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Variants of a clip next to each other.

    Attributes:
        video: data URI of the MP4.
        still: data URI of its worst frame as a JPEG; of the middle one if none is marked.
        size: of the video in bytes.
        first, last: index of the first and of the last frame that it shows.
        frames: number of frames of the longest variant.
    """

    video: str
    still: str
    size: int
    first: int
    last: int
    frames: int


def make_loop(clips: Sequence[Frames], fps: float, worst: Worst | None = None) -> Loop | None:
    """Return a loop of at most `MAX_BYTES`; None where no quality is that small.

    Args:
        clips: frames `(F, H, W, 3)` of each variant; shorter ones hold their last frame.
        fps: frames per second.
        worst: the frame to mark.
    """
    length = max(map(len, clips))
    first, last = window(length, worst.frame if worst else length // 2)
    pictures = [draw(clips, index, length, worst) for index in range(first, last + 1)]
    for quality in QUALITIES:
        data = encode(pictures, fps, quality)
        if len(data) <= MAX_BYTES:
            shown = (worst.frame if worst else length // 2) - first
            still = jpeg(pictures[shown])
            video = "data:video/mp4;base64," + base64.b64encode(data).decode()
            return Loop(video=video, still=still, size=len(data), first=first, last=last, frames=length)
    return None


def window(length: int, centre: int) -> tuple[int, int]:
    """Return the first and the last of at most `MAX_FRAMES` frames around one."""
    count = min(length, MAX_FRAMES)
    first = min(max(centre - count // 2, 0), length - count)
    return first, first + count - 1


def draw(clips: Sequence[Frames], index: int, length: int, worst: Worst | None) -> Frames:
    """Return one frame of all variants next to each other over the bar; its sides are multiples of `BLOCK`."""
    tiles = [resize(clip[min(index, len(clip) - 1)]) for clip in clips]
    if worst and worst.frame == index:
        add_border(tiles[worst.variant])
    height = max(len(tile) for tile in tiles)
    columns = [pad_height(tile, height) for tile in tiles]
    gap = np.full((height, GAP, 3), GREY, np.uint8)
    parts = [part for column in columns for part in (gap, column)][1:]
    picture = np.concatenate(parts, axis=1)
    picture = np.concatenate([picture, time_bar(picture.shape[1], index, length, worst)])
    return np.pad(picture, ((0, -picture.shape[0] % BLOCK), (0, -picture.shape[1] % BLOCK), (0, 0)), mode="edge")


def resize(frame: Frames) -> Frames:
    """Return a frame whose longer side has `TILE` pixels; small ones are enlarged without interpolation."""
    from PIL import Image

    height, width = frame.shape[:2]
    scale = TILE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(frame).resize(size, resampling))


def add_border(tile: Frames) -> None:
    """Draw a frame in the colour of the mark."""
    for edge in (tile[:BORDER], tile[-BORDER:], tile[:, :BORDER], tile[:, -BORDER:]):
        edge[...] = MARK


def pad_height(tile: Frames, height: int) -> Frames:
    """Return a tile with grey below it."""
    padded = np.full((height, tile.shape[1], 3), GREY, np.uint8)
    padded[: len(tile)] = tile
    return padded


def time_bar(width: int, index: int, length: int, worst: Worst | None) -> Frames:
    """Return the bar `(BAR, width, 3)` that is filled up to a frame, with a mark at the worst one."""
    bar = np.full((BAR, width, 3), GREY, np.uint8)
    bar[:, : round((index + 1) * width / length)] = TIME
    if worst:
        centre = round((worst.frame + 0.5) * width / length)
        bar[:, max(centre - 2, 0) : centre + 2] = MARK
    return bar


def encode(pictures: Sequence[Frames], fps: float, quality: int) -> bytes:
    """Return frames as an MP4 of H.264, which browsers play."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": "fast"})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        stream.thread_count = 1  # more gain nothing on small pictures
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def jpeg(pixels: Frames) -> str:
    """Return an image `(H, W, 3)` as a JPEG in a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
