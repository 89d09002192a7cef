"""Simulated votes by benchmarks/votes.py at a small size."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import votes

    return votes


@pytest.mark.parametrize("mean", [0.0, 0.8, 2.0])
def test_the_true_win_rate_is_that_of_a_large_study(script: ModuleType, mean: float) -> None:
    study = script.Study(3000, 400, 0.7, 0.4, mean)
    assert study.draw(np.random.default_rng(0)).mean() == pytest.approx(study.true_rate, abs=0.02)


def test_the_components_of_a_measured_study_contain_the_true_rate(script: ModuleType) -> None:
    row = script.measure(script.Study(30, 5, 0.7, 0.4, 0.8), 60)
    shares = {name: [float(part) for part in row[name].split(" / ")] for name in script.METHODS}
    assert shares["components"][0] >= 88
    assert shares["components"][1] > 40
    assert shares["pigeonhole"][2] < shares["components"][2] < shares["cluster-robust"][2] + 2
