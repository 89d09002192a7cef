"""Measure the CPU time to score a clip with the metrics that need no weights, by part.

    python benchmarks/evaluation.py                     # this tree
    python benchmarks/evaluation.py --against REVISION  # and an earlier one, alternating, with the ratio

Clips of smooth noise that moves two pixels a frame, at two sizes, on one CPU thread: the least time of each part in
`--runs` runs. Clips are read from a lossless .mkv file. With `--against`, the revision is exported by `git archive`,
and metrics that only one tree has are counted apart. Each run is a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vidguide import Clip
from vidguide.eval.clips.read import read
from vidguide.eval.metrics.registry import select_metrics
from vidguide.eval.metrics.sample import Sample

SIZES = {"16 x 256 x 256": (16, 256, 256), "81 x 480 x 832": (81, 480, 832)}  # frames, height, width
REPEATS = {"16 x 256 x 256": 9, "81 x 480 x 832": 1}  # in a run; less than a second is measured more often
ROOT = Path(__file__).parents[1]


def translated_noise(frames: int, height: int, width: int) -> Clip:
    """Return smooth noise that moves two pixels to the left in each frame."""
    noise = np.random.default_rng(0).normal(size=(height, width + 2 * frames, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return Clip(frames=np.stack([texture[:, 2 * t : 2 * t + width] for t in range(frames)]), fps=16)


def time_clip(clip: Clip) -> dict[str, float]:
    """Return the CPU seconds to read the clip from a file, for its optical flow, and for each metric after that."""
    with tempfile.TemporaryDirectory() as folder:
        path = clip.save(Path(folder) / "clip.mkv")
        started = time.process_time()
        sample = Sample(read(path))
    times = {"reading": time.process_time() - started}
    started = time.process_time()
    assert sample.flow.tracked
    times["optical flow"] = time.process_time() - started
    for metric in select_metrics(["temporal", "vbench", "guard"]):
        started = time.process_time()
        metric(sample)
        times[metric.id] = time.process_time() - started
    return times


def least(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the least time of each part and metric."""
    return {part: min(one[part] for one in runs) for part in runs[0]}


def time_sizes() -> dict[str, Any]:
    """Return the times of each size, and the peak memory of the process."""
    cv2.setNumThreads(1)
    time_clip(translated_noise(8, 64, 64))  # imports
    times: dict[str, Any] = {}
    for size, shape in SIZES.items():
        clip = translated_noise(*shape)
        times[size] = least([time_clip(clip) for _ in range(REPEATS[size])])
    return {**times, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}


def run(tree: Path) -> dict[str, Any]:
    """Return the times of a tree, measured by this script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, __file__, "--print"]
    return dict(json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout))


def export(revision: str, folder: Path) -> Path:
    """Write the files of a revision to a folder."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive, check=True)
    return folder


def parts_of(times: dict[str, float], common: set[str]) -> dict[str, float]:
    """Return the times of reading, of the optical flow, of metrics that each tree has, and of the rest."""
    metrics = {name: value for name, value in times.items() if "." in name}
    return {
        "reading": times["reading"],
        "optical flow": times["optical flow"],
        "metrics of both": sum(value for name, value in metrics.items() if name in common),
        "metrics of this tree only": sum(value for name, value in metrics.items() if name not in common),
    }


def rows_of(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Return a row per size and tree: the time of each part, and ratios to this tree, without reading and in all."""
    rows = []
    for size in SIZES:
        best = {tree: least([one[size] for one in several]) for tree, several in runs.items()}
        common = set.intersection(*(set(times) for times in best.values()))
        parts = {tree: parts_of(times, common) for tree, times in best.items()}
        same, total = ({tree: one(times) for tree, times in parts.items()} for one in (same_metrics, whole))
        for tree, times in parts.items():
            columns = {part: f"{value:.2f} s" for part, value in times.items()}
            ratio = {"flow and metrics of both": f"{same[tree]:.2f} s, x {same[tree] / same['this']:.2f}"}
            rows.append({"clip": size, "tree": tree, **columns, **ratio, "all": f"{total[tree]:.2f} s"})
    return rows


def same_metrics(times: dict[str, float]) -> float:
    """Return the time of what both trees compute."""
    return times["optical flow"] + times["metrics of both"]


def whole(times: dict[str, float]) -> float:
    """Return the time of all parts."""
    return sum(times.values())


def measure(revision: str | None, count: int) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of this tree and of the revision, alternating."""
    with tempfile.TemporaryDirectory() as folder:
        trees = {"this": ROOT} | ({revision: export(revision, Path(folder))} if revision else {})
        runs: dict[str, list[dict[str, Any]]] = {tree: [] for tree in trees}
        for _ in range(count):
            for tree, path in trees.items():
                runs[tree].append(run(path))
        return runs


def main() -> None:
    """Time both sizes, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", help="an earlier revision to compare with")
    parser.add_argument("--runs", type=int, default=3, help="runs of each tree (3)")
    parser.add_argument("--print", action="store_true", help="print the times of this process as JSON")
    arguments = parser.parse_args()
    if arguments.print:
        print(json.dumps(time_sizes()))
        return
    from reporting import table, write  # needs modules that an earlier revision lacks

    runs = measure(arguments.against, arguments.runs)
    memory = max(one["peak_mib"] for one in runs["this"])
    data = {"opencv": cv2.__version__, "cpu_seconds": runs}
    write("evaluation", f"{table(rows_of(runs))}\nPeak memory of the process: {memory} MiB.\n", data)


if __name__ == "__main__":
    main()
