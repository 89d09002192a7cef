"""A pool whose workers remain between several runs of the loop, so that each loads its models once."""

from collections import deque
from types import TracebackType
from typing import Any

from vidguide.eval.pool.protocol import Backend, Died, Event, Factory, Finished, Pool, Ready


class Persistent:
    """Backend that passes the workers of one run of :func:`vidguide.eval.pool.loop.run_jobs` on to the next.

    All runs must have the same factory. Used as a context manager, which ends the workers.
    """

    def __init__(self, backend: Backend, most: int) -> None:
        """Create the backend, without any worker.

        Args:
            backend: where workers run.
            most: number of jobs of the largest run.
        """
        self.backend, self.most = backend, most
        self._pool: PersistentPool | None = None

    def start(self, factory: Factory, jobs: int) -> Pool:
        """Return the pool, with the workers of earlier runs."""
        if self._pool is None or self._pool.closed:
            self._pool = PersistentPool(self.backend.start(factory, self.most))
        self._pool.begin(jobs)
        return self._pool

    def __enter__(self) -> "Persistent":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.end()


class PersistentPool:
    """Pool of :class:`Persistent`; the workers of each run are numbered from 0.

    Attributes:
        size: number of workers to ask for.
        closed: whether its workers were ended.
    """

    def __init__(self, pool: Pool) -> None:
        self.size, self.closed = pool.size, False
        self._pool = pool
        self._added = 0
        self._kinds: dict[int, str | None] = {}  # living workers of the inner pool; None while they load
        self._numbers: list[int] = []  # numbers in the inner pool of the workers of this run
        self._taken: set[int] = set()  # those that the run has not released
        self._busy: set[int] = set()
        self._events: deque[Event] = deque()

    def begin(self, jobs: int) -> None:
        """Begin a run with a number of jobs."""
        self.size = min(self._pool.size, jobs)

    def add(self) -> None:
        """Take a worker of an earlier run, one that is ready if there is any, or ask for one."""
        free = [worker for worker in self._kinds if worker not in self._taken]
        free.sort(key=lambda worker: self._kinds[worker] is None)
        worker = free[0] if free else self._ask()
        kind = self._kinds[worker]
        if kind is not None:
            self._events.append(Ready(len(self._numbers), kind))
        self._numbers.append(worker)
        self._taken.add(worker)

    def _ask(self) -> int:
        """Ask the inner pool for a worker, and return its number."""
        self._pool.add()
        self._kinds[self._added] = None
        self._added += 1
        return self._added - 1

    def submit(self, worker: int, job: Any) -> None:
        """Give a job to a worker."""
        self._busy.add(self._numbers[worker])
        self._pool.submit(self._numbers[worker], job)

    def wait(self, seconds: float) -> Event | None:
        """Return the next event."""
        if self._events:
            return self._events.popleft()
        event = self._pool.wait(seconds)
        if event is None:
            return None
        worker = event.worker
        match event:
            case Ready(_, kind):
                self._kinds[worker] = kind
            case Finished():
                self._busy.discard(worker)
            case Died():
                self._busy.discard(worker)
                del self._kinds[worker]
        if worker not in self._taken:
            return None
        if isinstance(event, Died):
            self._taken.discard(worker)
        return event._replace(worker=len(self._numbers) - 1 - self._numbers[::-1].index(worker))

    def release(self, worker: int) -> None:
        """Leave an idle worker for the next run."""
        self._taken.discard(self._numbers[worker])

    def close(self) -> None:
        """End the run; the workers too, if it was interrupted within a job."""
        if self._busy:
            self.end()
        self._numbers, self._taken = [], set()
        self._events.clear()

    def end(self) -> None:
        """End all workers."""
        if not self.closed:
            self.closed = True
            self._pool.close()
