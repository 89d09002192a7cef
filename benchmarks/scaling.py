"""Measure how sweeps and evaluation scale with workers, and how many workers one driver can feed.

`python benchmarks/scaling.py` writes `results/scaling.md` and `results/scaling.json`:

- clips a minute of a sweep in this process and on a local Ray with 1, 2, 4 ... workers, and what Ray adds to a clip;
- clips a minute of an evaluation with 1 and 2 processes;
- a driver that feeds 1,000 workers whose jobs sleep: its CPU time for a job, and the delay of a job.

The workers of the last are calls of a few asynchronous actors, so that the driver has as many calls in flight as with
1,000 GPUs, on a machine that has none. Needs `vidguide[eval,ray]`.
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
import yaml
from reporting import add_output, write

from vidguide.eval.evaluate import evaluate
from vidguide.eval.pool.loop import run_jobs
from vidguide.eval.pool.processes import Processes
from vidguide.eval.pool.protocol import Backend, Factory, Pool, Worker
from vidguide.eval.pool.ray_actors import RayCluster, RayPool, connected
from vidguide.eval.pool.serial import Serial
from vidguide.eval.pool.status import Status
from vidguide.eval.report.markdown_table import markdown_table
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.run import run

CONFIG: dict[str, Any] = {
    **{"model": "tiny-4step", "prompts": ["a large circle"], "arms": ["none", "nag"], "negative_prompt": "blue"},
    "device": "cpu",
}
ACTORS = 4  # that simulate all workers
CLIP_SECONDS = (10, 60)  # of a clip, for the number of workers that one driver can feed
Row = dict[str, Any]


class Timer:
    """Times of a run: when its first worker was ready, and when it ended."""

    def __init__(self) -> None:
        self.started, self.ready = time.perf_counter(), 0.0

    def __call__(self, status: Status) -> None:
        """Note when the first worker is ready."""
        if status.started is not None and not self.ready:
            self.ready = time.perf_counter()

    def row(self, jobs: int) -> Row:
        """Return the seconds until the first worker was ready, and the speed from then on."""
        seconds = time.perf_counter() - self.ready
        start = self.ready - self.started
        speed = {"s a clip": round(seconds / jobs, 4), "a minute": round(60 * jobs / seconds, 1)}
        return {"start, s": round(start, 2), **speed}


def time_sweep(sweep: Sweep, folder: Path, backend: Backend) -> Row:
    """Return the times of a sweep into an empty folder."""
    timer = Timer()
    result = run(sweep, folder, backend=backend, on_status=timer)
    assert not result.failed, result.failed
    return timer.row(len(result.made))


def time_sweeps(workers: Iterable[int], clips: int, root: Path) -> dict[str, Row]:
    """Return the times of a sweep in this process, and on Ray by number of workers."""
    (root / "sweep.yaml").write_text(yaml.safe_dump({**CONFIG, "seeds": clips // 2}))
    sweep = read_sweep(root / "sweep.yaml")
    rows = {"this process": time_sweep(sweep, root / "serial", Serial())}
    for count in workers:
        with connected("local"):
            rows[f"Ray, {count}"] = time_sweep(sweep, root / f"ray-{count}", RayCluster("local", count))
    return rows


def time_evaluations(jobs: Iterable[int], clips: Path, root: Path) -> dict[str, Row]:
    """Return the times of an evaluation by number of processes; all must give the same rows."""
    rows: dict[str, Row] = {}
    contents: set[bytes] = set()
    for count in jobs:
        timer, output = Timer(), root / f"evaluation-{count}"
        summary = evaluate(
            [clips], output=output, backend=Serial() if count == 1 else Processes(count), on_status=timer
        )
        rows[f"{count}"] = timer.row(len({row["clip"] for row in summary.rows}))
        contents.add((output / "results.jsonl").read_bytes())
    assert len(contents) == 1
    return rows


class SleepActor:
    """Workers that sleep instead of making clips; each call is one worker."""

    async def ready(self) -> str:
        """Return the kind of the workers."""
        return ""

    async def make(self, job: tuple[int, float]) -> float:
        """Sleep, and return when the job began, in seconds of the machine's clock."""
        import asyncio

        began = time.time()
        await asyncio.sleep(job[1])
        return began


def no_worker() -> Worker:
    """Make no worker: the workers of `SleepPool` are made by `add`."""
    raise NotImplementedError


class SleepPool(RayPool):
    """Pool in which a few actors stand for many workers."""

    def __init__(self, size: int) -> None:
        super().__init__(no_worker, size, {}, ExitStack())
        options: dict[str, Any] = dict(num_cpus=0, max_concurrency=size)
        self._shared = [ray.remote(SleepActor).options(**options).remote() for _ in range(ACTORS)]
        self.submitted: dict[Any, float] = {}

    def add(self) -> None:
        """Add a worker."""
        actor = self._shared[len(self._actors) % ACTORS]
        self._calls[actor.ready.remote()] = (len(self._actors), False)
        self._actors.append(actor)

    def submit(self, worker: int, job: Any) -> None:
        """Send a job, and note when."""
        self.submitted[job] = time.time()
        super().submit(worker, job)

    def release(self, worker: int) -> None:
        """Do nothing: the actor has other workers."""


class SleepCluster:
    """Backend of :class:`SleepPool`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def start(self, factory: Factory, jobs: int) -> Pool:
        """Return the pool."""
        self.pool = SleepPool(self.size)
        return self.pool


def feed_many(workers: int, rounds: int, seconds: float) -> Row:
    """Return the driver's CPU time for a job, and the delay of jobs, with jobs that sleep.

    Args:
        workers: in all.
        rounds: jobs of each worker.
        seconds: of a job.
    """
    backend, delays = SleepCluster(workers), []
    jobs = [((number, seconds), number) for number in range(workers * rounds)]

    def record(job: Any, began: float) -> None:
        delays.append(began - backend.pool.submitted[job])

    started, used = time.perf_counter(), time.process_time()
    failed = run_jobs(backend, no_worker, jobs, on_result=record)
    assert not failed
    cpu = (time.process_time() - used) / len(jobs)
    ordered = sorted(delays)
    fed = {f"workers fed at {clip} s a clip": int(clip / cpu) for clip in CLIP_SECONDS}
    return {
        "workers": workers,
        "jobs": len(jobs),
        "wall, s": round(time.perf_counter() - started, 1),
        "driver's CPU, ms a job": round(1000 * cpu, 2),
        "delay, median ms": round(1000 * ordered[len(ordered) // 2], 1),
        "delay, p99 ms": round(1000 * ordered[int(0.99 * len(ordered))], 1),
        **fed,
    }


def report(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    machine = f"{result['cores']} CPU cores, which the workers share; load before the run {result['load']:.1f}"
    parts = [f"# Scaling\n\n`{result['command']}` on {machine}.\n"]
    for title, name in (("Sweeps", "sweeps"), ("Evaluation, by processes", "evaluations")):
        header = ["workers", *next(iter(result[name].values()))]
        cells = [[key, *map(str, row.values())] for key, row in result[name].items()]
        parts.append(f"## {title}\n\n{markdown_table(header, cells)}\n")
    parts.append(f"Ray adds {result['overhead, ms']:.1f} ms to a clip (one worker against this process).\n")
    cells = [[key, str(value)] for key, value in result["driver"].items()]
    return "\n".join([*parts, f"## One driver\n\n{markdown_table(['quantity', 'value'], cells)}\n"])


def measure(workers: list[int], clips: int, jobs: list[int], simulated: int, seconds: float) -> dict[str, Any]:
    """Return all results.

    Args:
        workers: numbers of Ray workers; the first is 1.
        clips: of a sweep, an even number.
        jobs: numbers of processes.
        simulated: workers whose jobs sleep.
        seconds: that they sleep.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sweeps = time_sweeps(workers, clips, root)
        evaluations = time_evaluations(jobs, root / "serial" / "clips", root)
    with connected("local"):
        driver = feed_many(simulated, 3, seconds)
    overhead = 1000 * (sweeps["Ray, 1"]["s a clip"] - sweeps["this process"]["s a clip"])
    return {"sweeps": sweeps, "evaluations": evaluations, "driver": driver, "overhead, ms": overhead}


def main() -> None:
    """Parse the arguments, measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--simulated", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    add_output(parser)
    arguments = vars(parser.parse_args())
    output = arguments.pop("output")
    words = [f"--{name} {value}" for name, value in arguments.items()]
    command = re.sub(r"[\[\],]", "", f"python benchmarks/scaling.py {' '.join(words)}")
    before = {"command": command, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    result = {**measure(**arguments), **before}
    write("scaling", report(result), result, output)


if __name__ == "__main__":
    main()
