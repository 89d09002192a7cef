"""Kills, runs at once, damage and full disks, by benchmarks/faults.py at a small size."""

import random
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"

# Forked processes generate clips of noise; torch's threads, of which they have none, are not used.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import faults

    return faults


@pytest.fixture
def draw() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.slow
def test_killed_sweeps_complete_with_every_clip_once(script: ModuleType, draw: random.Random, tmp_path: Path) -> None:
    with script.without_model():
        counts = script.kill_runs(script.make_sweep(tmp_path), 8, draw, tmp_path)
    assert counts["kills"] >= 8
    assert counts["equal"] == counts["sweeps"]


@pytest.mark.slow
def test_killed_sweeps_of_the_shipped_model_complete(script: ModuleType, draw: random.Random, tmp_path: Path) -> None:
    counts = script.kill_runs(script.make_sweep(tmp_path), 60, draw, tmp_path)
    assert counts["kills"] >= 60
    assert counts["equal"] == counts["sweeps"]


def test_two_runs_at_once_generate_no_clip_twice(script: ModuleType, draw: random.Random, tmp_path: Path) -> None:
    with script.without_model():
        counts = script.run_two_at_once(script.make_sweep(tmp_path), 5, draw, tmp_path)
    assert counts.pop("pairs") == 5
    assert set(counts) <= {"12 and refused", "0 and 12", "refused and refused"}


def test_every_damage_is_noticed_and_repaired(script: ModuleType, draw: random.Random, tmp_path: Path) -> None:
    with script.without_model():
        counts = script.damage_clips(script.make_sweep(tmp_path), 16, draw, tmp_path)
    assert counts == {"damaged files": 16, "repaired and named": 16}


def test_disks_that_are_full_leave_whole_files(script: ModuleType, draw: random.Random, tmp_path: Path) -> None:
    with script.without_model():
        counts = script.fill_disk(script.make_sweep(tmp_path), 4, draw, tmp_path)
    assert counts["complete and equal afterwards"] == 4
    assert counts["ended with an error"] == 4


def test_hostile_values_are_refused_with_the_file(script: ModuleType, tmp_path: Path) -> None:
    with script.without_model():
        sweep = script.make_sweep(tmp_path)
        path = script.run(sweep, tmp_path / "out").paths[0]
    counts = script.read_hostile_json(path.with_suffix(".json"), tmp_path)
    assert set(counts) == {"files", "accepted", "refused with the file"}
