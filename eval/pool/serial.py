"""A pool of one worker in this process."""

from typing import Any

from vidguide.eval.pool.protocol import Event, Factory, Finished, Pool, Ready, Worker, attempt, kind_of


class Serial:
    """Backend that runs all jobs in this process, one after the other. Errors of the factory are raised unchanged."""

    def start(self, factory: Factory, jobs: int) -> Pool:
        """Return the pool."""
        return SerialPool(factory)


class SerialPool:
    """Pool of :class:`Serial`; `wait` makes the job."""

    size = 1

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._workers: list[Worker | None] = []
        self._jobs: list[tuple[int, Any]] = []

    def add(self) -> None:
        """Add a worker, which is made by the next `wait`."""
        self._workers.append(None)

    def submit(self, worker: int, job: Any) -> None:
        """Give a job to a worker."""
        self._jobs.append((worker, job))

    def wait(self, seconds: float) -> Event | None:
        """Make the worker, or its job, however long it takes."""
        if self._workers and self._workers[-1] is None:
            made = self._workers[-1] = self._factory()
            return Ready(len(self._workers) - 1, kind_of(made))
        number, job = self._jobs.pop(0)
        worker = self._workers[number]
        assert worker is not None
        return Finished(number, attempt(worker, job))

    def release(self, worker: int) -> None:
        """Do nothing: the worker ends with the pool."""

    def close(self) -> None:
        """Forget the workers, so that their models can be freed."""
        self._workers.clear()
