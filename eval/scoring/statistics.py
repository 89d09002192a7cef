"""Statistics of paired clips. The unit is the prompt: seeds are averaged within it; arms share prompts and seeds.

Intervals are 95% and agree with the p-values, see :mod:`vidguide.eval.scoring.intervals`. Both are about the mean over
prompts, which the report shows.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidguide.eval.scoring.intervals import (
    Interval,
    SignFlips,
    paired_share_interval,
    paired_share_p_value,
    prompts_for_decision,
    prompts_for_p,
    share_interval,
    unchanged_bound,
)

Key = tuple[str, object]  # prompt id and seed

MIN_PROMPTS = 100  # fewer are a smoke test: of 50 prompts, 60% wins are compatible with a true rate of 45%
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over prompts and its 95% interval, which is None where there are too few prompts for one."""

    mean: float | None
    low: float | None
    high: float | None
    prompts: int


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """One metric in two arms, on the clips that both arms have.

    Attributes:
        reference, other: mean over prompts of each arm.
        difference: other minus reference.
        by_prompt: prompt id to (reference, other), averaged over seeds.
        pairs: number of clips in each arm.
        unpaired: number of values in either arm without a partner.
        p: two-sided p-value of a mean difference of 0, uncorrected; None for fewer than two prompts.
    """

    reference: float | None
    other: float | None
    difference: Estimate
    by_prompt: dict[str, tuple[float, float]]
    pairs: int
    unpaired: int
    p: float | None


def mean_by_prompt(values: Mapping[Key, float]) -> dict[str, float]:
    """Return the mean over seeds of each prompt."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), value in values.items():
        grouped[prompt].append(value)
    return {prompt: float(np.mean(group)) for prompt, group in grouped.items()}


def estimate(values: Sequence[float], bounds: Interval = UNBOUNDED) -> Estimate:
    """Return the mean over prompts with its interval, which is None for five prompts or fewer of a measured quantity.

    Args:
        values: one per prompt.
        bounds: smallest and largest possible value. A share, all of whose values are bounds, has an exact interval for
            any number of prompts. Equal values have an interval only if the bounds are finite.
    """
    if len(values) < 2:
        return Estimate(mean=values[0] if values else None, low=None, high=None, prompts=len(values))
    low, high = bounds
    if set(values) <= set(bounds):
        share = share_interval(list(values).count(high), len(values))
        interval: Interval | None = (low + share[0] * (high - low), low + share[1] * (high - low))
    elif len(set(values)) == 1:
        bound = unchanged_bound(len(values))
        interval = (values[0] + bound * (low - values[0]), values[0] + bound * (high - values[0]))
    else:
        interval = SignFlips(np.asarray(values, float)).interval()
    return make_estimate(values, interval)


def make_estimate(values: Sequence[float], interval: Interval | None) -> Estimate:
    """Return an estimate; an interval without finite bounds becomes None."""
    low, high = interval if interval and all(map(math.isfinite, interval)) else (None, None)
    return Estimate(mean=float(np.mean(values)), low=low, high=high, prompts=len(values))


def estimate_difference(differences: Sequence[float]) -> tuple[Estimate, float | None]:
    """Return the mean of paired differences with its interval, and the two-sided p-value of a mean of 0.

    Differences of yes-or-no values, all of which are -1, 0 or 1, have the exact interval of paired shares. So has a
    metric without any difference, so that no interval is 0 to 0: a share of the prompts may differ by 1.

    Args:
        differences: one per prompt.

    Returns:
        estimate and p-value. Without two differences both interval and p-value are None.
    """
    if len(differences) < 2:
        return estimate(differences), None
    if is_yes_or_no(differences):
        gained, lost = (sum(value * sign > 0 for value in differences) for sign in (1, -1))
        low, high = paired_share_interval(gained, lost, len(differences))
        return make_estimate(differences, (low, high)), paired_share_p_value(gained, lost)
    flips = SignFlips(np.asarray(differences, float))
    return make_estimate(differences, flips.interval()), flips.p_value()


def is_yes_or_no(differences: Sequence[float]) -> bool:
    """Return whether differences can be those of yes-or-no values: -1, 0 and 1."""
    return set(differences) <= {-1.0, 0.0, 1.0}


def compare_pairs(reference: Mapping[Key, float], other: Mapping[Key, float]) -> PairedComparison:
    """Compare two arms on the clips that both have; a clip without a partner is left out."""
    shared = [key for key in reference if key in other]
    left = mean_by_prompt({key: reference[key] for key in shared})
    right = mean_by_prompt({key: other[key] for key in shared})
    difference, p = estimate_difference([right[prompt] - left[prompt] for prompt in left])
    return PairedComparison(
        reference=float(np.mean(list(left.values()))) if left else None,
        other=float(np.mean(list(right.values()))) if right else None,
        difference=difference,
        by_prompt={prompt: (left[prompt], right[prompt]) for prompt in left},
        pairs=len(shared),
        unpaired=len(reference) + len(other) - 2 * len(shared),
        p=p,
    )


def oriented(estimate: Estimate, sign: int) -> Estimate:
    """Return an estimate times `sign`, 1 or -1, so that it is positive where the metric is better."""
    if sign > 0:
        return estimate
    low, high = (None if value is None else -value for value in (estimate.high, estimate.low))
    return replace(estimate, mean=None if estimate.mean is None else -estimate.mean, low=low, high=high)


def win_rate(differences: Sequence[float], sign: int) -> tuple[float, float, float] | None:
    """Return the share of prompts on which the other arm is better (ties count half), and its exact 95% interval.

    Args:
        differences: other minus reference, per prompt.
        sign: 1 if higher is better, -1 if lower is.

    Returns:
        share, low, high; None without differences.
    """
    if not differences:
        return None
    wins = sum(0.5 if value == 0 else float(value * sign > 0) for value in differences)
    return (wins / len(differences), *share_interval(wins, len(differences)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for multiple comparisons (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(p * (len(p_values) - rank), 1.0))
        corrected[name] = largest
    return corrected


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected so that 5% of those below 0.05 are expected to be false (Benjamini, Hochberg 1995)."""
    from scipy.stats import false_discovery_control

    corrected = false_discovery_control(list(p_values.values())) if p_values else ()
    return {name: float(p) for name, p in zip(p_values, corrected, strict=True)}


def effect_size(differences: Sequence[float]) -> float | None:
    """Return the mean of paired differences in units of their standard deviation.

    This is `d_z` of Cohen 1988, "Statistical power analysis for the behavioral sciences", for one difference per
    prompt. None for fewer than two differences, and for equal ones.
    """
    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    return float(np.mean(differences) / np.std(differences, ddof=1))


def prompts_for_difference(differences: Sequence[float], tests: int = 1) -> int | None:
    """Return how many prompts show a difference of the observed mean and standard deviation, 80% of the time.

    Args:
        differences: one per prompt.
        tests: number of tests over which p-values are corrected; the sign-flip test needs a smallest number of prompts
            for them.

    Returns:
        the number for an uncorrected p of at most 0.05, in the normal approximation; None for fewer than two prompts,
        and where the mean is 0.
    """
    if len(differences) < 2 or not np.mean(differences):
        return None
    return max(math.ceil(prompts_for_decision(differences)), prompts_for_p(tests))


def noise_floor(first: Mapping[Key, float], again: Mapping[Key, float]) -> float | None:
    """Return the largest mean difference that a repetition of an arm can produce.

    Args:
        first, again: values of the arm and of its repetition. If all are equal, the floor is 0.

    Returns:
        the larger absolute bound of the 95% interval; without an interval, the absolute mean difference or None.
    """
    comparison = compare_pairs(first, again)
    difference = comparison.difference
    if comparison.by_prompt and all(a == b for a, b in comparison.by_prompt.values()):
        return 0.0
    if difference.low is None or difference.high is None:
        return None if difference.mean is None else abs(difference.mean)
    return max(abs(difference.low), abs(difference.high))
