"""benchmarks/scaling.py at a tiny size."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.local_ray import local_ray

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.filterwarnings("default")  # of Ray's modules
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vidguide[ray]'")
def test_the_benchmark_measures_sweeps_evaluation_and_one_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS), prepend=os.pathsep)  # of the workers
    import scaling

    with local_ray():
        result = scaling.measure(workers=[1], clips=2, jobs=[1, 2], simulated=20, seconds=0.5)
    assert set(result["sweeps"]) == {"this process", "Ray, 1"}
    assert result["driver"]["jobs"] == 60
    assert 0 < result["driver"]["driver's CPU, ms a job"] < 1000
    text = scaling.report({**result, "command": "python benchmarks/scaling.py", "cores": 2, "load": 0.5})
    assert "| workers fed at 10 s a clip |" in text
