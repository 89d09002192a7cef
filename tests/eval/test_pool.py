"""The loop that feeds a pool, in this process, with simulated workers, and with processes that are killed."""

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from vidguide.eval.pool import loop
from vidguide.eval.pool.backends import choose_backend
from vidguide.eval.pool.loop import TRIES, run_jobs
from vidguide.eval.pool.processes import Processes
from vidguide.eval.pool.protocol import Backend, Died, Event, Factory, FatalError, Finished, Pool, Ready, WorkerError
from vidguide.eval.pool.queue import Task, TaskQueue
from vidguide.eval.pool.serial import Serial
from vidguide.eval.pool.status import Status
from vidguide.eval.pool.threads import THREADS, thread_variables

Job = tuple[int, int]  # group and number


class Simulated:
    """Backend and pool of workers that exist only as events, in random order.

    Attributes:
        kinds: of workers, in the order in which they are asked for; the last of them for all further ones.
        is_fatal: whether a worker dies in a job.
        made: pairs of a job and the kind that made it.
        alive: numbers of ready workers, at each event.
    """

    def __init__(self, size: int, kinds: list[str | None], is_fatal: Callable[[Job, int], bool], seed: int) -> None:
        self.size, self.kinds, self.is_fatal = size, kinds, is_fatal
        self.rng = np.random.default_rng(seed)
        self.loading: list[int] = []
        self.busy: dict[int, Job] = {}
        self.ready: dict[int, str] = {}
        self.added = 0
        self.made: list[tuple[Job, str]] = []
        self.attempts: dict[Job, int] = {}
        self.closed = False

    def start(self, factory: Factory, jobs: int) -> Pool:
        return self

    def add(self) -> None:
        self.loading.append(self.added)
        self.added += 1

    def submit(self, worker: int, job: Any) -> None:
        assert worker in self.ready
        assert worker not in self.busy
        self.busy[worker] = job

    def wait(self, seconds: float) -> Event | None:
        loadable = [w for w in self.loading if self.kinds[min(w, len(self.kinds) - 1)] is not None]
        choices = [*loadable, *self.busy]
        if not choices:
            return None
        worker = int(self.rng.choice(choices))
        if worker in self.loading:
            self.loading.remove(worker)
            self.ready[worker] = self.kinds[min(worker, len(self.kinds) - 1)] or ""
            return Ready(worker, self.ready[worker])
        job = self.busy.pop(worker)
        self.attempts[job] = self.attempts.get(job, 0) + 1
        if self.is_fatal(job, self.attempts[job]):
            del self.ready[worker]
            return Died(worker, "SIGKILL")
        self.made.append((job, self.ready[worker]))
        return Finished(worker, job)

    def release(self, worker: int) -> None:
        assert worker not in self.busy
        del self.ready[worker]

    def close(self) -> None:
        self.closed = True


def grouped(groups: int, size: int) -> list[tuple[Job, int]]:
    return [((group, number), group) for group in range(groups) for number in range(size)]


@pytest.mark.parametrize("seed", range(20))
def test_every_job_is_made_once_although_workers_die(seed: int) -> None:
    rng = np.random.default_rng(seed)
    deaths = {job: int(rng.choice([0, 0, 0, 1, 2])) for job, _ in grouped(12, 3)}
    pool = Simulated(4, [""], lambda job, attempt: attempt <= deaths[job], seed)
    results: list[Any] = []
    failed = run_jobs(pool, NoiseWorker, grouped(12, 3), on_result=lambda job, result: results.append(result))
    assert failed == {}
    assert sorted(job for job, _ in pool.made) == sorted(results) == [job for job, _ in grouped(12, 3)]
    assert pool.closed


@pytest.mark.parametrize("seed", range(10))
def test_jobs_that_kill_their_worker_each_time_are_given_up_and_no_others(seed: int) -> None:
    bad = {(0, 0), (3, 2)}
    pool = Simulated(2, [""], lambda job, attempt: job in bad, seed)
    failed = run_jobs(pool, NoiseWorker, grouped(4, 3))
    assert set(failed) == bad
    assert {pool.attempts[job] for job in bad} == {TRIES}
    assert set(failed.values()) == {"3 workers died in it: SIGKILL"}
    assert {job for job, _ in pool.made} == {job for job, _ in grouped(4, 3)} - bad


@pytest.mark.parametrize("seed", range(10))
def test_all_jobs_of_a_group_run_on_one_kind_of_worker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds: list[str | None] = [str(kind) for kind in rng.choice(["A", "B"], 6)]
    pool = Simulated(6, [*kinds, "A", "B"], lambda job, attempt: False, seed)
    begun = {0: "A", 1: "B"}
    failed = run_jobs(pool, NoiseWorker, grouped(20, 5), kinds=begun)
    by_group: dict[int, set[str]] = {}
    for (group, _), kind in pool.made:
        by_group.setdefault(group, set()).add(kind)
    assert all(len(found_kinds) == 1 for found_kinds in by_group.values())
    for group, kind in begun.items():
        if kind in kinds:
            assert by_group[group] == {kind}
        else:
            assert {failed[group, number] for number in range(5)} == {
                f"its group was begun on {kind}, which no worker has; add such a worker, or remove the group's results"
            }


def test_a_replacement_that_is_never_placed_does_not_stop_the_rest() -> None:
    pool = Simulated(2, ["", "", None], lambda job, attempt: (job, attempt) == ((0, 0), 1), 0)
    assert run_jobs(pool, NoiseWorker, grouped(8, 1)) == {}
    assert len(pool.made) == 8


def test_a_run_without_any_worker_ends_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PATIENCE", 0.05)
    pool = Simulated(2, [None], lambda job, attempt: False, 0)
    started = time.monotonic()
    assert set(run_jobs(pool, NoiseWorker, grouped(2, 1)).values()) == {"no worker was there"}
    assert time.monotonic() - started < 5


def test_a_machine_that_kills_every_worker_ends_the_run_with_the_list() -> None:
    pool = Simulated(2, [""], lambda job, attempt: True, 0)
    failed = run_jobs(pool, NoiseWorker, grouped(50, 2))
    assert len(failed) == 100
    assert pool.added < 20
    assert "workers died in a row" in " ".join(failed.values())


def test_the_order_of_a_pool_of_one_is_that_of_the_jobs() -> None:
    pool = Simulated(1, [""], lambda job, attempt: False, 0)
    run_jobs(pool, NoiseWorker, grouped(5, 3))
    assert [job for job, _ in pool.made] == [job for job, _ in grouped(5, 3)]


def test_a_retried_task_comes_after_all_others_of_its_kind() -> None:
    queue = TaskQueue([Task(job, group) for job, group in grouped(2, 2)])
    first = queue.take("A")
    assert first is not None
    queue.retry(first)
    taken = [queue.take("A") for _ in range(4)]
    assert [task.job for task in taken if task] == [(0, 1), (1, 0), (1, 1), (0, 0)]
    assert (len(queue), queue.take("A")) == (0, None)


def test_the_queue_takes_constant_time_for_a_task() -> None:
    seconds = []
    for count in (2_000, 20_000):
        queue = TaskQueue(Task(job, group) for job, group in grouped(count, 1))
        started = time.process_time()
        for kind in itertools.islice(itertools.cycle("AB"), count):
            assert queue.take(kind)
        seconds.append((time.process_time() - started) / count)
    assert seconds[1] < 10 * seconds[0]


def test_the_status_counts_and_estimates() -> None:
    seen: list[tuple[int, str]] = []
    pool = Simulated(3, [""], lambda job, attempt: job == (0, 0), 0)
    run_jobs(pool, NoiseWorker, grouped(10, 1), on_status=lambda status: seen.append((status.done, status.details())))
    assert seen[0] == (0, "1 worker")
    assert seen[-1][0] == 9
    assert seen[-1][1].startswith("1 failed, 0 workers, ")
    status = Status(total=40, done=10, failed=6, workers=2, started=time.monotonic() - 60)
    assert status.per_minute == pytest.approx(10, rel=0.01)
    assert status.details() == "6 failed, 2 workers, 10.0 a minute, 2 min left"


def test_serial_jobs_run_in_this_process_and_errors_of_the_factory_are_unchanged(tmp_path: Path) -> None:
    results: list[tuple[str, int]] = []
    failed = run_jobs(
        Serial(), NoiseWorker, jobs_in(tmp_path, [WRITE, RAISE]), on_result=lambda job, result: results.append(result)
    )
    assert list(failed.values()) == ["FloatingPointError: all values are NaN"]
    assert results[0] == (noise("0").sha256, os.getpid())
    with pytest.raises(OSError, match="cannot be loaded") as caught:
        run_jobs(Serial(), partial(BrokenWorker, str(tmp_path / "log")), jobs_in(tmp_path, [WRITE]))
    assert caught.type is OSError
    with pytest.raises(FatalError, match="No space left"):
        run_jobs(Serial(), NoiseWorker, jobs_in(tmp_path, [FILL]))


def test_processes_survive_kills_and_name_what_failed(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, [WRITE, KILL_ONCE, RAISE, KILL, WRITE, WRITE])
    results: dict[str, tuple[str, int]] = {}

    def record(job: Any, result: Any) -> None:
        if isinstance(result, tuple):
            results[Path(job.path).stem] = result

    failed = run_jobs(Processes(2), NoiseWorker, jobs, on_result=record)
    assert {Path(job.path).stem: reason for job, reason in failed.items()} == {
        "2": "FloatingPointError: all values are NaN",
        "3": "3 workers died in it: exit code -9",
    }
    assert {name: value[0] for name, value in results.items()} == {name: noise(name).sha256 for name in "0145"}
    assert {path.stem: read(path).sha256 for path in tmp_path.glob("*.mkv")} == {
        name: noise(name).sha256 for name in "0145"
    }
    assert os.getpid() not in {process for _, process in results.values()}


@pytest.mark.parametrize(
    ("factory", "actions", "message"),
    [
        (partial(BrokenWorker, "log"), [WRITE] * 4, "model='broken': cannot be loaded: its config.json is cut"),
        (DyingWorker, [WRITE], "3 workers died while they loaded their models: exit code -9"),
        (NoiseWorker, [FILL], "No space left on device"),
    ],
)
def test_processes_end_with_the_error_of_the_model_or_the_disk(
    factory: Factory, actions: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((WorkerError, FatalError)) as caught:
        run_jobs(Processes(1), factory, jobs_in(tmp_path, actions))
    assert str(caught.value) == message
    if (tmp_path / "log").exists():
        assert (tmp_path / "log").read_text() == "attempt\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(workers=2), "workers=2: needs ray"),
        (dict(gpus_per_worker=0.5), "gpus_per_worker=0.5: needs ray"),
        (dict(jobs=0), "jobs=0: must be at least 1"),
        (dict(jobs=-2), "jobs=-2: must be at least 1"),
        (dict(jobs="two"), "jobs='two': must be a whole number"),
        (dict(jobs=1.5), "jobs=1.5: must be a whole number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        choose_backend(**options)


def test_the_options_choose_the_backend() -> None:
    backends: list[Backend] = [choose_backend(), choose_backend(jobs=3)]
    assert isinstance(backends[0], Serial)
    assert backends[1] == Processes(3)


def test_threads_are_divided_unless_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert thread_variables(16, 4) == {**dict.fromkeys(THREADS, "4"), "OMP_NUM_THREADS": "7"}
    assert thread_variables(2, 4)["MKL_NUM_THREADS"] == "1"
