"""Pictures for a report: contact sheets of the clips that gained and lost most, as data that a page can hold."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import ReadError
from vidguide.eval.clips.read import read
from vidguide.eval.scoring.verdict import Comparison, direction

COLUMNS, CELL = 6, 128  # frames of a sheet, and their longer side in pixels
SHOWN = 3  # prompts at each end

Row = Mapping[str, Any]


def sheet(path: Path) -> NDArray[np.uint8] | None:
    """Frames spread over a clip, side by side, each about CELL pixels wide; None where it cannot be read any more."""
    from PIL import Image

    try:
        frames = read(path, partial=True).frames
    except (ReadError, OSError):
        return None
    height, width = frames.shape[1:3]
    scale = CELL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    picked = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    return np.concatenate([np.asarray(Image.fromarray(frames[index]).resize(size, way)) for index in picked], axis=1)


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture `(H, W, 3)` as a JPEG within a URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def extremes(comparison: Comparison) -> tuple[str, list[str]] | None:
    """The first primary metric with differences, and the prompts at both ends of it, best first."""
    for line in comparison.lines:
        sign = direction(line.metric)
        if not (line.primary and sign):
            continue
        gains = {prompt: sign * (b - a) for prompt, (a, b) in line.paired.by_prompt.items()}
        ordered = sorted((prompt for prompt in gains if gains[prompt]), key=gains.__getitem__, reverse=True)
        if ordered:
            ends = ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]
            return line.metric, ends
    return None


def clip_of(rows: Sequence[Row], arm: str, prompt_id: str) -> Path | None:
    """The first scored clip of an arm and prompt."""
    for row in rows:
        if row["arm"] == arm and row["prompt_id"] == prompt_id and row["status"] != "failed":
            return Path(row["clip"])
    return None


def ends(rows: Sequence[Row]) -> tuple[str, list[Row]]:
    """The first metric on which clips differ, and the rows at both ends of it, best first."""
    for name in dict.fromkeys(row["metric"] for row in rows):
        found = [row for row in rows if row["metric"] == name and row["status"] == "ok" and direction(name)]
        if len({row["value"] for row in found}) > 1:
            ordered = sorted(found, key=lambda row: -row["value"] * direction(row["metric"]))
            return name, ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]
    return "", []


def worst(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows with the worst values of a metric that have a curve."""
    found = [row for row in rows if row["metric"] == metric and row["status"] == "ok" and row["per_frame"]]
    return sorted(found, key=lambda row: row["value"] * direction(metric))[:SHOWN]
