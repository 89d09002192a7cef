"""Variance of a mean over prompts and raters, both of which are samples: votes of one prompt, or of one rater, agree.

A vote on a prompt by a rater is `m + a_prompt + b_rater + e`, with independent effects. The variances of the three are
estimated from sums of squares within prompts, within raters and in total, which are unbiased for any pattern of missing
votes (Henderson 1953, "Estimation of variance and covariance components"; in this form Gao and Owen 2017, "Efficient
moment calculations for variance components in large unbalanced crossed random effects models"). The variance of the
mean follows from the weights. Its degrees of freedom are Satterthwaite's (1946), as used for studies of several readers
and cases (Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis").

Two alternatives are worse for the two to five raters that such studies have (benchmarks/results/votes.md). The
cluster-robust variance of Cameron, Gelbach and Miller (2011), by prompt plus by rater less by both, subtracts effects
of prompts and raters together with the noise, and its intervals are longer; percentiles of the pigeonhole bootstrap
(Owen 2007) are too short where raters differ.

The interval of the mean, a share, is the exact one at the effective number of independent votes (Korn and Graubard
1998, "Confidence intervals for proportions with small expected number of positive counts estimated from survey data").
It stays in 0 to 1, and has a length where all votes are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.scoring.intervals import TAIL, Interval

ROUNDING = 1e-12  # of a sum of squares
Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Votes averaged over each pair of a prompt and a rater.

    Attributes:
        values: mean vote of each cell. weights: of each cell, with a sum of 1.
        prompts, raters: number of the prompt, and of the rater, of each cell, from 0 on without gaps.
    """

    values: Array
    weights: Array
    prompts: Labels
    raters: Labels

    @property
    def mean(self) -> float:
        """Return the weighted mean, exactly if all values are equal."""
        return float(self.values[0] if self.are_equal else self.weights @ self.values)

    @property
    def are_equal(self) -> bool:
        """Return whether all values are equal."""
        return bool((self.values == self.values[0]).all())


@dataclass(frozen=True, kw_only=True)
class Variance:
    """Variance of a mean, and the degrees of freedom of its estimate."""

    variance: float
    freedom: float


def make_cells(values: Sequence[float], prompts: Sequence[Any], raters: Sequence[Any], by_prompt: bool) -> Cells:
    """Average votes over each pair of a prompt and a rater.

    Args:
        values: one per vote. prompts, raters: of each vote, any hashable values.
        by_prompt: whether all prompts have the same weight, and in a prompt all raters; otherwise all votes have.
    """
    members: dict[tuple[Any, Any], list[float]] = {}
    for value, prompt, rater in zip(values, prompts, raters, strict=True):
        members.setdefault((prompt, rater), []).append(value)
    rows, columns = (number([key[side] for key in members]) for side in (0, 1))
    counts = np.array([len(group) for group in members.values()], float)
    weights = 1 / (np.bincount(rows)[rows] * (rows.max() + 1)) if by_prompt else counts / counts.sum()
    means = np.array([sum(group) / len(group) for group in members.values()])
    return Cells(values=means, weights=weights, prompts=rows, raters=columns)


def number(labels: Sequence[Any]) -> Labels:
    """Return the number of each label in order of first appearance."""
    numbers = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], np.int64)


def mean_variance(cells: Cells) -> Variance:
    """Return the variance of the mean of the cells, for further prompts and raters; with one rater for further prompts.

    Where raters share too few prompts to separate the noise, or all of them agree on those, the cluster-robust
    variances by prompt and by rater are added, which is never too small on average (Davezies, D'Haultfoeuille and
    Guyonvarch 2021, "Empirical process results for exchangeable arrays").
    """
    counts = [np.bincount(labels) for labels in (cells.prompts, cells.raters)]
    if cells.are_equal and len(cells.values) > 1:
        return Variance(variance=0.0, freedom=1.0)
    if len(counts[1]) == 1 or len(counts[0]) == 1:
        return one_way_variance(cells, cells.prompts if len(counts[1]) == 1 else cells.raters)
    components = variance_components(cells)
    if components is None:
        parts = [one_way_variance(cells, labels) for labels in (cells.prompts, cells.raters)]
        return Variance(variance=sum(p.variance for p in parts), freedom=min(p.freedom for p in parts))
    prompt, rater, noise = components
    squares = [float((np.bincount(labels, cells.weights) ** 2).sum()) for labels in (cells.prompts, cells.raters)]
    noise *= float((cells.weights**2).sum())
    shares = (prompt * squares[0], rater * squares[1])
    total = sum(shares) + noise
    sizes = (len(counts[0]) - 1, len(counts[1]) - 1)
    uncertainty = sum((share + noise) ** 2 / size for share, size in zip(shares, sizes, strict=True))
    uncertainty += noise**2 / (len(cells.values) - sum(sizes) - 1)
    return Variance(variance=total, freedom=total**2 / uncertainty)


def one_way_variance(cells: Cells, labels: Labels) -> Variance:
    """Return the cluster-robust variance of the mean, clustered by the labels; infinite for a single cluster."""
    clusters = int(labels.max()) + 1
    if clusters == 1:
        return Variance(variance=math.inf, freedom=1.0)
    sums = np.bincount(labels, cells.weights * (cells.values - cells.mean))
    return Variance(variance=clusters / (clusters - 1) * float((sums**2).sum()), freedom=clusters - 1.0)


def variance_components(cells: Cells) -> tuple[float, float, float] | None:
    """Return the variances of prompts, raters and noise, not below 0; None where they cannot be separated.

    Equations of expectation, of N cells with n_p of prompt p and n_r of rater r: the sum of squares within prompts is
    `(N - P) (s_r + s_e)`, within raters `(N - R) (s_p + s_e)`, and in total
    `s_p (N - sum n_p^2 / N) + s_r (N - sum n_r^2 / N) + s_e (N - 1)`.
    """
    values, count = cells.values, len(cells.values)
    rows, columns = np.bincount(cells.prompts), np.bincount(cells.raters)
    whole = [count - float((each.astype(float) ** 2).sum()) / count for each in (rows, columns)]
    freedom = sum(whole) - count + 1
    total = float(((values - values.mean()) ** 2).sum())
    if count <= len(rows) or count <= len(columns) or freedom < 1 - 1e-9 or count <= len(rows) + len(columns) - 1:
        return None
    within_prompts = squares_within(values, cells.prompts) / (count - len(rows))
    within_raters = squares_within(values, cells.raters) / (count - len(columns))
    if within_prompts + within_raters <= ROUNDING * total:  # all differences are between groups without a common prompt
        return None
    noise = max((within_raters * whole[0] + within_prompts * whole[1] - total) / freedom, 0.0)
    return max(within_raters - noise, 0.0), max(within_prompts - noise, 0.0), noise


def squares_within(values: Array, labels: Labels) -> float:
    """Return the sum of squared deviations from the mean of each label."""
    means = np.bincount(labels, values) / np.bincount(labels)
    return float(((values - means[labels]) ** 2).sum())


def effective_votes(mean: float, variance: Variance, votes: int, prompts: int) -> float:
    """Return how many independent votes would give a share as exactly as the clustered ones, at most all of them.

    Where the variance is 0, as of unanimous votes, each prompt counts once.
    """
    from scipy.stats import t

    if not variance.variance:
        return float(prompts)
    if not math.isfinite(variance.variance):
        return 0.0
    ratio = float(t.ppf(1 - TAIL, max(votes - 1, 1)) / t.ppf(1 - TAIL, variance.freedom))
    return min(mean * (1 - mean) / variance.variance * ratio**2, float(votes))


def share_interval_of(mean: float, votes: float) -> Interval:
    """Return the exact 95% interval of a share (Clopper and Pearson 1934); the number of votes need not be whole."""
    from scipy.special import betaincinv

    wins, losses = mean * votes, (1 - mean) * votes
    low = float(betaincinv(wins, losses + 1, TAIL)) if wins > 0 else 0.0
    high = float(betaincinv(wins + 1, losses, 1 - TAIL)) if losses > 0 else 1.0
    return low, high


def share_p_value(mean: float, votes: float) -> float:
    """Return the two-sided p-value of a share of one half, of which 0.05 is at the ends of the interval."""
    from scipy.special import betainc

    wins, losses = mean * votes, (1 - mean) * votes
    more = float(betainc(wins, losses + 1, 0.5)) if wins > 0 else 1.0
    fewer = float(betainc(losses, wins + 1, 0.5)) if losses > 0 else 1.0
    return min(2 * min(more, fewer), 1.0)
