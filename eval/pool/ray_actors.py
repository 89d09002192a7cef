"""A pool of actors of Ray Core, on this machine or on a cluster (https://docs.ray.io/en/latest/ray-core/actors.html).

Ray does not restart the actors (`max_restarts`, `max_task_retries`): a job that kills its actor each time, or a
replacement that cannot be placed, would end the run. The loop replaces them. Workers write clips, which never pass
through the object store; results are small.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
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

REACH = 10.0  # seconds to connect to the address of a cluster


class RayWorker:
    """An actor: makes its worker in `ready`, then one job at a time."""

    def __init__(self, factory: Factory, folder: str) -> None:
        """Create the actor, in the working directory of the driver where it exists.

        Args:
            factory: of the worker.
            folder: working directory.
        """
        self._factory = factory
        if Path(folder).is_dir():
            os.chdir(folder)

    def ready(self) -> str | Failure:
        """Make the worker, and return its kind, or why it cannot be made."""
        try:
            self._worker = self._factory()
        except Exception as error:
            return Failure(str(error))
        return kind_of(self._worker)

    def make(self, job: Any) -> Any:
        """Return the result of a job."""
        return attempt(self._worker, job)


@dataclass(frozen=True)
class RayCluster:
    """Backend of Ray actors.

    Attributes:
        address: "local" starts Ray on this machine for the run, "auto" connects to the cluster of this machine, other
            texts are the address of a cluster, such as "10.0.0.1:6379".
        workers: number of actors; None for as many as the cluster has GPUs for, or CPUs without GPUs.
        gpus_per_worker: GPUs of each actor, 0.5 for two on one GPU; None for 1 where there are GPUs, else 0.
        memory: bytes of memory that each actor reserves on its node; None for no reservation.

    Raises:
        TypeError, ValueError: a number is of another type or out of range. ImportError: Ray is not installed.
    """

    address: str = "local"
    workers: int | None = None
    gpus_per_worker: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise ImportError("ray: not installed; pip install 'vidguide[ray]'")
        if self.workers is not None and type(self.workers) is not int:
            raise TypeError(f"workers={self.workers!r}: must be a whole number")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers}: must be at least 1")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < float("inf"):
            raise ValueError(f"gpus_per_worker={self.gpus_per_worker}: must be at least 0")

    def start(self, factory: Factory, jobs: int) -> Pool:
        """Connect to Ray, and return the pool.

        Raises:
            WorkerError: the cluster cannot be reached, or has no GPU for a worker.
        """
        with ExitStack() as stack:
            stack.enter_context(connected(self.address))
            size, options = self._resources()
            return RayPool(factory, min(size, jobs), options, stack.pop_all())

    def _resources(self) -> tuple[int, dict[str, Any]]:
        """Return the number of actors, and the options of each."""
        import ray

        total = ray.cluster_resources()
        gpus, cpus = total.get("GPU", 0.0), total.get("CPU", 1.0)
        share = self.gpus_per_worker if self.gpus_per_worker is not None else float(gpus > 0)
        if share > gpus and self.address == "local":
            raise WorkerError(f"gpus_per_worker={share:g}: this machine has {gpus:g}")
        size = self.workers or max(int(gpus / share if share else cpus), 1)
        return size, {
            "num_cpus": min(1.0, cpus / size),
            "num_gpus": share,
            "runtime_env": {"env_vars": thread_variables(cpus, size)},
            "max_restarts": 0,
            "max_task_retries": 0,
            **({"memory": self.memory} if self.memory else {}),
        }


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to Ray for the duration of the context; nothing if the process is connected.

    Raises:
        WorkerError: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    check_reachable(address)
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WorkerError(f"ray={address!r}: cannot connect: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Check that something listens at `HOST:PORT`, since Ray waits a minute for a cluster; other texts are accepted.

    Raises:
        WorkerError: nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(f"ray={address!r}: cannot connect: {error}") from error


class RayPool:
    """Pool of :class:`RayCluster`."""

    def __init__(self, factory: Factory, size: int, options: dict[str, Any], connection: ExitStack) -> None:
        import ray

        self.size = size
        self._connection = connection
        self._actor_class = ray.remote(RayWorker).options(**options)
        self._factory = ray.put(factory)
        self._actors: list[Any] = []
        self._calls: dict[Any, tuple[int, bool]] = {}  # reference to (worker, whether it is a job)

    def add(self) -> None:
        """Create an actor; it waits in Ray until its resources are free."""
        actor = self._actor_class.remote(self._factory, str(Path.cwd()))
        self._calls[actor.ready.remote()] = (len(self._actors), False)
        self._actors.append(actor)

    def submit(self, worker: int, job: Any) -> None:
        """Send a job to an actor."""
        self._calls[self._actors[worker].make.remote(job)] = (worker, True)

    def wait(self, seconds: float) -> Event | None:
        """Return the next event."""
        import ray

        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        if not done:
            return None
        worker, is_job = self._calls.pop(done[0])
        result = self._result(worker, done[0])
        if isinstance(result, Died) or is_job:
            return result if isinstance(result, Died) else Finished(worker, result)
        if isinstance(result, Failure):
            raise WorkerError(result.reason)
        return Ready(worker, result)

    def _result(self, worker: int, reference: Any) -> Any:
        """Return the result of a call; :class:`Died` if its actor is lost, which is ended for certain."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(reference)
        except RayTaskError as error:  # of sending its result
            return Failure(lines_of(error)[-1])
        except RayError as error:
            self.release(worker)
            return Died(worker, " ".join(dict.fromkeys((*lines_of(error)[:1], *lines_of(error)[-1:]))))

    def release(self, worker: int) -> None:
        """End an actor."""
        import ray

        actor, self._actors[worker] = self._actors[worker], None
        if actor is not None:
            with suppress(Exception):  # the cluster may be lost
                ray.kill(actor)

    def close(self) -> None:
        """End all actors, and Ray if it was started for this pool."""
        for worker in range(len(self._actors)):
            self.release(worker)
        self._calls.clear()
        self._connection.close()


def lines_of(error: Exception) -> list[str]:
    """Return the lines of an error's message, at least one."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
