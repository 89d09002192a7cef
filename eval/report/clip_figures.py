"""The clips of a report: loops of the chosen pairs, their values, and their curves frame by frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ReadError
from vidguide.eval.clips.read import read
from vidguide.eval.report.amounts import amount
from vidguide.eval.report.charts import Chart, curve_chart
from vidguide.eval.report.loops import TOTAL_BYTES, Frames, Loop, Worst, make_loop
from vidguide.eval.report.pair_selection import MAX_PAIRS, MIN_PAIRS, choose_clips, choose_pairs
from vidguide.eval.scoring.statistics import Key
from vidguide.eval.scoring.summary import Summary
from vidguide.eval.scoring.verdict import Comparison, direction

FALLBACK = "temporal.warp_error"  # whose curves are shown where the metric of the choice has none
SHOWN_CLIPS = 12  # without a comparison
SHOWN_REASONS = 3

Row = Mapping[str, Any]
Rows = dict[str, Row]  # of one clip, by metric


@dataclass(frozen=True, kw_only=True)
class ClipFigure:
    """A loop with what is known about it.

    Attributes:
        anchor: its id in the page.
        key: prompt id and seed.
        reasons: why it is shown.
        arms: names of the variants, in the order in which the loop shows them.
        loop: the video.
        worst: which frame is marked; empty for none.
        curve, curve_title: values frame by frame.
        values: name of a metric, and its value in each variant.
    """

    anchor: str
    key: Key
    reasons: str
    arms: list[str]
    loop: Loop
    worst: str
    curve: Chart | None
    curve_title: str
    values: list[tuple[str, list[str]]]


@dataclass
class ClipCollection:
    """The clips of a report, by the title of their section; at most `TOTAL_BYTES` of video.

    Attributes:
        sections: title and figures.
        size: of the videos in bytes.
        omitted: number of chosen pairs that are too large, or cannot be read any more.
    """

    sections: list[tuple[str, list[ClipFigure]]] = field(default_factory=list)
    size: int = 0
    omitted: int = 0

    def add(self, clips: Sequence[Rows], metric: str, reasons: str, arms: Sequence[str]) -> ClipFigure | None:
        """Return the figure of the same prompt and seed in several variants; None where it is omitted."""
        curve_metric = metric_of_curve(clips, metric)
        worst = find_worst(clips, curve_metric)
        loop = read_loop(clips, worst)
        if loop is None or self.size + loop.size > TOTAL_BYTES:
            self.omitted += 1
            return None
        self.size += loop.size
        number = 1 + sum(len(figures) for _, figures in self.sections)
        row = next(iter(clips[0].values()))
        series = [clip[curve_metric]["per_frame"] for clip in clips] if curve_metric else []
        mark = None if worst is None else worst.frame - offset(clips[worst.variant][curve_metric])
        figure = ClipFigure(
            anchor=f"clip-{number}",
            key=(row["prompt_id"], row["seed"]),
            reasons=reasons,
            arms=list(arms),
            loop=loop,
            worst=describe_worst(worst, curve_metric, arms),
            curve=curve_chart(series, f"{curve_metric} frame by frame", mark),
            curve_title=curve_metric,
            values=clip_values(clips),
        )
        self.sections[-1][1].append(figure)
        return figure


def collect_pairs(summary: Summary) -> tuple[ClipCollection, dict[tuple[str, str], str]]:
    """Return the clips of all comparisons, and what each difference links to, by arm and metric."""
    collection, hrefs = ClipCollection(), dict[tuple[str, str], str]()
    limit = max(MAX_PAIRS // len(summary.comparisons), MIN_PAIRS)
    for comparison in summary.comparisons:
        collection.sections.append((f"{comparison.other} next to {comparison.reference}", []))
        arms = (comparison.reference, comparison.other)
        clips = {arm: rows_by_clip(summary.rows, arm) for arm in arms}
        for choice in choose_pairs(comparison, summary.rows, limit):
            pair = [clips[arm][choice.key] for arm in arms]
            collection.add(pair, choice.metric, describe_reasons(choice.reasons), arms)
        hrefs |= difference_links(comparison, collection.sections[-1][1], clips)
    return collection, hrefs


def describe_reasons(reasons: Sequence[str]) -> str:
    """Return the first reasons, and the number of the others."""
    more = len(reasons) - SHOWN_REASONS
    return ", ".join([*reasons[:SHOWN_REASONS], *([f"and {more} more"] if more > 0 else [])])


def difference_links(
    comparison: Comparison, figures: Sequence[ClipFigure], clips: Mapping[str, Mapping[Key, Rows]]
) -> dict[tuple[str, str], str]:
    """Return for each metric the shown pair with the largest difference in the direction of the mean difference."""
    hrefs = {}
    for line in comparison.lines:
        differences = {}
        for figure in figures:
            left, right = (clips[arm][figure.key].get(line.metric, {}) for arm in figure.arms)
            if left.get("value") is not None and right.get("value") is not None:
                differences[figure.anchor] = right["value"] - left["value"]
        sign = 1 if (line.paired.difference.mean or 0.0) >= 0 else -1
        if differences:
            anchor = max(differences, key=lambda name, d=differences, s=sign: s * d[name])  # type: ignore[misc]
            hrefs[comparison.other, line.metric] = f"#{anchor}"
    return hrefs


def collect_clips(summary: Summary) -> tuple[ClipCollection, dict[str, str]]:
    """Return the best and the worst clips by each metric, and what each mean links to, by metric: the worst clip."""
    collection, hrefs = ClipCollection([("Best and worst clips", [])]), dict[str, str]()
    for row, metric, reasons in choose_clips(summary.rows, SHOWN_CLIPS):
        rows: Rows = {other["metric"]: other for other in summary.rows if other["clip"] == row["clip"]}
        figure = collection.add([rows], metric, reasons, [row["arm"]])
        worst = [reason.removeprefix("worst ") for reason in reasons.split(", ") if reason.startswith("worst ")]
        hrefs |= {name: f"#{figure.anchor}" for name in worst if figure}
    return collection, hrefs


def rows_by_clip(rows: Sequence[Row], arm: str) -> dict[Key, Rows]:
    """Return the rows of the first clip of each prompt and seed, by metric."""
    clips: dict[Key, Rows] = {}
    for row in rows:
        if row["arm"] == arm and row["status"] != "failed":
            clips.setdefault((row["prompt_id"], row["seed"]), {}).setdefault(row["metric"], row)
    return clips


def read_loop(clips: Sequence[Rows], worst: Worst | None) -> Loop | None:
    """Return the loop of clips; None if one cannot be read any more."""
    frames: list[Frames] = []
    rows = [next(iter(clip.values())) for clip in clips]
    try:
        frames += [read(Path(row["clip"]), partial=True, fps=row.get("fps")).frames for row in rows]
    except (ReadError, OSError, ValueError):
        return None
    return make_loop(frames, rows[0].get("fps") or 8.0, worst)


def metric_of_curve(clips: Sequence[Rows], metric: str) -> str:
    """Return the metric whose values frame by frame are shown: the given one, else the fallback, else none."""
    for name in (metric, FALLBACK):
        if name and direction(name) and all(has_curve(clip.get(name)) for clip in clips):
            return name
    return ""


def has_curve(row: Row | None) -> bool:
    """Return whether a row has a value for each frame, or for each pair of frames."""
    return bool(row and row.get("per_frame") and offset(row) in (0, 1))


def offset(row: Row) -> int:
    """Return the index of the frame that the first value is about: 1 for values of pairs of frames."""
    return (row.get("frames") or 0) - len(row["per_frame"])


def find_worst(clips: Sequence[Rows], metric: str) -> Worst | None:
    """Return the frame with the worst value of any variant; of a pair of frames the later one."""
    if not metric:
        return None
    values = [
        (value * direction(metric), Worst(index + offset(clip[metric]), variant))
        for variant, clip in enumerate(clips)
        for index, value in enumerate(clip[metric]["per_frame"])
        if value is not None
    ]
    return min(values, key=lambda pair: pair[0])[1] if values else None


def describe_worst(worst: Worst | None, metric: str, arms: Sequence[str]) -> str:
    """Return which frame is marked; empty for none."""
    return "" if worst is None else f"worst frame {worst.frame}, of {arms[worst.variant]}, by {metric}"


def clip_values(clips: Sequence[Rows]) -> list[tuple[str, list[str]]]:
    """Return each metric with its value in each clip, of the metrics that have one."""
    values = [(name, [clip.get(name, {}).get("value") for clip in clips]) for name in clips[0]]
    return [(name, [amount(name, value) for value in each]) for name, each in values if None not in each]
