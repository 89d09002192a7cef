"""Intervals and p-values of means over prompts that agree: a 95% interval excludes 0 if and only if p is at most 0.05.

Differences are tested by flipping their signs. The mean of the differences in a random subset of the prompts is at most
t as often as flipping signs around t yields a sum that is at least as large as the observed one. The means of all
subsets, sorted, therefore give the p-value of every hypothesis and, by inversion, the interval (Hartigan 1969, "Using
subsample values as typical values"). Dividing by the standard error changes nothing: the sum of squares does not depend
on signs. The test is exact for symmetric differences.

Yes-or-no values have exact intervals: Clopper and Pearson (1934) for a share, and for the difference of paired shares
the interval of Fay and Lumbard (2021), which agrees with McNemar's exact test.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
TAIL = ALPHA / 2
RESAMPLES = 9999
MAX_VALUES = 4_000_000  # resampled values in memory
NODES = 2000  # of the numerical integral over a share
TINY = 1e-12  # relative rounding error of a sum

Interval = tuple[float, float]


@dataclass(frozen=True)
class SignFlips:
    """The sign-flip test of a mean, in all hypotheses at once.

    Attributes:
        values: one per prompt, at least one.
    """

    values: NDArray[np.float64]

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """Return the sorted means of all nonempty subsets of the values, or of random ones of many values."""
        tolerance = TINY * float(np.abs(self.values).sum())
        parts = []
        for members, sizes in choose_subsets(len(self.values)):
            sums = members @ self.values
            sums[np.abs(sums) <= tolerance] = 0
            parts.append(sums / sizes)
        return np.sort(np.concatenate(parts))

    @property
    def total(self) -> int:
        """Return the number of subsets, with the empty one, which stands for the observed signs."""
        return 2 ** len(self.values) if is_enumerated(len(self.values)) else RESAMPLES + 1

    @property
    def always(self) -> int:
        """Return how many subsets are empty and thus at least as extreme as the observed signs in any hypothesis."""
        return self.total - len(self.means)

    def p_value(self, mean: float = 0.0) -> float:
        """Return the two-sided p-value of a mean."""
        below = int(np.searchsorted(self.means, mean, side="right"))
        above = len(self.means) - int(np.searchsorted(self.means, mean, side="left"))
        return min(2 * (min(below, above) + self.always) / self.total, 1.0)

    def interval(self) -> Interval | None:
        """Return the means whose p-value exceeds 0.05; None if that is every mean."""
        rejected = math.floor(TAIL * self.total) - self.always
        return None if rejected < 0 else (float(self.means[rejected]), float(self.means[-1 - rejected]))


def is_enumerated(count: int) -> bool:
    """Return whether there are so few subsets that all of them are used."""
    return count < 64 and 2**count <= RESAMPLES


def choose_subsets(count: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the members (0 or 1) and the sizes of all nonempty subsets of `count` prompts, or of random ones."""
    total = 2**count if is_enumerated(count) else RESAMPLES
    block = max(MAX_VALUES // count, 1)
    for start in range(0, total, block):
        yield subset_block(count, start, min(block, total - start))


@lru_cache(maxsize=1)
def subset_block(count: int, start: int, length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nonempty ones of `length` subsets from number `start` on: `(subsets, count)` and their sizes."""
    members: NDArray[Any]
    if is_enumerated(count):
        members = np.arange(start, start + length)[:, None] >> np.arange(count) & 1
    else:
        data = np.random.default_rng(start).bytes(length * count // 8 + 1)
        members = np.unpackbits(np.frombuffer(data, np.uint8), count=length * count).reshape(length, count)
    sizes = members.sum(axis=1)
    return members[sizes > 0].astype(float), sizes[sizes > 0].astype(float)


@cache
def share_interval(successes: float, count: int) -> Interval:
    """Return the exact 95% interval of a share (Clopper and Pearson 1934).

    Args:
        successes: number of successes; of a half, from ties, the interval covers both integers.
        count: number of trials.
    """
    from scipy.stats import binomtest

    low = binomtest(math.floor(successes), count).proportion_ci(1 - ALPHA, method="exact").low
    high = binomtest(math.ceil(successes), count).proportion_ci(1 - ALPHA, method="exact").high
    return float(low), float(high)


@cache
def paired_share_interval(gained: int, lost: int, count: int) -> Interval:
    """Return the exact 95% interval of the difference of two paired shares.

    Args:
        gained, lost: number of pairs in which only the second, or only the first, is a success.
        count: number of pairs.

    Source: the melded interval of Fay and Lumbard 2021, "Confidence intervals for difference in proportions for matched
    pairs compatible with exact McNemar's or sign tests", Statistics in Medicine 40.
    """
    return lower_bound(gained, lost, count), -lower_bound(lost, gained, count)


def lower_bound(gained: int, lost: int, count: int) -> float:
    """Return the 2.5% quantile of `u (2 b - 1)`, the lower bound of a difference of paired shares.

    `b`, a lower confidence variable of the gained share of changed pairs, is Beta(gained, lost + 1). `u`, one of the
    changed share of all pairs, is the upper Beta(changed + 1, count - changed) where the product is negative, and the
    lower Beta(changed, count - changed + 1) where it is positive. The integral over `b` is split at 1/2, so that the
    bound is above 0 exactly where McNemar's p-value is below 0.05.
    """
    from scipy.optimize import brentq
    from scipy.special import betainc, betaincinv

    changed, unchanged = gained + lost, count - gained - lost
    negative = float(betainc(gained, lost + 1, 0.5)) if gained else 1.0
    points = (np.arange(NODES) + 0.5) / NODES
    if negative > TAIL:
        losses = 1 - 2 * (betaincinv(gained, lost + 1, points * negative) if gained else np.zeros(NODES))

        def exceed(size: float) -> float:
            sizes = np.minimum(size / losses, 1)
            return float(np.mean(1 - betainc(changed + 1, unchanged, sizes) if unchanged else size <= losses))

        return -min(brentq(lambda size: negative * exceed(size) - TAIL, 0, 1 + TINY), 1.0)
    gains = 2 * betaincinv(gained, lost + 1, negative + points * (1 - negative)) - 1

    def fall_below(size: float) -> float:
        return float(np.mean(betainc(changed, unchanged + 1, np.minimum(size / gains, 1))))

    return float(brentq(lambda size: negative + (1 - negative) * fall_below(size) - TAIL, 0, 1))


def paired_share_p_value(gained: int, lost: int) -> float:
    """Return the two-sided p-value of equal paired shares: McNemar's exact test, which flips signs."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def unchanged_bound(count: int) -> float:
    """Return the largest share of prompts that may differ, although none of `count` did: an exact 97.5% bound."""
    return share_interval(0, count)[1]


def prompts_for_share(share: float) -> int:
    """Return how many prompts without a difference show that fewer than this share differ."""
    return math.floor(math.log(TAIL) / math.log1p(-share)) + 1 if share < 1 else 1


def prompts_for_p(tests: int = 1) -> int:
    """Return how many prompts a sign-flip test needs for p of at most 0.05, corrected for a number of tests (Holm)."""
    return 1 + math.ceil(math.log2(tests / ALPHA))


def prompts_for_decision(distances: Sequence[float]) -> float:
    """Return how many prompts show on which side of 0 the mean lies, at the observed mean and standard deviation.

    The probability to show it is 80%, in the normal approximation `((z_0.975 + z_0.8) s / m)^2`. It is infinite at a
    mean of 0.
    """
    from scipy.stats import norm

    mean, deviation = float(np.mean(distances)), float(np.std(distances, ddof=1)) if len(distances) > 1 else math.inf
    quantiles = float(norm.ppf(1 - TAIL) + norm.ppf(0.8))
    return (quantiles * deviation / mean) ** 2 if mean else math.inf
