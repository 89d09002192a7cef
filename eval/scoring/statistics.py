"""Statistics of paired clips. The unit is the prompt: seeds are averaged within it; arms share prompts and seeds.

Intervals are 95%, by bootstrap over prompts with a fixed seed. p-values are by sign-flip permutation of the
differences, exact for few prompts. Both are about the mean difference, which the report shows.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Key = tuple[str, object]  # prompt id and seed

RESAMPLES = 9999
MAX_RESAMPLED = 4_000_000  # resampled values in memory
Z = 1.959963984540054  # two-sided 95% quantile of the normal distribution
MIN_PROMPTS = 100  # fewer are a smoke test: of 50 prompts, 60% wins are compatible with a true rate of 46%


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over prompts and its 95% interval; None where there are too few prompts for one."""

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
        p: two-sided p-value of a mean difference of 0; None for fewer than two prompts.
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


def estimate(values: Sequence[float], *, method: str = "BCa", resamples: int = RESAMPLES) -> Estimate:
    """Return the mean over prompts with a bootstrap interval, which has zero width if all values are equal.

    Args:
        values: one per prompt.
        method, resamples: see scipy.stats.bootstrap.
    """
    count = len(values)
    if count == 0:
        return Estimate(mean=None, low=None, high=None, prompts=0)
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if count == 1:
        return Estimate(mean=mean, low=None, high=None, prompts=1)
    if np.ptp(sample) <= 1e-12 * max(abs(mean), 1e-300):
        return Estimate(mean=mean, low=mean, high=mean, prompts=count)
    from scipy.stats import bootstrap

    settings = {"n_resamples": resamples, "batch": max(MAX_RESAMPLED // count, 1), "rng": np.random.default_rng(0)}
    interval = bootstrap((sample,), np.mean, method=method, **settings).confidence_interval
    return Estimate(mean=mean, low=float(interval.low), high=float(interval.high), prompts=count)


def p_value(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a mean difference of 0, by sign-flip permutation.

    Args:
        differences: one per prompt.

    Returns:
        None for fewer than two differences; 1 if all are 0.
    """
    if len(differences) < 2:
        return None
    if not np.any(differences):
        return 1.0
    from scipy.stats import permutation_test

    sample = np.asarray(differences, float)
    batch = max(MAX_RESAMPLED // len(sample), 1)
    settings = {"n_resamples": RESAMPLES, "batch": batch, "rng": np.random.default_rng(0)}
    return float(permutation_test((sample,), np.mean, permutation_type="samples", **settings).pvalue)


def compare_pairs(reference: Mapping[Key, float], other: Mapping[Key, float]) -> PairedComparison:
    """Compare two arms on the clips that both have; a clip without a partner is left out."""
    shared = [key for key in reference if key in other]
    left = mean_by_prompt({key: reference[key] for key in shared})
    right = mean_by_prompt({key: other[key] for key in shared})
    differences = [right[prompt] - left[prompt] for prompt in left]
    return PairedComparison(
        reference=float(np.mean(list(left.values()))) if left else None,
        other=float(np.mean(list(right.values()))) if right else None,
        difference=estimate(differences),
        by_prompt={prompt: (left[prompt], right[prompt]) for prompt in left},
        pairs=len(shared),
        unpaired=len(reference) + len(other) - 2 * len(shared),
        p=p_value(differences),
    )


def win_rate(differences: Sequence[float], sign: int) -> tuple[float, float, float] | None:
    """Return the share of prompts on which the other arm is better (ties count half), and its 95% Wilson interval.

    Args:
        differences: other minus reference, per prompt.
        sign: 1 if higher is better, -1 if lower is.

    Returns:
        share, low, high; None without differences.
    """
    if not differences:
        return None
    wins = sum(0.5 if value == 0 else float(value * sign > 0) for value in differences)
    return (wins / len(differences), *wilson(wins, len(differences)))


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927).

    Equal to `scipy.stats.binomtest(...).proportion_ci(method="wilson")`, which accepts integers only; ties give halves.
    """
    share, z2 = successes / count, Z * Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half_width = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(centre - half_width, 0.0), min(centre + half_width, 1.0)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for multiple comparisons (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(p * (len(p_values) - rank), 1.0))
        corrected[name] = largest
    return corrected


def noise_floor(first: Mapping[Key, float], again: Mapping[Key, float]) -> float | None:
    """Return the largest mean difference that a repetition of an arm can produce.

    Args:
        first, again: values of the arm and of its repetition.

    Returns:
        the larger absolute bound of the 95% interval; without an interval, the absolute mean difference or None.
    """
    difference = compare_pairs(first, again).difference
    if difference.low is None or difference.high is None:
        return None if difference.mean is None else abs(difference.mean)
    return max(abs(difference.low), abs(difference.high))
