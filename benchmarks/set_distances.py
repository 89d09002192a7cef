"""Measure bias and coverage of the distances between sets of clips of `vidguide.eval`, against the number of prompts.

    python benchmarks/set_distances.py [--repetitions 100]

Gaussian sets have true distances in closed form: two equal sets, and one that is shifted by 1 in all and scaled by 1.2.
Rendered sets are drawn, with replacement, from the features of a rendering of every third scene of the shipped world:
their true distances are those of these scenes to the same scenes rendered again, without or with noise of sigma 8. Both
sets of renderings share their scenes, as two arms share their prompts.

Bias: of the Fréchet distance as usually published, of that corrected by the jackknife, and of the kernel distance.
Coverage: how often the 95% interval contains the true distance. Precision (and recall, which is the same with the sets
exchanged) depends on the number of clips: its interval is compared with the mean over repetitions.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reporting import table, write
from rich.progress import track

from vidguide.eval.scoring.intervals import ALPHA
from vidguide.eval.scoring.set_distances import (
    covered,
    cubic_kernel,
    frechet_distance,
    kernel_pseudo_values,
    kernel_terms,
    pseudo_values,
    swap_p_value,
)
from vidguide.eval.scoring.statistics import Estimate, estimate
from vidguide.eval.world.ideal import defects
from vidguide.eval.world.scene import all_scenes, render
from vidguide.eval.world.shipped_encoder import shipped_encoder

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Values, Values]]

PROMPTS = (6, 12, 25, 50, 100)
DIMENSIONS = {4: 1.0, 32: 0.5, 400: 0.2}  # to the share of the repetitions, as they differ in cost
SHIFT, SCALE = 1.0, 1.2  # of the second Gaussian: length of the shift of the mean, and factor of the deviation
NOISE = 8.0  # levels, of the manipulated renderings
SCENES = all_scenes()[::3]


@dataclass(frozen=True)
class Case:
    """Two distributions of features, with the true distances of sets drawn from them."""

    features: str
    sets: str
    draw: Draw
    frechet: float
    kernel: float
    share: float = 1.0  # of the repetitions


def gaussian_case(dimensions: int, shift: float, scale: float, share: float) -> Case:
    """Return a standard Gaussian and a shifted and scaled one."""
    mean = np.full(dimensions, shift / np.sqrt(dimensions))

    def draw(random: np.random.Generator, count: int) -> tuple[Values, Values]:
        first, second = random.normal(size=(2, count, dimensions))
        return first, second * scale + mean

    frechet = shift**2 + dimensions * (1 - scale) ** 2
    square = shift**2
    kernel = (
        expected_kernel(0, 0, 0, 1, 1, dimensions)
        + expected_kernel(square, square, square, scale**2, scale**2, dimensions)
        - 2 * expected_kernel(0, 0, square, 1, scale**2, dimensions)
    )
    name = "equal" if scale == 1 and not shift else "shifted and scaled"
    return Case(f"Gaussian, {dimensions}", name, draw, frechet, kernel, share)


def expected_kernel(dot: float, first: float, second: float, a: float, b: float, dimensions: int) -> float:
    """Return the mean of the cubic kernel of two independent Gaussians.

    The moments of the product x y follow from those of x given y, which is normal.

    Args:
        dot, first, second: product of the two means, and their squared lengths.
        a, b: variances in each dimension.
        dimensions: D.
    """
    square = dot**2 + a * second + b * first + dimensions * a * b
    cube = dot**3 + 3 * dot * b * first + 3 * a * dot * (second + b * dimensions + 2 * b)
    return 1 + 3 * dot / dimensions + 3 * square / dimensions**2 + cube / dimensions**3


def world_features(seed: int, noise: float = 0.0) -> dict[str, Values]:
    """Return the features of noisy renderings of every third scene, in the spaces of the oracle and dual encoder."""
    clips = []
    for number, scene in enumerate(SCENES):
        random = np.random.default_rng([11, seed, number])
        frames = render(scene, random)
        noisy = np.clip(np.rint(frames + random.normal(0, noise, frames.shape)), 0, 255)
        clips.append(noisy.astype(np.uint8))
    return {
        "oracle": np.stack([defects(frames) for frames in clips]),
        "dual": np.stack([shipped_encoder().clip(frames) for frames in clips]).astype(np.float64),
    }


def world_case(features: str, sets: str, first: Values, second: Values) -> Case:
    """Return the case of sets drawn from two banks of features of the same scenes."""

    def draw(random: np.random.Generator, count: int) -> tuple[Values, Values]:
        chosen = random.integers(0, len(first), count)
        return first[chosen], second[chosen]

    kernels = [cubic_kernel(*pair).mean() for pair in ((first, first), (second, second), (first, second))]
    bank = [np.repeat(part, 50, axis=0) for part in (first, second)]  # so that N - 1 is nearly N
    return Case(features, sets, draw, frechet_distance(*bank), float(kernels[0] + kernels[1] - 2 * kernels[2]), 0.5)


def all_cases() -> list[Case]:
    """Return the Gaussian and the rendered cases."""
    cases = [
        gaussian_case(dimensions, shift, scale, share)
        for dimensions, share in DIMENSIONS.items()
        for shift, scale in ((0.0, 1.0), (SHIFT, SCALE))
    ]
    plain, again, noisy = world_features(0), world_features(1), world_features(1, NOISE)
    for name, features in plain.items():
        cases.append(world_case(f"renderings, {name}", "rendered again", features, again[name]))
        cases.append(world_case(f"renderings, {name}", "with noise", features, noisy[name]))
    return cases


def contains(interval: Estimate, true: float) -> bool:
    """Return whether an interval contains a value, up to rounding."""
    assert interval.low is not None
    assert interval.high is not None
    return interval.low - 1e-12 <= true <= interval.high + 1e-12


def measure_once(case: Case, prompts: int, random: np.random.Generator) -> dict[str, float]:
    """Return errors of the distances of one draw, whether the intervals contain them, and precision and recall."""
    first, second = case.draw(random, prompts)
    jackknife = pseudo_values(lambda chosen: frechet_distance(first[chosen], second[chosen]), prompts)
    terms = kernel_terms(list(first[:, None]), list(second[:, None]))
    kernels = kernel_pseudo_values(terms)
    precision = covered(second, first).astype(float)
    interval = estimate(precision.tolist(), (0.0, 1.0))
    return {
        "published": frechet_distance(first, second) - case.frechet,
        "jackknife": float(jackknife.mean()) - case.frechet,
        "Fréchet covered": contains(estimate(jackknife.tolist()), case.frechet),
        "kernel": float(kernels.mean()) - case.kernel,
        "kernel covered": contains(estimate(kernels.tolist()), case.kernel),
        "significant": swap_p_value(terms) <= ALPHA,
        "precision": float(precision.mean()),
        "precision low": float(interval.low or 0),
        "precision high": float(1 if interval.high is None else interval.high),
    }


def measure(case: Case, prompts: int, repetitions: int) -> dict[str, Any]:
    """Return the means over repetitions, with standard errors of the biases."""
    random = np.random.default_rng([17, prompts])
    results = [measure_once(case, prompts, random) for _ in range(repetitions)]
    columns = {name: np.array([result[name] for result in results], float) for name in results[0]}
    mean = float(columns["precision"].mean())
    inside = (columns["precision low"] <= mean + 1e-12) & (mean - 1e-12 <= columns["precision high"])
    errors = {f"{name} error": float(columns[name].std(ddof=1) / repetitions**0.5) for name in BIASES}
    return {
        **{name: float(values.mean()) for name, values in columns.items()},
        **errors,
        "precision covered": float(inside.mean()),
        "repetitions": repetitions,
    }


BIASES = ("published", "jackknife", "kernel")


def distance_row(case: Case, prompts: int, result: dict[str, Any]) -> dict[str, str]:
    """Return the row of one case and number of prompts in the table of distances."""
    bias = {name: f"{result[name]:+.3g} ± {result[f'{name} error']:.1g}" for name in BIASES}
    return {
        **{"features": case.features, "sets": case.sets, "prompts": str(prompts)},
        **{"Fréchet": f"{case.frechet:.3g}", "bias, published": bias["published"]},
        **{"bias, jackknife": bias["jackknife"], "covered, %": f"{100 * result['Fréchet covered']:.0f}"},
        **{
            "kernel": f"{case.kernel:.3g}",
            "bias, kernel": bias["kernel"],
            "kernel covered, %": percent(result, "kernel covered"),
        },
        "p <= 0.05, %": percent(result, "significant"),
    }


def precision_row(case: Case, results: dict[int, dict[str, Any]]) -> dict[str, str]:
    """Return the row of a case in the table of precision: mean, and coverage of the interval, by number of prompts."""
    cells = {
        str(prompts): f"{result['precision']:.2f} ({percent(result, 'precision covered')}%)"
        for prompts, result in results.items()
    }
    return {"features": case.features, "sets": case.sets, **cells}


def percent(result: dict[str, Any], name: str) -> str:
    """Format a share in percent."""
    return f"{100 * result[name]:.0f}"


def main() -> None:
    """Measure, print and write `benchmarks/results/set_distances.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100, help="of a case, fewer for costly ones (100)")
    arguments = parser.parse_args()
    cases = all_cases()
    results = [
        {prompts: measure(case, prompts, round(case.share * arguments.repetitions)) for prompts in PROMPTS}
        for case in track(cases, "cases")
    ]
    rows = [
        distance_row(case, prompts, result)
        for case, by_prompts in zip(cases, results, strict=True)
        for prompts, result in by_prompts.items()
    ]
    precision_rows = [precision_row(case, by_prompts) for case, by_prompts in zip(cases, results, strict=True)]
    parts = (
        "Distances: true value, bias with its standard error, and how often the interval contains the true value:\n",
        table(rows),
        "Precision by number of prompts, and how often the interval contains its mean over repetitions:\n",
        table(precision_rows),
    )
    data = [
        {**distance, "results": {str(prompts): result for prompts, result in by_prompts.items()}}
        for distance, by_prompts in zip(map(describe, cases), results, strict=True)
    ]
    write("set_distances", "\n".join(parts), {"cases": data, **vars(arguments)})


def describe(case: Case) -> dict[str, Any]:
    """Return name and true distances of a case."""
    return {"features": case.features, "sets": case.sets, "frechet": case.frechet, "kernel": case.kernel}


if __name__ == "__main__":
    main()
