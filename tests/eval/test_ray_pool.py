"""Pools of actors of a local Ray with two workers: kills, errors, and models that cannot be loaded."""

import os
import socket
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.local_ray import local_ray
from tests.helpers.pool_workers import (
    FILL,
    KILL,
    KILL_ONCE,
    RAISE,
    WRITE,
    BrokenWorker,
    DyingWorker,
    NoiseWorker,
    jobs_in,
    noise,
)
from vidguide.eval.clips.read import read
from vidguide.eval.pool import ray_actors
from vidguide.eval.pool.loop import run_jobs
from vidguide.eval.pool.protocol import FatalError, WorkerError
from vidguide.eval.pool.ray_actors import RayCluster

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("default"),  # of Ray's modules
]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vidguide[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with local_ray():
        yield RayCluster("local", workers=2)


def run_actions(cluster: RayCluster, folder: Path, actions: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return reasons of failed jobs, and results of others, by name."""
    results: dict[str, Any] = {}
    failed = run_jobs(
        cluster,
        NoiseWorker,
        jobs_in(folder, actions),
        on_result=lambda job, result: results.__setitem__(Path(job.path).stem, result),
    )
    reasons = {Path(job.path).stem: reason for job, reason in failed.items()}
    return reasons, {name: result for name, result in results.items() if name not in reasons}


def check_clips(folder: Path, results: dict[str, Any], names: str) -> None:
    """Check that exactly these clips were made, with the frames that one process makes."""
    expected = {name: noise(name).sha256 for name in names}
    assert {name: sha256 for name, (sha256, _) in results.items()} == expected
    assert {path.stem: read(path).sha256 for path in folder.glob("*.mkv")} == expected


@needs_ray
def test_a_killed_worker_loses_no_clip_and_an_error_is_not_tried_again(cluster: RayCluster, tmp_path: Path) -> None:
    reasons, results = run_actions(cluster, tmp_path, [WRITE, KILL_ONCE, RAISE, WRITE, WRITE, WRITE])
    assert reasons == {"2": "FloatingPointError: all values are NaN"}
    check_clips(tmp_path, results, "01345")
    assert os.getpid() not in {process for _, process in results.values()}


@needs_ray
@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_one_error(cluster: RayCluster, tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        run_jobs(cluster, partial(BrokenWorker, str(tmp_path / "log")), jobs_in(tmp_path, [WRITE] * 8))
    assert str(caught.value) == "model='broken': cannot be loaded: its config.json is cut"
    assert len((tmp_path / "log").read_text().splitlines()) <= 2


@needs_ray
@pytest.mark.slow
def test_jobs_that_always_kill_their_worker_are_named_and_the_rest_is_made(cluster: RayCluster, tmp_path: Path) -> None:
    reasons, results = run_actions(cluster, tmp_path, [KILL, WRITE, WRITE, KILL, WRITE, WRITE])
    assert set(reasons) == {"0", "3"}
    assert all(reason.startswith("3 workers died in it: ") for reason in reasons.values())
    check_clips(tmp_path, results, "1245")


@needs_ray
@pytest.mark.slow
def test_a_full_disk_and_workers_that_die_in_loading_end_the_run(cluster: RayCluster, tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="No space left on device"):
        run_actions(cluster, tmp_path, [FILL, WRITE, WRITE])
    with pytest.raises(WorkerError, match="workers died while they loaded their models"):
        run_jobs(cluster, DyingWorker, jobs_in(tmp_path, [WRITE]))


@needs_ray
@pytest.mark.slow
def test_a_removed_node_loses_no_clip(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        seen: list[str] = []

        def remove_node(job: Any, result: Any) -> None:
            seen.append(Path(job.path).stem)
            if len(seen) == 3:
                nodes.remove_node(second, allow_graceful=False)

        jobs = jobs_in(tmp_path, [WRITE] * 12)
        assert run_jobs(RayCluster("auto", workers=2), NoiseWorker, jobs, on_result=remove_node) == {}
        assert sorted(seen, key=int) == [str(number) for number in range(12)]
        assert {path.stem: read(path).sha256 for path in tmp_path.glob("[!.]*.mkv")} == {
            name: noise(name).sha256 for name in seen
        }
    finally:
        ray.shutdown()
        nodes.shutdown()


@needs_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(workers=0), "workers=0: must be at least 1"),
        (dict(workers=-1), "workers=-1: must be at least 1"),
        (dict(workers="two"), "workers='two': must be a whole number"),
        (dict(gpus_per_worker=float("nan")), "gpus_per_worker=nan: must be at least 0"),
        (dict(gpus_per_worker=-1.0), "gpus_per_worker=-1.0: must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        RayCluster(**options)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ray: not installed; pip install 'vidguide\[ray\]'"):
        RayCluster()


def test_an_address_without_a_cluster_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "local", "auto"):
            ray_actors.check_reachable(address)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(WorkerError, match=f"ray='{address}': cannot connect"):
            ray_actors.check_reachable(address)
