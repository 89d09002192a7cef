"""Sweeps of the shipped model on a local Ray: the frames of a serial run, kills of workers and of the driver."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.killed_clips import KilledOnceWorker
from tests.helpers.local_ray import local_ray, ray_environment
from tests.helpers.source_files import ROOT
from vidguide.eval.clips.read import read
from vidguide.eval.pool.ray_actors import RayCluster
from vidguide.pipelines.models.spec import WEIGHTS
from vidguide.pipelines.sweep import run as sweep_run
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.run import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vidguide[ray]'"),
    pytest.mark.filterwarnings("default"),  # of Ray's modules
]
CONFIG: dict[str, Any] = {
    **{"model": "tiny-4step", "prompts": ["a large circle", "a small square"], "seeds": 3, "arms": ["none", "nag"]},
    **{"negative_prompt": "blue", "steps": 2, "height": 32, "width": 32, "frames": 5, "device": "cpu"},
}
LIMIT = 240  # seconds for a command


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return read_sweep(tmp_path / "sweep.yaml")


def command(folder: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "vidguide.pipelines.cli.app", "sweep", str(folder / "sweep.yaml")]
    return [*start, "-o", str(folder / "out"), "--ray", "local", "--workers", "2", *options]


def finish(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **ray_environment()}
    arguments = command(folder, *options)
    return subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): read(path).sha256 for path in sorted(folder.rglob("*.mkv"))}


def check_files(folder: Path, reference: Path) -> None:
    """Check that a folder has the frames of another, a JSON for each clip, and nothing else."""
    assert hashes(folder) == hashes(reference)
    clips = sorted(path.relative_to(folder) for path in (folder / "clips").rglob("*") if path.is_file())
    assert clips == sorted(path.relative_to(reference) for path in (reference / "clips").rglob("*") if path.is_file())


def test_the_command_makes_the_clips_and_the_scores_of_a_serial_run(sweep: Sweep, tmp_path: Path) -> None:
    run(sweep, tmp_path / "serial")
    serial = sweep_run.evaluate(sweep, tmp_path / "serial")
    done = finish(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    check_files(tmp_path / "out", tmp_path / "serial")
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    different = ("clip", "file_sha256")  # paths, and bytes of the container
    assert [{k: v for k, v in row.items() if k not in different} for row in rows] == [
        {k: v for k, v in row.items() if k not in different} for row in serial.rows
    ]


def test_workers_that_are_killed_within_a_clip_lose_none(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sweep, tmp_path / "serial")
    monkeypatch.setattr(sweep_run, "ClipWorker", KilledOnceWorker)
    with local_ray():
        result = run(sweep, tmp_path / "out", backend=RayCluster("local", workers=2))
    assert len(list(tmp_path.glob("*.killed"))) == 2
    assert result.failed == {}
    assert len(result.made) == 12
    check_files(tmp_path / "out", tmp_path / "serial")


def test_a_driver_that_is_killed_is_continued(sweep: Sweep, tmp_path: Path) -> None:
    run(sweep, tmp_path / "serial")
    process = subprocess.Popen(
        command(tmp_path, "--no-score"), env={**os.environ, **ray_environment()}, cwd=ROOT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + LIMIT
        while len(list((tmp_path / "out").rglob("*.json"))) < 2 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    assert 2 <= len(list((tmp_path / "out").rglob("*.json"))) < 12
    done = finish(tmp_path, "--no-score")
    assert done.returncode == 0, done.stderr
    check_files(tmp_path / "out", tmp_path / "serial")


def test_an_interrupt_ends_cleanly_and_says_how_to_continue(sweep: Sweep, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--no-score"),
        env={**os.environ, **ray_environment()},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + LIMIT
        while not list((tmp_path / "out").rglob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(60)
    assert (process.returncode, "run the same command again to continue" in errors) == (130, True), errors
    assert not (tmp_path / "out" / "sweep.lock").exists()


def test_a_model_that_cannot_be_loaded_ends_the_command_with_its_message(sweep: Sweep, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "tiny-4step", tmp_path / "model")
    (tmp_path / "model" / "transformer" / "config.json").write_text("{")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**CONFIG, "model": str(tmp_path / "model")}))
    done = finish(tmp_path, "--no-score")
    assert (done.returncode, f"model='{tmp_path / 'model'}': cannot be loaded" in done.stderr) == (2, True), done.stderr
