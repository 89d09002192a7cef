"""What a pool of workers is: its events, and the errors of its jobs and workers.

A factory is called once in the process of each worker, where it loads models, and returns a callable that makes one
job. Factories and jobs are pickled, except in :class:`vidguide.eval.pool.serial.Serial`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Worker = Callable[[Any], Any]  # job to result; an attribute `kind` names the type of its device
Factory = Callable[[], Worker]


class FatalError(OSError):
    """Error of a job that ends the run, such as a full disk."""


class WorkerError(OSError):
    """A worker cannot be made: the message is that of its model, or names the resource that is missing."""


@dataclass(frozen=True)
class Failure:
    """Result of a job that raised an exception.

    Attributes:
        reason: class and message of the exception.
        fatal: the exception, if it ends the run.
    """

    reason: str
    fatal: FatalError | None = None


class Ready(NamedTuple):
    """A worker has loaded its models; workers of one `kind` give equal results."""

    worker: int
    kind: str


class Finished(NamedTuple):
    """A worker has finished its job; the result is a :class:`Failure` if the job raised an exception."""

    worker: int
    result: Any


class Died(NamedTuple):
    """The process of a worker ended, while it loaded its models or in a job."""

    worker: int
    reason: str


Event = Ready | Finished | Died


class Pool(Protocol):
    """Workers that make one job at a time each, numbered in the order in which they were asked for.

    Attributes:
        size: number of workers to ask for.
    """

    size: int

    def add(self) -> None:
        """Ask for a worker, without waiting for it."""

    def submit(self, worker: int, job: Any) -> None:
        """Give a job to a worker that is ready and idle."""

    def wait(self, seconds: float) -> Event | None:
        """Return the next event, or None after some seconds without one.

        Raises:
            WorkerError: a worker cannot be made.
        """

    def release(self, worker: int) -> None:
        """End an idle worker, and free its resources."""

    def close(self) -> None:
        """End all workers, also in the middle of a job."""


class Backend(Protocol):
    """Where workers run: starts pools."""

    def start(self, factory: Factory, jobs: int) -> Pool:
        """Return a pool of no more workers than jobs, none of which has been asked for."""


def attempt(worker: Worker, job: Any) -> Any:
    """Return the result of a job, or a :class:`Failure` if it raises an exception."""
    try:
        return worker(job)
    except FatalError as error:
        return Failure(str(error), fatal=error)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}")


def kind_of(worker: Worker) -> str:
    """Return the type of a worker's device; empty for a worker whose results do not depend on it."""
    return str(getattr(worker, "kind", ""))
