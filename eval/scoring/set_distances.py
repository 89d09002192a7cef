"""Distances between sets of clips in a feature space, with the prompt as the unit.

The kernel distance is unbiased for any number of prompts. The Fréchet distance is biased upward, the more the fewer the
clips and the more the dimensions; the jackknife removes the term of order 1/n. Clips of one prompt are not independent,
so pairs of them are left out.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Kernel = Callable[[Values, Values], Values]

NEIGHBOURS = 3  # that define a manifold, as in Kynkäänniemi et al. 2019
SWAPS = 999  # random exchanges of the arms, of which the p-value is the share


def frechet_distance(first: Values, second: Values) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to features `(N, D)` and `(M, D)`.

    Source: Dowson and Landau 1982. The trace of the root of the product of covariances is the sum of the singular
    values of the product of the centred features, so that fewer clips than dimensions are no obstacle.
    """
    from scipy.linalg import svdvals

    centred = [(part - part.mean(0)) / np.sqrt(len(part) - 1) for part in (first, second)]
    left, right = (triangular(part) for part in centred)
    total = sum(float((part**2).sum()) for part in centred) - 2 * float(svdvals(left @ right.T).sum())
    return float(((first.mean(0) - second.mean(0)) ** 2).sum()) + total


def triangular(features: Values) -> Values:
    """Return at most D rows with the same products as features `(N, D)`, for a faster decomposition."""
    return np.asarray(np.linalg.qr(features, mode="r")) if len(features) > features.shape[1] else features


def cubic_kernel(first: Values, second: Values) -> Values:
    """Return the kernel `(x y / D + 1)^3` `(N, M)` of features `(N, D)` and `(M, D)` (Binkowski et al. 2018, KID)."""
    return np.asarray((first @ second.T / first.shape[1] + 1) ** 3)


def quadratic_kernel(first: Values, second: Values) -> Values:
    """Return the kernel `100 (x y / D)^2` `(N, M)` of features `(N, D)` and `(M, D)` (Luo et al. 2025, JEDi)."""
    return np.asarray(100 * (first @ second.T / first.shape[1]) ** 2)


def kernel_terms(first: list[Values], second: list[Values], kernel: Kernel = cubic_kernel) -> Values:
    """Return the terms `(P, P)` of the kernel distance: of each pair of prompts, the mean over their clips.

    Args:
        first, second: features `(clips, D)` of each of P prompts, in two sets.
        kernel: of two sets of features.
    """
    sets = [np.concatenate(part) for part in (first, second)]
    means = [averaging_matrix([len(features) for features in part]) for part in (first, second)]
    within = [mean @ kernel(part, part) @ mean.T for mean, part in zip(means, sets, strict=True)]
    across = means[0] @ kernel(sets[0], sets[1]) @ means[1].T
    return np.asarray(within[0] + within[1] - across - across.T)


def averaging_matrix(counts: list[int]) -> Values:
    """Return the matrix `(P, clips)` that averages over the clips of each prompt."""
    prompts = np.repeat(np.arange(len(counts)), counts)
    return np.asarray((prompts == np.arange(len(counts))[:, None]) / np.array(counts)[:, None])


def unbiased_mean(terms: Values) -> float:
    """Return the mean of the terms `(P, P)` of different prompts: the unbiased squared kernel distance."""
    count = len(terms)
    return float((terms.sum() - np.trace(terms)) / (count * (count - 1)))


def kernel_pseudo_values(terms: Values) -> Values:
    """Return the jackknife pseudo-values `(P,)` of the kernel distance; their mean is the distance."""
    count = len(terms)
    rows = terms.sum(1) - np.diag(terms)
    without = (rows.sum() - 2 * rows) / ((count - 1) * (count - 2))
    return np.asarray(count * unbiased_mean(terms) - (count - 1) * without)


def pseudo_values(statistic: Callable[[list[int]], float], count: int) -> Values:
    """Return the jackknife pseudo-values `(count,)` of a statistic of the numbers of the prompts (Tukey 1958).

    Their mean is the estimate without the bias of order 1/n; as if they were independent observations, they give its
    interval.
    """
    everything = list(range(count))
    whole = statistic(everything)
    return np.array(
        [count * whole - (count - 1) * statistic([*everything[:i], *everything[i + 1 :]]) for i in range(count)]
    )


def swap_p_value(terms: Values) -> float:
    """Return the one-sided p-value of the kernel distance of two arms of the same prompts.

    If the arms do not differ, they can be exchanged within any prompt, which changes the sign of its terms.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (SWAPS, len(terms)))
    off_diagonal = terms - np.diag(np.diag(terms))
    swapped = np.einsum("sp,pq,sq->s", signs, off_diagonal, signs, optimize=True)
    observed = off_diagonal.sum()
    return float((1 + (swapped >= observed - 1e-12 * np.abs(off_diagonal).sum()).sum()) / (1 + SWAPS))


def covered(points: Values, manifold: Values) -> NDArray[np.bool_]:
    """Return which points `(N, D)` lie on the manifold of features `(M, D)`.

    The manifold is the union of balls around each feature that reach to its third neighbour. Precision is the share of
    generated clips on the manifold of real ones, recall the reverse. Source: Kynkäänniemi et al. 2019, "Improved
    precision and recall metric for assessing generative models".
    """
    from scipy.spatial.distance import cdist

    radius = np.sort(cdist(manifold, manifold), axis=1)[:, min(NEIGHBOURS, len(manifold) - 1)]
    return np.asarray((cdist(points, manifold) <= radius).any(1))
