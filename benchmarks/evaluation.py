"""Measure the time to score a clip with the metrics that need no weights, by part.

    python benchmarks/evaluation.py

Clips of smooth noise that moves two pixels a frame, at two sizes, on one CPU thread: the better of two runs at the
small size, one run at the large size. Clips are read from a lossless .mkv file. Other load on the machine increases the
times.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from reporting import table, write

from vidguide import Clip
from vidguide.eval.clips.read import read
from vidguide.eval.metrics.registry import select_metrics
from vidguide.eval.metrics.sample import Sample

SIZES = {"16 x 256 x 256": (16, 256, 256, 2), "81 x 480 x 832": (81, 480, 832, 1)}  # frames, height, width, runs


def translated_noise(frames: int, height: int, width: int) -> Clip:
    """Return smooth noise that moves two pixels to the left in each frame."""
    noise = np.random.default_rng(0).normal(size=(height, width + 2 * frames, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return Clip(frames=np.stack([texture[:, 2 * t : 2 * t + width] for t in range(frames)]), fps=16)


def time_clip(clip: Clip) -> dict[str, float]:
    """Return the seconds to read the clip from a file, to compute its optical flow, and to compute all metrics."""
    with tempfile.TemporaryDirectory() as folder:
        path = clip.save(Path(folder) / "clip.mkv")
        started = time.perf_counter()
        sample = Sample(read(path))
    times = {"reading": time.perf_counter() - started}
    started = time.perf_counter()
    assert sample.flow.tracked
    times["optical flow"] = time.perf_counter() - started
    started = time.perf_counter()
    for metric in select_metrics(["temporal", "vbench", "guard"]):
        metric(sample)
    times["everything else"] = time.perf_counter() - started
    return times


def main() -> None:
    """Time both sizes, print and write the result."""
    cv2.setNumThreads(1)
    rows: list[dict[str, str]] = []
    data: dict[str, Any] = {"opencv": cv2.__version__}
    for size, (frames, height, width, runs) in SIZES.items():
        clip = translated_noise(frames, height, width)
        best = min((time_clip(clip) for _ in range(runs)), key=lambda times: sum(times.values()))
        data[size] = best
        shown = {part: f"{value:.2f} s" for part, value in best.items()}
        rows.append({"clip": size, **shown, "all": f"{sum(best.values()):.2f} s"})
    data["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    write("evaluation", f"{table(rows)}\nPeak memory of the process: {data['peak_mib']} MiB.\n", data)


if __name__ == "__main__":
    main()
