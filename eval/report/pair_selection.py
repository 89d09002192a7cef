"""Which clips a report shows: those with the largest differences each way, and random ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidguide.eval.scoring.statistics import Key
from vidguide.eval.scoring.verdict import Comparison, direction, values_by_key

RANDOM_PAIRS = 2  # of a comparison
SEED = 0  # of their choice
MAX_PAIRS = 24  # in a report
MIN_PAIRS = 4  # of each comparison, however many there are

Row = Mapping[str, Any]


@dataclass
class Choice:
    """A prompt and seed to show.

    Attributes:
        key: prompt id and seed.
        metric: for which it was chosen first; empty if at random only.
        reasons: for the choice, as text.
    """

    key: Key
    metric: str
    reasons: list[str] = field(default_factory=list)


def choose_pairs(comparison: Comparison, rows: Sequence[Row], limit: int = MAX_PAIRS) -> list[Choice]:
    """Return the pairs to show: for each primary metric those with the largest differences, then random ones, then
    those of the further metrics.

    Args:
        comparison: of two arms.
        rows: of the results.
        limit: number of pairs.
    """
    arms = [[row for row in rows if row["arm"] == arm] for arm in (comparison.reference, comparison.other)]
    primary = [line.metric for line in comparison.lines if line.primary]
    others = [line.metric for line in comparison.lines if not line.primary]
    candidates = [*extremes(arms, primary), *random_pairs(arms), *extremes(arms, others)]
    return merge(candidates)[:limit]


def extremes(arms: Sequence[Sequence[Row]], metrics: Iterable[str]) -> list[Choice]:
    """Return the pairs with the largest difference each way, for each metric."""
    choices = []
    for metric in metrics:
        differences = pair_differences(arms[0], arms[1], metric)
        words = ("improvement", "degradation") if direction(metric) else ("rise", "fall")
        for sign, word in zip((1, -1), words, strict=True):
            gains = {key: sign * (direction(metric) or 1) * value for key, value in differences.items() if value}
            if gains and max(gains.values()) > 0:
                choices.append(Choice(max(gains, key=gains.__getitem__), metric, [f"largest {word} of {metric}"]))
    return choices


def pair_differences(reference: Sequence[Row], other: Sequence[Row], metric: str) -> dict[Key, float]:
    """Return other minus reference of each prompt and seed that both arms have."""
    left, right = values_by_key(reference, metric), values_by_key(other, metric)
    return {key: right[key] - left[key] for key in left if key in right}


def random_pairs(arms: Sequence[Sequence[Row]]) -> list[Choice]:
    """Return random pairs that both arms have, the same in every report of the same clips."""
    keys = [dict.fromkeys((row["prompt_id"], row["seed"]) for row in arm if row["status"] != "failed") for arm in arms]
    shared = sorted((key for key in keys[0] if key in keys[1]), key=str)
    count = min(RANDOM_PAIRS, len(shared))
    chosen = np.random.default_rng(SEED).permutation(len(shared))[:count].tolist()
    return [Choice(shared[index], "", [f"random (seed {SEED})"]) for index in chosen]


def merge(choices: Iterable[Choice]) -> list[Choice]:
    """Return the choices with those of the same prompt and seed as one."""
    merged: dict[Key, Choice] = {}
    for choice in choices:
        first = merged.setdefault(choice.key, Choice(choice.key, choice.metric))
        first.metric = first.metric or choice.metric
        first.reasons += choice.reasons
    return list(merged.values())


def choose_clips(rows: Sequence[Row], limit: int) -> list[tuple[Row, str, str]]:
    """Return rows of the best and the worst clips by each metric with a direction, the metric, and the reason."""
    chosen: dict[str, tuple[Row, str, list[str]]] = {}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        scored = [row for row in rows if row["metric"] == metric and row["status"] == "ok" and direction(metric)]
        if len({row["value"] for row in scored}) > 1:
            ranking = sorted(scored, key=lambda row: row["value"] * direction(row["metric"]))
            for row, word in ((ranking[-1], "best"), (ranking[0], "worst")):
                chosen.setdefault(row["clip"], (row, metric, []))[2].append(f"{word} {metric}")
    return [(row, metric, ", ".join(reasons)) for row, metric, reasons in chosen.values()][:limit]
