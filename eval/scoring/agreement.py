"""Agreement between raters: Krippendorff's alpha of votes on the same pair of clips.

Fleiss' kappa needs the same number of raters for each pair, and treats a tie as unlike a win as a loss is. Alpha takes
any number of raters per pair, and its interval metric has a tie half-way.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Krippendorff's alpha: 1 is perfect agreement, 0 that of random votes with the same frequencies.

    Attributes:
        alpha: None where it is undefined, for the reason.
        pairs: number of pairs of clips with votes of at least two raters.
        reason: why it is undefined; empty otherwise.
    """

    alpha: float | None
    pairs: int
    reason: str = ""


def krippendorff_alpha(votes: Iterable[tuple[Hashable, float]]) -> Agreement:
    """Return the agreement of votes, with the interval metric `(a - b)^2`.

    Alpha is `1 - D_o / D_e`. The observed disagreement `D_o` is the mean squared difference of votes on the same pair,
    and the expected one `D_e` that of any two votes; each vote on a pair of m votes has the weight `1 / (m - 1)`. In
    terms of variances: `D_o` is the sum over pairs of `2 m / (m - 1)` times the sum of squares, divided by the number
    of votes. Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".

    Args:
        votes: (pair of clips, result between 0 and 1); pairs with a single vote do not count.
    """
    units: dict[Hashable, list[float]] = {}
    for unit, value in votes:
        units.setdefault(unit, []).append(value)
    shared = [np.array(values) for values in units.values() if len(values) > 1]
    if not shared:
        return Agreement(alpha=None, pairs=0, reason="no pair of clips has votes of two raters")
    values = np.concatenate(shared)
    count = len(values)
    expected = 2 * float(((values - values.mean()) ** 2).sum()) / (count - 1)
    if not expected:
        return Agreement(alpha=None, pairs=len(shared), reason="all votes are equal")
    sums = (2 * len(each) / (len(each) - 1) * float(((each - each.mean()) ** 2).sum()) for each in shared)
    return Agreement(alpha=1 - sum(sums) / count / expected, pairs=len(shared))
