"""Bias and coverage of the distances between sets, by benchmarks/set_distances.py at a small size."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vidguide.eval.scoring.set_distances import cubic_kernel, frechet_distance

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import set_distances

    return set_distances


def test_true_distances_of_gaussians_are_those_of_large_sets(script: ModuleType) -> None:
    case = script.gaussian_case(4, 1.0, 1.2, 1.0)
    random = np.random.default_rng(0)
    (first, second), (third, fourth) = case.draw(random, 4000), case.draw(random, 4000)
    means = [cubic_kernel(*pair).mean() for pair in ((first, third), (second, fourth), (first, fourth))]
    assert means[0] + means[1] - 2 * means[2] == pytest.approx(case.kernel, rel=0.15)
    assert frechet_distance(first, second) == pytest.approx(case.frechet, rel=0.1)


def test_true_distances_of_a_bank_are_those_of_large_draws(script: ModuleType) -> None:
    bank = np.random.default_rng(1).normal(size=(40, 3))
    case = script.world_case("x", "y", bank, bank * 1.1 + 0.4)
    first, second = case.draw(np.random.default_rng(2), 4000)
    assert frechet_distance(first, second) == pytest.approx(case.frechet, rel=0.05)
    terms = [cubic_kernel(*pair).mean() for pair in ((first, first), (second, second), (first, second))]
    assert terms[0] + terms[1] - 2 * terms[2] == pytest.approx(case.kernel, rel=0.2)


def test_published_distance_is_biased_and_the_corrected_ones_are_not(script: ModuleType) -> None:
    result = script.measure(script.gaussian_case(4, 1.0, 1.2, 1.0), 25, 60)
    assert result["published"] > 10 * result["published error"] or result["published"] > 0.3
    assert abs(result["jackknife"]) < 3.5 * result["jackknife error"] + 0.05
    assert abs(result["kernel"]) < 3.5 * result["kernel error"]
    assert result["Fréchet covered"] > 0.8
    equal = script.measure(script.gaussian_case(4, 0.0, 1.0, 1.0), 12, 100)
    assert equal["significant"] <= 0.15
    assert 0 <= equal["precision"] <= 1
