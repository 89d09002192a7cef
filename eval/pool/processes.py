"""A pool of processes on this machine."""

import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

from vidguide.eval.pool.protocol import (
    Died,
    Event,
    Factory,
    Failure,
    Finished,
    Pool,
    Ready,
    WorkerError,
    attempt,
    kind_of,
)
from vidguide.eval.pool.threads import thread_variables

SPAWN = get_context("spawn")  # forked processes cannot use CUDA, and inherit locks of threads
GRACE = 5.0  # seconds for a process to end


@dataclass(frozen=True)
class Processes:
    """Backend of several processes on this machine, which share its CPU cores.

    The script that uses it must be importable: its code stands under `if __name__ == "__main__"`.

    Attributes:
        workers: number of processes.

    Raises:
        TypeError: it is not a whole number. ValueError: it is below 1.
    """

    workers: int

    def __post_init__(self) -> None:
        if type(self.workers) is not int:
            raise TypeError(f"jobs={self.workers!r}: must be a whole number")
        if self.workers < 1:
            raise ValueError(f"jobs={self.workers}: must be at least 1")

    def start(self, factory: Factory, jobs: int) -> Pool:
        """Return the pool."""
        return ProcessPool(factory, min(self.workers, jobs))


class ProcessPool:
    """Pool of :class:`Processes`."""

    def __init__(self, factory: Factory, size: int) -> None:
        self.size = size
        self._factory = pickle.dumps(factory)
        self._variables = thread_variables(os.cpu_count() or 1, size)
        self._processes: list[Any] = []
        self._ends: dict[Any, int] = {}  # connections to living workers

    def add(self) -> None:
        """Start a process."""
        end, other = SPAWN.Pipe()
        process = SPAWN.Process(target=serve, args=(other, self._factory), daemon=True)
        with environment(self._variables):
            process.start()
        other.close()
        self._ends[end] = len(self._processes)
        self._processes.append(process)

    def submit(self, worker: int, job: Any) -> None:
        """Send a job to a worker; that it died meanwhile is an event of the next `wait`."""
        with suppress(OSError):
            self._end_of(worker).send(job)

    def wait(self, seconds: float) -> Event | None:
        """Return the next event; a closed connection is the death of a worker."""
        ready: list[Any] = connection.wait(list(self._ends), seconds)
        for end in ready[:1]:
            worker = self._ends[end]
            try:
                event = end.recv()
            except (EOFError, OSError):
                del self._ends[end]
                self._processes[worker].join(GRACE)
                return Died(worker, f"exit code {self._processes[worker].exitcode}")
            if isinstance(event, WorkerError):
                raise event
            return event._replace(worker=worker)
        return None

    def release(self, worker: int) -> None:
        """Close the connection to a worker, which ends it."""
        end = self._end_of(worker)
        del self._ends[end]
        end.close()

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join(GRACE)

    def _end_of(self, worker: int) -> Any:
        return next(end for end, number in self._ends.items() if number == worker)


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started in the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(end: Any, factory: bytes) -> None:
    """Make a worker, and its jobs until the connection is closed. Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers
    try:
        worker = pickle.loads(factory)()
    except Exception as error:
        end.send(WorkerError(str(error)))
        return
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        end.send(Ready(0, kind_of(worker)))
        while True:
            result = attempt(worker, end.recv())
            try:
                end.send(Finished(0, result))
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                end.send(Finished(0, Failure(f"its result cannot be sent: {error}")))
