"""Contact sheets of the clips with the largest improvements and degradations, embedded in the report as data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import ReadError
from vidguide.eval.clips.read import read
from vidguide.eval.scoring.verdict import Comparison, direction

COLUMNS, CELL = 6, 128  # frames of a sheet, and their longer side in pixels
SHOWN = 3  # prompts or clips at each end of a ranking

Row = Mapping[str, Any]
T = TypeVar("T")


def contact_sheet(path: Path) -> NDArray[np.uint8] | None:
    """Return frames spread over a clip next to each other `(h, COLUMNS w, 3)`; None if it cannot be read any more."""
    from PIL import Image

    try:
        frames = read(path, partial=True).frames
    except (ReadError, OSError):
        return None
    height, width = frames.shape[1:3]
    scale = CELL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    shown = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    resized = [np.asarray(Image.fromarray(frames[index]).resize(size, resampling)) for index in shown]
    return np.concatenate(resized, axis=1)


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image `(H, W, 3)` as a JPEG in a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def both_ends(ranking: list[T]) -> list[T]:
    """Return the first and last SHOWN items of a ranking; all of a short one."""
    return ranking if len(ranking) <= 2 * SHOWN else ranking[:SHOWN] + ranking[-SHOWN:]


def extreme_prompts(comparison: Comparison) -> tuple[str, list[str]] | None:
    """Return the first primary metric with differences, and the prompts with the largest ones, best first."""
    for line in comparison.lines:
        sign = direction(line.metric)
        if not (line.primary and sign):
            continue
        gains = {prompt: sign * (b - a) for prompt, (a, b) in line.paired.by_prompt.items()}
        ranking = sorted((prompt for prompt in gains if gains[prompt]), key=gains.__getitem__, reverse=True)
        if ranking:
            return line.metric, both_ends(ranking)
    return None


def clip_of(rows: Sequence[Row], arm: str, prompt_id: str) -> Path | None:
    """Return the first scored clip of an arm and prompt; None if there is none."""
    for row in rows:
        if row["arm"] == arm and row["prompt_id"] == prompt_id and row["status"] != "failed":
            return Path(row["clip"])
    return None


def extreme_rows(rows: Sequence[Row]) -> tuple[str, list[Row]]:
    """Return the first metric on which clips differ, and the rows with its extreme values, best first."""
    for name in dict.fromkeys(row["metric"] for row in rows):
        scored = [row for row in rows if row["metric"] == name and row["status"] == "ok" and direction(name)]
        if len({row["value"] for row in scored}) > 1:
            return name, both_ends(sorted(scored, key=lambda row: -row["value"] * direction(row["metric"])))
    return "", []


def worst_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return the rows with the worst values of a metric, of those with per-frame values."""
    scored = [row for row in rows if row["metric"] == metric and row["status"] == "ok" and row["per_frame"]]
    return sorted(scored, key=lambda row: row["value"] * direction(metric))[:SHOWN]
