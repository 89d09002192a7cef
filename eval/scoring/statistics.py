"""Statistics of paired clips: the unit is the prompt, seeds within a prompt are averaged, arms share both.

Intervals are 95%, by bootstrap over prompts with a fixed seed; p-values by sign-flip permutation of the differences,
exact for few prompts. Both are about the mean difference, which is what the report shows.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Key = tuple[str, object]  # prompt id and seed

RESAMPLES = 9999
AT_ONCE = 4_000_000  # resampled values in memory
Z = 1.959963984540054  # of 95%, two-sided
ENOUGH_PROMPTS = 100  # fewer are a smoke test: 60% wins of 50 prompts could as well be 46%


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over prompts and its 95% interval; None where there are too few prompts for one."""

    mean: float | None
    low: float | None
    high: float | None
    prompts: int


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One metric in two arms, on the clips that both arms have.

    Attributes:
        reference, other: mean over prompts of each arm.
        difference: other minus reference.
        by_prompt: prompt id to (reference, other), seeds averaged.
        pairs: clips in each arm. unpaired: values of either arm that have no partner.
        p: two-sided, that the mean difference is 0; None under two prompts.
    """

    reference: float | None
    other: float | None
    difference: Estimate
    by_prompt: dict[str, tuple[float, float]]
    pairs: int
    unpaired: int
    p: float | None


def by_prompt(values: Mapping[Key, float]) -> dict[str, float]:
    """Seeds averaged within each prompt."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), value in values.items():
        grouped[prompt].append(value)
    return {prompt: float(np.mean(group)) for prompt, group in grouped.items()}


def estimate(values: Sequence[float], *, method: str = "BCa", resamples: int = RESAMPLES) -> Estimate:
    """Mean over prompts with a bootstrap interval (of no width where all prompts agree).

    Args:
        values: one per prompt.
        method, resamples: as scipy's bootstrap takes them.
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

    settings = {"n_resamples": resamples, "batch": max(AT_ONCE // count, 1), "rng": np.random.default_rng(0)}
    found = bootstrap((sample,), np.mean, method=method, **settings)
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return Estimate(mean=mean, low=low, high=high, prompts=count)


def p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p that the mean difference is 0, by flipping signs; None under two prompts, 1 where none differs."""
    if len(differences) < 2:
        return None
    if not np.any(differences):
        return 1.0
    from scipy.stats import permutation_test

    sample = np.asarray(differences, float)
    settings = {"n_resamples": RESAMPLES, "batch": max(AT_ONCE // len(sample), 1), "rng": np.random.default_rng(0)}
    found = permutation_test((sample,), np.mean, permutation_type="samples", **settings)
    return float(found.pvalue)


def paired(reference: Mapping[Key, float], other: Mapping[Key, float]) -> Paired:
    """Compare two arms on the clips that both have: a pair is dropped whole, never one side of it."""
    shared = [key for key in reference if key in other]
    left, right = by_prompt({key: reference[key] for key in shared}), by_prompt({key: other[key] for key in shared})
    differences = [right[prompt] - left[prompt] for prompt in left]
    return Paired(
        reference=float(np.mean(list(left.values()))) if left else None,
        other=float(np.mean(list(right.values()))) if right else None,
        difference=estimate(differences),
        by_prompt={prompt: (left[prompt], right[prompt]) for prompt in left},
        pairs=len(shared),
        unpaired=len(reference) + len(other) - 2 * len(shared),
        p=p_value(differences),
    )


def wins(differences: Sequence[float], sign: int) -> tuple[float, float, float] | None:
    """Share of prompts on which the other arm is better (ties count half), and its 95% Wilson interval.

    Args:
        differences: other minus reference, per prompt.
        sign: 1 where higher is better, -1 where lower is.
    """
    if not differences:
        return None
    won = sum(0.5 if value == 0 else float(value * sign > 0) for value in differences)
    return (won / len(differences), *wilson(won, len(differences)))


def wilson(won: float, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927); scipy's takes whole counts only, ties make halves."""
    share, z2 = won / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for looking at several metrics (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(p * (len(p_values) - rank), 1.0))
        corrected[name] = largest
    return corrected


def noise_floor(first: Mapping[Key, float], again: Mapping[Key, float]) -> float | None:
    """Largest mean difference that making the same arm again can produce: the far end of its 95% interval."""
    found = paired(first, again).difference
    if found.low is None or found.high is None:
        return None if found.mean is None else abs(found.mean)
    return max(abs(found.low), abs(found.high))
