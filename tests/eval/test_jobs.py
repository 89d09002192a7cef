"""Evaluation by several processes, or on Ray: the files of a serial evaluation, byte for byte."""

import pickle
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.helpers.local_ray import local_ray
from vidguide.clip import Clip
from vidguide.eval.cli import app
from vidguide.eval.clips.entries import entries
from vidguide.eval.encoders import networks
from vidguide.eval.encoders.networks import Networks
from vidguide.eval.evaluate import evaluate
from vidguide.eval.metrics import registry
from vidguide.eval.metrics.optical_flow import lengths
from vidguide.eval.metrics.registry import select_metrics
from vidguide.eval.pool.processes import Processes
from vidguide.eval.pool.protocol import Backend, WorkerError
from vidguide.eval.pool.ray_actors import RayCluster
from vidguide.eval.pool.serial import Serial
from vidguide.eval.scoring import results
from vidguide.eval.scoring import score as scoring
from vidguide.eval.scoring.score import ScoreWorker, Settings, make_tasks, score
from vidguide.eval.world.scene import Scene, caption, render

METRICS = ["guard.sharpness", "guard.luma", "world.well_formed"]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a relative folder with two arms of three clips, the last of them truncated."""
    monkeypatch.chdir(tmp_path)
    for arm in ("none", "nag"):
        (tmp_path / "clips" / arm).mkdir(parents=True)
        for seed in range(3):
            scene = Scene(size="small", colour="green", shape="circle", motion="up", background="black")
            frames = render(scene, np.random.default_rng([seed, len(arm)]))
            clip = Clip(frames=frames, fps=8, provenance={"prompt": caption(scene), "seed": seed})
            path = clip.save(tmp_path / "clips" / arm / f"{seed}.mkv")
    path.write_bytes(path.read_bytes()[:2000])
    return Path("clips")


def files(clips: Path, output: str, backend: Backend | None) -> dict[str, bytes]:
    """Return the files of results of an evaluation."""
    evaluate([clips], metrics=METRICS, arms=("none", "nag"), output=Path(output), backend=backend)
    return {path.name: path.read_bytes() for path in Path(output).iterdir() if path.name != "report.html"}


def test_the_rows_of_two_processes_are_those_of_one_byte_for_byte(clips: Path) -> None:
    serial, parallel = files(clips, "serial", None), files(clips, "parallel", Processes(2))
    assert set(serial) == {"results.jsonl", "results.csv", "report.md"}
    assert parallel == serial
    rows = results.load(Path("parallel"))
    assert [row["clip"] for row in rows if row["metric"] == METRICS[0]] == [
        f"clips/{arm}/{seed}.mkv" for arm in ("nag", "none") for seed in range(3)
    ]
    assert {row["status"] for row in rows} == {"ok", "failed"}


def test_an_interrupted_evaluation_is_continued(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = files(clips, "serial", None)
    lines = expected["results.jsonl"].splitlines(keepends=True)
    Path("out").mkdir()
    finished = [line for name in (b"none/1", b"nag/0") for line in lines if b'"clips/%s.mkv"' % name in line]
    (Path("out") / results.PART).write_bytes(b"".join(finished))
    scored: list[Path] = []
    complete = scoring.complete_rows

    def observed(rows: Any, entry: Any, *arguments: Any) -> Any:
        scored.append(entry.clip)
        return complete(rows, entry, *arguments)

    monkeypatch.setattr(scoring, "complete_rows", observed)
    assert files(clips, "out", Serial()) == expected
    assert [str(path) for path in scored] == [f"clips/{clip}.mkv" for clip in ("nag/1", "nag/2", "none/0", "none/2")]


def test_the_command_takes_a_number_of_processes(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends: list[Any] = []

    def observed(backend: Backend, *arguments: Any, **options: Any) -> dict[Any, str]:
        backends.append(backend)
        return {}

    monkeypatch.setattr(scoring, "run_jobs", observed)
    done = CliRunner().invoke(app, ["run", "clips", "--jobs", "3", "-m", "guard.sharpness", "-o", "out"])
    assert backends == [Processes(3)], done.output
    done = CliRunner().invoke(app, ["run", "clips", "--jobs", "2", "--ray", "local", "-o", "out"])
    assert (done.exit_code, "jobs=2: is for one machine" in done.stderr) == (1, True)


def test_clips_in_which_workers_die_are_named(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        scoring, "run_jobs", lambda backend, factory, jobs, **options: {jobs[1][0]: "3 workers died in it"}
    )
    with pytest.raises(WorkerError, match=r"1 of 6 clips were not scored: clips/nag/1\.mkv: 3 workers died in it"):
        score(entries([clips]), select_metrics(METRICS), Settings())


def test_every_metric_can_be_sent_to_a_worker_with_its_description() -> None:
    for metric in registry.METRICS.values():
        copy = pickle.loads(pickle.dumps(metric))
        assert (copy.id, copy.description) == (metric.id, metric.description)
        assert metric.description


def test_each_worker_loads_its_networks_once_and_before_any_clip(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.ones(1, 4), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    loaded: list[str] = []
    load = vars(networks)["load"]

    def observed(kind: str, model: str, device: str) -> Any:
        loaded.append(kind)
        return load(kind, model, device)

    monkeypatch.setattr(networks, "load", observed)
    encoders = Networks({"aesthetic": str(tmp_path / "head.pth")})
    copy = pickle.loads(pickle.dumps(encoders))
    assert (list(copy), loaded) == (["aesthetic"], [])
    worker = ScoreWorker(select_metrics(METRICS), Settings(), copy, str(Path.cwd()))
    assert loaded == ["aesthetic"]
    for task in make_tasks(entries([clips]), []):
        worker(task)
    assert loaded == ["aesthetic"]
    assert pickle.loads(pickle.dumps(copy))._loaded == {}
    with pytest.raises(FileNotFoundError, match=r"aesthetic='gone\.pth': no such file"):
        evaluate([clips], encoders=Networks({"aesthetic": "gone.pth"}), output=Path("out"))


def test_the_memory_limit_is_that_of_each_worker(clips: Path) -> None:
    worker = ScoreWorker(select_metrics(METRICS), Settings(max_bytes=1 << 16), {}, str(Path.cwd()))
    (rows, fresh) = worker(make_tasks(entries([clips]), [])[0])
    assert fresh
    assert all("the limit is 0" in row["reason"] for row in rows)


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with local_ray():
        yield RayCluster("local", workers=2, memory=256 << 20)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.filterwarnings("default")  # of Ray's modules
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vidguide[ray]'")
def test_the_rows_of_ray_workers_are_those_of_one_process_byte_for_byte(clips: Path, cluster: RayCluster) -> None:
    assert files(clips, "parallel", cluster) == files(clips, "serial", None)


@pytest.mark.slow
def test_the_command_writes_the_same_files_with_processes(clips: Path) -> None:
    for output, options in (("serial", []), ("parallel", ["--jobs", "2"])):
        done = CliRunner().invoke(app, ["run", "clips", "-q", "-o", output, *options])
        assert done.exit_code == 2, done.output  # one clip is truncated
    for name in ("results.jsonl", "results.csv"):
        assert (Path("parallel") / name).read_bytes() == (Path("serial") / name).read_bytes()
    shutil.rmtree("parallel")


def test_lengths_of_vectors_do_not_depend_on_their_address() -> None:
    vectors = np.random.default_rng().normal(size=(33, 31, 2)).astype(np.float32)
    expected = np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2)
    for offset in range(16):
        memory = np.empty(vectors.size + 16, np.float32)
        moved = memory[offset : offset + vectors.size].reshape(vectors.shape)
        moved[:] = vectors
        assert lengths(moved).tobytes() == expected.tobytes()
