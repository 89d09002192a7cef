"""Measure errors and power of the verdicts of `vidguide.eval`, and the coverage of its intervals, on random values.

    python benchmarks/verdicts.py [--comparisons 200] [--samples 2000]

Verdicts: pairs of arms are drawn, of which the warping error is the primary metric, with a motion guard (margin: 5% of
the reference) and a guard of well-formed clips (margin: a share of 0.05). Prompts differ by a lognormal factor
(deviation 0.5), and the two clips of a prompt by one of deviation 0.1; whether a clip is well-formed is random in each.
The rows differ in the true change. Exploratory: how often any of several metrics without a change is called a finding.

Coverage: how often the 95% interval contains the true mean, and how often interval and p-value disagree.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from reporting import table, write

from vidguide.eval.scoring.intervals import ALPHA, paired_share_interval, share_interval
from vidguide.eval.scoring.statistics import estimate_difference
from vidguide.eval.scoring.verdict import compare_metrics

PRIMARY, MOTION, WELL_FORMED = "temporal.warp_error", "guard.motion", "world.well_formed"
EXPLORATORY = (
    *("world.colour", "world.shape", "world.size", "world.motion", "world.background", "temporal.flow_jerk"),
    *("temporal.luma_flicker", "dual.similarity", "dual.margin", "vbench.temporal_flickering"),
)
VERDICTS = ("better", "better, guard undecided", "confounded", "worse", "no conclusion")


@dataclass(frozen=True)
class Scenario:
    """True changes: factors of warping error and motion, and the shares of well-formed clips in both arms."""

    error: float = 1.0
    motion: float = 1.0
    well_formed: tuple[float, float] = (0.95, 0.95)


SCENARIOS = {
    "no change": Scenario(),
    "error -10%": Scenario(error=0.9),
    "error -20%": Scenario(error=0.8),
    "error -20%, all clips well-formed": Scenario(error=0.8, well_formed=(1.0, 1.0)),
    "error -20%, motion -5% (the margin)": Scenario(error=0.8, motion=0.95, well_formed=(1.0, 1.0)),
    "error -20%, motion -15%": Scenario(error=0.8, motion=0.85, well_formed=(1.0, 1.0)),
    "error -20%, well-formed 95 to 90% (the margin)": Scenario(error=0.8, well_formed=(0.95, 0.9)),
    "error -20%, well-formed 95 to 60%": Scenario(error=0.8, well_formed=(0.95, 0.6)),
    "error +20%": Scenario(error=1.2),
}
Sampler = Callable[[np.random.Generator, int], np.ndarray]
DIFFERENCES: dict[str, tuple[float, Sampler]] = {  # name: (true mean, sampler)
    "normal": (0.0, lambda random, n: random.normal(size=n)),
    "t with 3 degrees": (0.0, lambda random, n: random.standard_t(3, n)),
    "lognormal": (float(np.exp(0.5)), lambda random, n: random.lognormal(size=n)),
}
CHANGES = {"gained 20, lost 20": (0.2, 0.2), "gained 40, lost 10": (0.4, 0.1), "gained 5, lost 5": (0.05, 0.05)}
SHARES = (0.5, 0.9, 0.99)


def make_rows(values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return result rows of one arm: one clip per prompt."""
    return [
        {"metric": metric, "status": "ok", "value": float(value), "prompt_id": str(prompt), "seed": 0}
        for metric, column in values.items()
        for prompt, value in enumerate(column)
    ]


def draw_arms(scenario: Scenario, prompts: int, random: np.random.Generator) -> list[list[dict[str, Any]]]:
    """Return the rows of the reference arm and of the other arm."""
    level = {name: random.lognormal(sigma=0.5, size=prompts) for name in (PRIMARY, MOTION)}
    arms = []
    for factors, well_formed in (((1.0, 1.0), 0), ((scenario.error, scenario.motion), 1)):
        values = {
            name: factor * level[name] * random.lognormal(sigma=0.1, size=prompts)
            for name, factor in zip(level, factors, strict=True)
        }
        values[WELL_FORMED] = (random.random(prompts) < scenario.well_formed[well_formed]).astype(float)
        arms.append(make_rows(values))
    return arms


def verdict_kind(verdict: str) -> str:
    """Return the kind of a verdict: one of VERDICTS."""
    matches = [kind for kind in VERDICTS if verdict.startswith(kind)]
    return max(matches, key=len, default="no conclusion")


def verdict_shares(scenario: Scenario, prompts: int, comparisons: int, seed: int = 0) -> dict[str, float]:
    """Return the share of comparisons with each kind of verdict."""
    random, counts = np.random.default_rng(seed), Counter[str]()
    for _ in range(comparisons):
        reference, other = draw_arms(scenario, prompts, random)
        lines = {line.metric: line for line in compare_metrics(reference, other, (PRIMARY,), ())}
        counts[verdict_kind(lines[PRIMARY].verdict)] += 1
    return {kind: counts[kind] / comparisons for kind in VERDICTS}


def exploratory_share(prompts: int, comparisons: int, seed: int = 0) -> dict[str, float]:
    """Return the share of comparisons without any change in which an exploratory metric is a finding.

    Returns:
        with the correction of the verdicts, and with uncorrected p-values.
    """
    random, called = np.random.default_rng(seed), {"corrected": 0, "uncorrected": 0}
    for _ in range(comparisons):
        arms = [make_rows({name: random.random(prompts) for name in EXPLORATORY}) for _ in range(2)]
        lines = compare_metrics(arms[0], arms[1], (), ())
        called["corrected"] += any("exploratory" in line.verdict for line in lines)
        called["uncorrected"] += any((line.paired.p or 1) <= ALPHA for line in lines)
    return {name: count / comparisons for name, count in called.items()}


def coverage(mean: float, sampler: Sampler, prompts: int, samples: int, seed: int = 0) -> tuple[float | None, int]:
    """Return how often the interval contains the true mean (None without one), and how often it contradicts p."""
    random, covered, contradictions = np.random.default_rng(seed), [], 0
    for _ in range(samples):
        result, p = estimate_difference(sampler(random, prompts).tolist())
        if result.low is not None and result.high is not None and p is not None:
            covered.append(result.low <= mean <= result.high)
            contradictions += (p <= ALPHA) == (result.low <= 0 <= result.high)
    return (float(np.mean(covered)) if covered else None), contradictions


def paired_share_coverage(gained: float, lost: float, prompts: int, samples: int, seed: int = 0) -> tuple[float, int]:
    """Return the same of differences of yes-or-no values, which change up and down with the given probabilities."""
    random, covered, contradictions = np.random.default_rng(seed), 0, 0
    changes = random.multinomial(prompts, [gained, lost, 1 - gained - lost], samples)
    for ups, downs, _ in changes.tolist():
        low, high = paired_share_interval(ups, downs, prompts)
        _, p = estimate_difference([1.0] * ups + [-1.0] * downs + [0.0] * (prompts - ups - downs))
        covered += low <= gained - lost <= high
        contradictions += ((p or 1) <= ALPHA) == (low <= 0 <= high)
    return covered / samples, contradictions


def share_coverage(share: float, prompts: int, samples: int, seed: int = 0) -> float:
    """Return how often the interval of a share contains it."""
    successes = np.random.default_rng(seed).binomial(prompts, share, samples)
    intervals = {count: share_interval(count, prompts) for count in set(successes.tolist())}
    return float(np.mean([intervals[count][0] <= share <= intervals[count][1] for count in successes.tolist()]))


def coverage_rows(sizes: tuple[int, ...], samples: int) -> tuple[list[dict[str, str]], int]:
    """Return a row per distribution with the coverage at each number of prompts, and the number of contradictions."""
    rows, contradictions = [], 0
    for name, (mean, sampler) in DIFFERENCES.items():
        results = [coverage(mean, sampler, n, samples) for n in sizes]
        rows.append({"values": name} | {str(n): format_share(r[0]) for n, r in zip(sizes, results, strict=True)})
        contradictions += sum(result[1] for result in results)
    for name, (gained, lost) in CHANGES.items():
        results = [paired_share_coverage(gained, lost, n, samples) for n in sizes]
        rows.append(
            {"values": f"yes or no, % {name}"}
            | {str(n): format_share(r[0]) for n, r in zip(sizes, results, strict=True)}
        )
        contradictions += sum(result[1] for result in results)
    for share in SHARES:
        rows.append(
            {"values": f"share of {share:g}"} | {str(n): format_share(share_coverage(share, n, samples)) for n in sizes}
        )
    return rows, contradictions


def format_share(share: float | None) -> str:
    """Format a share in percent; "-" where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"


def main() -> None:
    """Simulate, print and write `benchmarks/results/verdicts.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    verdict_rows, sizes = [], (8, 20, 100)
    for name, scenario in SCENARIOS.items():
        for prompts in sizes:
            shares = verdict_shares(scenario, prompts, arguments.comparisons)
            shown = {kind: format_share(share) for kind, share in shares.items()}
            verdict_rows.append({"true change": name, "prompts": str(prompts), **shown})
    exploratory_rows = []
    for prompts in sizes:
        shares = exploratory_share(prompts, arguments.comparisons)
        exploratory_rows.append({"prompts": str(prompts)} | {name: format_share(s) for name, s in shares.items()})
    covered, contradictions = coverage_rows((5, 6, 8, 12, 20, 50, 100), arguments.samples)
    parts = (
        f"Percent of {arguments.comparisons} comparisons with each verdict:\n",
        table(verdict_rows),
        f"Percent without a change in which one of {len(EXPLORATORY)} exploratory metrics is significant:\n",
        table(exploratory_rows),
        f"Percent of {arguments.samples} intervals that contain the mean, by number of prompts. There is none (-)",
        "where five prompts cannot reach p < 0.05:\n",
        table(covered),
        f"Intervals that contradict the p-value: {contradictions}.\n",
    )
    data = {"verdicts": verdict_rows, "exploratory": exploratory_rows, "coverage": covered, **vars(arguments)}
    write("verdicts", "\n".join(parts), {**data, "contradictions": contradictions})


if __name__ == "__main__":
    main()
