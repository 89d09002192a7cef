"""Decide whether a guard metric stayed within its margin: by its interval, not by its mean.

A guard is inside its margin if its 95% interval is, and outside if its interval is; otherwise it is undecided. An
improvement is called confounded without cause, or unconfounded in spite of a change as large as the margin, with a
probability of at most 2.5% each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vidguide.eval.metrics.base import Guard
from vidguide.eval.scoring.intervals import (
    Interval,
    SignFlips,
    prompts_for_decision,
    prompts_for_p,
    prompts_for_share,
)
from vidguide.eval.scoring.statistics import PairedComparison, is_yes_or_no

MANY = 10_000  # prompts, above which their number is not stated


@dataclass(frozen=True, kw_only=True)
class GuardDecision:
    """What a guard metric says about an improvement.

    Attributes:
        guard: the guard.
        side: of the margin on which the interval lies.
        prompts: how many decide with a probability of 80%, if `side` is undecided; else the number in use.
    """

    guard: Guard
    side: Literal["inside", "outside", "undecided"]
    prompts: float


def decide(guard: Guard, pairs: Mapping[str, PairedComparison]) -> GuardDecision | None:
    """Return the decision of a guard; None where its metric, or the mean that it is relative to, is undefined."""
    pair = pairs.get(guard.id)
    if pair is None or pair.reference is None or (guard.relative and not pair.reference):
        return None
    interval = distance_interval(guard, pair)
    if interval and interval[0] > 0:
        return GuardDecision(guard=guard, side="inside", prompts=pair.difference.prompts)
    if interval and interval[1] < 0:
        return GuardDecision(guard=guard, side="outside", prompts=pair.difference.prompts)
    return GuardDecision(guard=guard, side="undecided", prompts=needed_prompts(guard, pair))


def distances(guard: Guard, pair: PairedComparison) -> list[float]:
    """Return how far inside the margin each prompt is; the mean of a relative guard is relative to the mean.

    The distance `other - (1 + change) reference` is linear in both arms, so that it includes the uncertainty of the
    reference.
    """
    reference, other = np.array(list(pair.by_prompt.values())).T
    margin = guard.change * (reference * np.sign(reference.mean()) if guard.relative else np.ones_like(reference))
    return (-np.sign(guard.change) * (other - reference - margin)).tolist()


def distance_interval(guard: Guard, pair: PairedComparison) -> Interval | None:
    """Return the interval of the mean distance inside the margin; that of the difference if the margin is absolute."""
    if guard.relative:
        return SignFlips(np.array(distances(guard, pair))).interval()
    if pair.difference.low is None or pair.difference.high is None:
        return None
    low, high = sorted(
        -np.sign(guard.change) * (bound - guard.change) for bound in (pair.difference.low, pair.difference.high)
    )
    return float(low), float(high)


def needed_prompts(guard: Guard, pair: PairedComparison) -> float:
    """Return how many prompts decide an undecided guard: more than now, at the differences that were observed."""
    needed = max(prompts_for_decision(distances(guard, pair)), len(pair.by_prompt) + 1, prompts_for_p())
    if not guard.relative and is_yes_or_no([b - a for a, b in pair.by_prompt.values()]):
        needed = max(needed, prompts_for_share(abs(guard.change)))
    return needed


def format_prompts(prompts: float) -> str:
    """Format a number of prompts that is needed."""
    return f"about {math.ceil(prompts)} prompts needed" if prompts <= MANY else f"more than {MANY} prompts needed"
