"""Workers that remain between runs: each is made once, those of an earlier run are reused, dead ones are replaced."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pool_workers import KILL_ONCE, WRITE, NoiseWorker, jobs_in
from vidguide.eval.pool.loop import run_jobs
from vidguide.eval.pool.persistent import Persistent
from vidguide.eval.pool.processes import Processes
from vidguide.eval.pool.protocol import Died, Event, Factory, Finished, Pool, Ready
from vidguide.eval.pool.serial import Serial


class Scripted:
    """Backend and pool in which events happen in the order of a list; a job returns its number and its worker.

    Attributes:
        script: "ready W", "done W" or "dies W" for a worker W. log: what the pool was asked for.
    """

    size = 2

    def __init__(self, script: list[str]) -> None:
        self.script, self.log, self.added = script, list[str](), 0
        self.jobs: dict[int, Any] = {}

    def start(self, factory: Factory, jobs: int) -> Pool:
        self.log.append("start")
        return self

    def add(self) -> None:
        self.log.append(f"add {self.added}")
        self.added += 1

    def submit(self, worker: int, job: Any) -> None:
        self.jobs[worker] = job

    def wait(self, seconds: float) -> Event | None:
        what, number = self.script.pop(0).split()
        worker = int(number)
        if what == "ready":
            return Ready(worker, "kind")
        if what == "dies":
            return Died(worker, "SIGKILL")
        return Finished(worker, (self.jobs.pop(worker), worker))

    def release(self, worker: int) -> None:
        self.log.append(f"release {worker}")

    def close(self) -> None:
        self.log.append("close")


def run(backend: Persistent, count: int) -> list[Any]:
    results: list[Any] = []
    jobs = [(number, number) for number in range(count)]
    assert run_jobs(backend, NoiseWorker, jobs, on_result=lambda job, result: results.append(result)) == {}
    return results


def test_the_next_run_has_the_workers_of_the_last() -> None:
    pool = Scripted(["ready 0", "done 0", "done 0", "ready 1", "done 1", "done 0", "done 1", "done 0"])
    with Persistent(pool, 8) as backend:
        assert run(backend, 2) == [(0, 0), (1, 0)]  # worker 1 is not ready in this run
        assert run(backend, 3) == [(1, 1), (0, 0), (2, 1)]
        assert run(backend, 1) == [(0, 0)]
    assert pool.log == ["start", "add 0", "add 1", "close"]


def test_a_dead_worker_is_replaced_and_not_reused() -> None:
    pool = Scripted(["ready 0", "ready 1", "dies 0", "done 1", "done 1", "done 1"])
    with Persistent(pool, 8) as backend:
        assert sorted(run(backend, 2)) == [(0, 1), (1, 1)]
        assert run(backend, 1) == [(0, 1)]
    assert pool.log == ["start", "add 0", "add 1", "add 2", "close"]


def test_an_interrupt_within_a_job_ends_the_workers_and_the_next_run_starts_others() -> None:
    pool = Scripted(["ready 0", "ready 1"])
    backend = Persistent(pool, 8)
    with pytest.raises(IndexError):
        run(backend, 2)
    assert pool.log[-1] == "close"
    pool.script, pool.added = ["ready 0", "done 0"], 0
    assert run(backend, 1) == [(0, 0)]
    assert pool.log.count("start") == 2


def test_a_worker_in_this_process_is_made_once(tmp_path: Path) -> None:
    made: list[NoiseWorker] = []

    def factory() -> NoiseWorker:
        made.append(NoiseWorker())
        return made[-1]

    with Persistent(Serial(), 4) as backend:
        for part in ("a", "b", "c"):
            (tmp_path / part).mkdir()
            assert run_jobs(backend, factory, jobs_in(tmp_path / part, [WRITE, WRITE])) == {}
    assert len(made) == 1


def test_processes_remain_between_runs_and_survive_a_kill(tmp_path: Path) -> None:
    processes: list[set[int]] = []
    with Persistent(Processes(2), 4) as backend:
        for part, actions in (("a", [WRITE] * 4), ("b", [WRITE] * 4), ("c", [KILL_ONCE, WRITE, WRITE, WRITE])):
            (tmp_path / part).mkdir()
            results: dict[Any, Any] = {}
            run_jobs(backend, NoiseWorker, jobs_in(tmp_path / part, actions), on_result=results.__setitem__)
            assert len(results) == 4
            processes.append({process for _, process in results.values()})
    assert len(processes[0] | processes[1]) <= 2
