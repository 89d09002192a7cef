"""The loop that feeds a pool: each idle worker takes the next job.

A job goes only to a worker that is ready. If a worker dies, its job returns to the queue and another worker is asked
for, without waiting for it. A job in which `TRIES` workers died is given up; a job that raises an exception is not
tried again. Neither ends the run.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import closing
from typing import Any

from vidguide.eval.pool.protocol import Backend, Died, Event, Factory, Failure, Finished, Pool, Ready, WorkerError
from vidguide.eval.pool.queue import Task, TaskQueue
from vidguide.eval.pool.status import Status

TRIES = 3  # workers that may die in one job
BEAT = 1.0  # seconds between two reports of the status
PATIENCE = 900.0  # seconds to wait for a worker while none is there


def run_jobs(
    backend: Backend,
    factory: Factory,
    jobs: Iterable[tuple[Any, Hashable]],
    *,
    kinds: Mapping[Any, str] | None = None,
    on_result: Callable[[Any, Any], None] = lambda job, result: None,
    on_status: Callable[[Status], None] = lambda status: None,
) -> dict[Any, str]:
    """Make all jobs; returns the reasons of those that failed, by job.

    Args:
        backend: where workers run.
        factory: makes a worker.
        jobs: each, hashable, with its group: jobs of one group run on workers of one kind.
        kinds: of groups that an earlier run has begun.
        on_result: called in this process with each job and its result, or :class:`Failure`, in the order of completion.
        on_status: called after each event, and every second or so.

    Raises:
        WorkerError: no worker can be made. FatalError: of a job. With :class:`vidguide.eval.pool.serial.Serial`, any
            exception of the factory.
    """
    queue = TaskQueue((Task(job, group) for job, group in jobs), kinds)
    if not len(queue):
        return {}
    with closing(backend.start(factory, len(queue))) as pool:
        return Loop(pool, queue, on_result, on_status).run()


class Loop:
    """State of :func:`run_jobs`: what each worker does, and which jobs failed."""

    def __init__(
        self,
        pool: Pool,
        queue: TaskQueue,
        on_result: Callable[[Any, Any], None],
        on_status: Callable[[Status], None],
    ) -> None:
        self.pool, self.queue, self.on_result, self.on_status = pool, queue, on_result, on_status
        self.status = Status(total=len(queue))
        self.failed: dict[Any, str] = {}
        self.kinds: dict[int, str] = {}  # of ready workers
        self.tasks: dict[int, Task] = {}  # of busy workers
        self.pending = 0  # workers that are not ready yet
        self.deaths = self.deaths_in_loading = 0  # since a job was finished, or a worker was ready
        self.alive = time.monotonic()  # when there was a ready worker, last

    def run(self) -> dict[Any, str]:
        """Make all jobs; returns the reasons of those that failed."""
        for _ in range(self.pool.size):
            self.add()
        while self.tasks or (len(self.queue) and self.pending):
            event = self.pool.wait(BEAT)
            if event is not None:
                self.handle(event)
            self.status.workers = len(self.kinds)
            self.on_status(self.status)
            if self.is_stuck():
                break
        self.give_up_rest()
        self.on_status(self.status)
        return self.failed

    def add(self) -> None:
        """Ask for a worker."""
        self.pool.add()
        self.pending += 1

    def handle(self, event: Event) -> None:
        """Take note of an event, and give idle workers their next job."""
        match event:
            case Ready(worker, kind):
                self.pending -= 1
                self.deaths_in_loading = 0
                self.kinds[worker] = kind
                self.status.started = self.status.started or time.monotonic()
                self.feed(worker)
            case Finished(worker, result):
                self.deaths = 0
                self.record(self.tasks.pop(worker), result)
                self.feed(worker)
            case Died(worker, reason):
                self.bury(worker, reason)

    def feed(self, worker: int) -> None:
        """Give a worker its next job, or end it if there is none."""
        task = self.queue.take(self.kinds[worker])
        if task is None:
            del self.kinds[worker]
            self.pool.release(worker)
        else:
            self.tasks[worker] = task
            self.pool.submit(worker, task.job)

    def record(self, task: Task, result: Any) -> None:
        """Count a result, and pass it on."""
        if isinstance(result, Failure):
            if result.fatal is not None:
                raise result.fatal
            self.failed[task.job] = result.reason
            self.status.failed += 1
        else:
            self.status.done += 1
        self.on_result(task.job, result)

    def bury(self, worker: int, reason: str) -> None:
        """Return the job of a dead worker to the queue, or give it up, and ask for another worker."""
        task = self.tasks.pop(worker, None)
        if self.kinds.pop(worker, None) is None:
            self.pending -= 1
            self.deaths_in_loading += 1
            if self.deaths_in_loading >= TRIES * self.pool.size:
                raise WorkerError(f"{self.deaths_in_loading} workers died while they loaded their models: {reason}")
        if task is not None:
            self.deaths += 1
            task.deaths += 1
            if task.deaths < TRIES:
                self.queue.retry(task)
            else:
                self.give_up(task, f"{TRIES} workers died in it: {reason}")
        if len(self.queue):
            self.add()

    def give_up(self, task: Task, reason: str) -> None:
        """Count a task as failed."""
        self.record(task, Failure(reason))

    def is_stuck(self) -> bool:
        """Return whether workers die without ever finishing a job, or none has been there for long."""
        if self.kinds:
            self.alive = time.monotonic()
        return time.monotonic() - self.alive > PATIENCE or self.deaths >= TRIES * (self.pool.size + TRIES)

    def give_up_rest(self) -> None:
        """Count all tasks that are left as failed, with the reason."""
        for task in self.tasks.values():
            self.give_up(task, "the run ended before it was done")
        for task, kind in self.queue.remove_all():
            if self.deaths >= TRIES:
                reason = f"not tried: {self.deaths} workers died in a row"
            elif kind:
                cure = "add such a worker, or remove the group's results"
                reason = f"its group was begun on {kind}, which no worker has; {cure}"
            else:
                reason = "no worker was there"
            self.give_up(task, reason)
