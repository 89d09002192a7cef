"""Strengths of variants from votes on pairs of them (Bradley and Terry 1952, "Rank analysis of incomplete block
designs"): a variant of strength s wins against one of strength t with probability `1 / (1 + exp(t - s))`.

A tie is half a win of each, as in the win rate. The model of Davidson (1970, "On extending the Bradley-Terry model to
accommodate ties") has a further parameter, the share of ties, which no question here is about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.scoring.intervals import TAIL
from vidguide.eval.scoring.two_way import make_cells, mean_variance

Array = NDArray[np.float64]
ITERATIONS = 200
TOLERANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Strength of one variant, in log-odds relative to the mean of all, with its 95% interval.

    Attributes:
        variant: its name. votes: number of its votes.
        strength, low, high: log-odds; an interval of one vote per prompt and rater may be infinite.
        share: probability to win against a variant of mean strength.
    """

    variant: str
    votes: int
    strength: float
    low: float
    high: float
    share: float


def explain_missing(wins: Array, names: Sequence[str]) -> str:
    """Return why the strengths have no estimate; empty if they have one.

    They have one exactly if no set of variants wins every vote against the others (Ford 1957, "Solution of a ranking
    problem from binary comparisons"): the graph of wins is strongly connected.

    Args:
        wins: `(K, K)`: how often the variant of the row won against that of the column, ties as half wins.
        names: of the variants.
    """
    from scipy.sparse.csgraph import connected_components

    groups, labels = connected_components(wins + wins.T > 0, directed=False)
    if groups > 1:
        parts = [", ".join(n for n, label in zip(names, labels, strict=True) if label == g) for g in range(groups)]
        return f"no vote connects {' with '.join(parts)}"
    count, labels = connected_components(wins > 0, directed=True, connection="strong")
    if count == 1:
        return ""
    for group in np.argsort(np.bincount(labels, minlength=count), kind="stable"):  # the smallest set says most
        inside = labels == group
        for verb, lost in (("won", wins[~inside][:, inside]), ("lost", wins[inside][:, ~inside])):
            if not lost.any():
                members = ", ".join(name for name, member in zip(names, inside, strict=True) if member)
                return f"{members} {verb} every vote against the others, so that the difference has no finite estimate"
    raise AssertionError("a graph with several strong components has a source")


def fit_strengths(wins: Array) -> Array:
    """Return the strengths `(K,)` of largest likelihood, with a mean of 0, by Newton's method.

    Args:
        wins: as for :func:`explain_missing`, strongly connected.

    Raises:
        ArithmeticError: no convergence.
    """
    strengths = np.zeros(len(wins))
    for _ in range(ITERATIONS):
        gradient, information = derivatives(wins, strengths)
        if np.abs(gradient).max() <= TOLERANCE * wins.sum():
            return strengths - strengths.mean()
        step = np.linalg.pinv(information, hermitian=True) @ gradient
        likelihood = log_likelihood(wins, strengths)
        while log_likelihood(wins, strengths + step) < likelihood and np.abs(step).max() > TOLERANCE:
            step = step / 2
        strengths = strengths + step
    raise ArithmeticError("strengths: Newton's method did not converge")


def log_likelihood(wins: Array, strengths: Array) -> float:
    """Return the log-likelihood of strengths."""
    return -float((wins * np.logaddexp(0, strengths - strengths[:, None])).sum())


def derivatives(wins: Array, strengths: Array) -> tuple[Array, Array]:
    """Return gradient `(K,)` of the log-likelihood, and its negative second derivative `(K, K)`."""
    shares = win_shares(strengths)
    counts = wins + wins.T
    weights = counts * shares * (1 - shares)
    return (wins - counts * shares).sum(axis=1), np.diag(weights.sum(axis=1)) - weights


def win_shares(strengths: Array) -> Array:
    """Return the probability `(K, K)` that the variant of the row wins against that of the column."""
    return 1 / (1 + np.exp(strengths - strengths[:, None]))


def estimate_strengths(
    names: Sequence[str], pairs: NDArray[np.int64], results: Array, prompts: Sequence[Any], raters: Sequence[Any]
) -> tuple[list[Strength], str]:
    """Return the strengths, strongest first, or none with the reason.

    The intervals are for further prompts and raters: a strength is, to first order, a mean over votes of their
    influences (the inverse information times the derivative of a vote's log-likelihood), whose variance is that of
    :func:`vidguide.eval.scoring.two_way.mean_variance`.

    Args:
        names: of the variants, each with votes.
        pairs: `(N, 2)`: numbers of the two variants of each vote.
        results: `(N,)`: 1 if the second won, 0 if the first did, 1/2 for a tie.
        prompts, raters: of each vote.
    """
    from scipy.stats import t

    wins = count_wins(len(names), pairs, results)
    if reason := explain_missing(wins, names):
        return [], reason
    strengths = fit_strengths(wins)
    influences = vote_influences(strengths, wins, pairs, results)
    estimates = []
    for index, name in enumerate(names):
        variance = mean_variance(make_cells(influences[:, index].tolist(), prompts, raters, by_prompt=False))
        half = float(t.ppf(1 - TAIL, variance.freedom) * variance.variance**0.5)
        value, votes = float(strengths[index]), int((pairs == index).sum())
        share = float(1 / (1 + np.exp(-value)))
        estimates.append(
            Strength(variant=name, votes=votes, strength=value, low=value - half, high=value + half, share=share)
        )
    return sorted(estimates, key=lambda each: -each.strength), ""


def count_wins(variants: int, pairs: NDArray[np.int64], results: Array) -> Array:
    """Return how often each variant won against each other one, ties as half wins; arguments as above."""
    wins = np.zeros((variants, variants))
    np.add.at(wins, (pairs[:, 1], pairs[:, 0]), results)
    np.add.at(wins, (pairs[:, 0], pairs[:, 1]), 1 - results)
    return wins


def vote_influences(strengths: Array, wins: Array, pairs: NDArray[np.int64], results: Array) -> Array:
    """Return the influence `(N, K)` of each vote on each strength, whose mean over votes is 0; arguments as above."""
    inverse = np.linalg.pinv(derivatives(wins, strengths)[1], hermitian=True)
    residuals = results - win_shares(strengths)[pairs[:, 1], pairs[:, 0]]
    return len(results) * residuals[:, None] * (inverse[pairs[:, 1]] - inverse[pairs[:, 0]])
