"""Measure the intervals of win rates of `vidguide.eval`, and of two other methods, in simulated votes.

    python benchmarks/votes.py [--studies 1000]

In a study each rater votes on each prompt. A vote is 1, 0, or a tie by the sign of a normal value with unit noise, an
effect of the prompt and one of the rater; below 0.3 in size it is a tie. The true win rate is that of further prompts
and raters, in closed form.

Methods: variance components, which the evaluation uses; the cluster-robust variance of Cameron, Gelbach and Miller
(2011), by prompt plus by rater less by both, with Student's t at the smaller number of clusters less 1; and the
pigeonhole bootstrap of Owen (2007), which resamples prompts and raters, with percentiles.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reporting import table, write
from rich.progress import track

from vidguide.eval.scoring.two_way import Cells, effective_votes, make_cells, mean_variance, share_interval_of

TIE = 0.3
RESAMPLES = 400
Interval = tuple[float, float]
Votes = NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """Numbers of prompts and raters, deviations of their effects, and the mean preference."""

    prompts: int
    raters: int
    of_prompts: float
    of_raters: float
    mean: float

    @property
    def true_rate(self) -> float:
        """Return the win rate over all prompts and raters, ties as half wins."""
        from scipy.stats import norm

        deviation = (1 + self.of_prompts**2 + self.of_raters**2 * (self.raters > 1)) ** 0.5
        return float(norm.cdf((self.mean - TIE) / deviation) + norm.cdf((self.mean + TIE) / deviation)) / 2

    def draw(self, random: np.random.Generator) -> Votes:
        """Return votes `(prompts, raters)`; a single rater has no effect, as it is for further prompts only."""
        prompts = self.of_prompts * random.normal(size=(self.prompts, 1))
        raters = self.of_raters * random.normal(size=self.raters) * (self.raters > 1)
        values = self.mean + prompts + raters + random.normal(size=(self.prompts, self.raters))
        return np.where(np.abs(values) < TIE, 0.5, (values > 0).astype(float))


STUDIES = [
    *(Study(30, raters, 0.7, 0.0, 0.8) for raters in (1, 2, 3, 5, 10)),
    *(Study(30, raters, 0.7, 0.4, 0.8) for raters in (2, 3, 5, 10)),
    *(Study(100, raters, 0.7, 0.4, 0.0) for raters in (3, 5, 10)),
    Study(30, 5, 0.7, 0.4, 2.0),
]


def cells_of(votes: Votes) -> Cells:
    """Return the cells of a table of votes."""
    prompts, raters = (index.ravel().tolist() for index in np.indices(votes.shape))
    return make_cells(votes.ravel().tolist(), prompts, raters, by_prompt=True)


def components(votes: Votes, random: np.random.Generator) -> Interval:
    """Return the interval of the evaluation."""
    cells = cells_of(votes)
    return share_interval_of(cells.mean, effective_votes(cells.mean, mean_variance(cells), votes.size, len(votes)))


def cluster_robust(votes: Votes, random: np.random.Generator) -> Interval:
    """Return the interval by the cluster-robust variance of two ways; of one rater by that of prompts."""
    from scipy.stats import t

    mean, count = float(votes.mean()), votes.size
    rest = (votes - mean) / count

    def variance(sums: Any) -> float:
        return len(sums) / (len(sums) - 1) * float((sums**2).sum()) if len(sums) > 1 else 0.0

    parts = [variance(rest.sum(axis=1)), variance(rest.sum(axis=0)), variance(rest.ravel())]
    total = parts[0] if votes.shape[1] == 1 else max(parts[0] + parts[1] - parts[2], 0.0)
    clusters = min(size for size in votes.shape if size > 1)
    half = float(t.ppf(0.975, clusters - 1)) * total**0.5
    return mean - half, mean + half


def pigeonhole(votes: Votes, random: np.random.Generator) -> Interval:
    """Return the percentile interval of the means of resampled prompts and raters."""
    weights = [random.multinomial(size, np.full(size, 1 / size), RESAMPLES) / size for size in votes.shape]
    means = np.einsum("bp,pr,br->b", weights[0], votes, weights[1])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


METHODS = {"components": components, "cluster-robust": cluster_robust, "pigeonhole": pigeonhole}


def measure(study: Study, studies: int) -> dict[str, str]:
    """Return for each method how many intervals contain the true win rate, exclude one half, and their mean length."""
    random, intervals = np.random.default_rng(0), dict[str, list[Interval]]()
    for _ in range(studies):
        votes = study.draw(random)
        for name, method in METHODS.items():
            intervals.setdefault(name, []).append(method(votes, random))
    row = {"prompts": str(study.prompts), "raters": str(study.raters), "rater effects": f"{study.of_raters:g}"}
    row["true win rate, %"] = f"{100 * study.true_rate:.0f}"
    for name, pairs in intervals.items():
        bounds = np.array(pairs)
        contained = (bounds[:, 0] <= study.true_rate) & (study.true_rate <= bounds[:, 1])
        decided = (bounds[:, 0] > 0.5) | (bounds[:, 1] < 0.5)
        lengths = 100 * float((bounds[:, 1] - bounds[:, 0]).mean())
        row[name] = f"{100 * contained.mean():.0f} / {100 * decided.mean():.0f} / {lengths:.0f}"
    return row


def main() -> None:
    """Simulate, print and write `benchmarks/results/votes.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    arguments = parser.parse_args()
    rows = [measure(study, arguments.studies) for study in track(STUDIES, "studies")]
    parts = (
        f"Of {arguments.studies} simulated studies: percent of intervals that contain the true win rate / percent that",
        "exclude one half / mean length in points. Effects of prompts have the deviation 0.7, noise has 1:\n",
        table(rows),
    )
    write("votes", "\n".join(parts), {"rows": rows, **vars(arguments)})


if __name__ == "__main__":
    main()
