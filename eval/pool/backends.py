"""Choose a backend by the options of a command."""

from contextlib import AbstractContextManager, nullcontext

from vidguide.eval.pool.processes import Processes
from vidguide.eval.pool.protocol import Backend
from vidguide.eval.pool.ray_actors import RayCluster, connected
from vidguide.eval.pool.serial import Serial


def choose_backend(
    ray: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    jobs: int = 1,
    memory: int | None = None,
) -> Backend:
    """Return Ray actors if `ray` is an address, else processes on this machine, or for one job this process.

    Args:
        ray, workers, gpus_per_worker, memory: as for :class:`vidguide.eval.pool.ray_actors.RayCluster`.
        jobs: number of processes.

    Raises:
        ValueError: options that exclude each other, or out of range. ImportError: Ray is not installed.
    """
    if ray is not None:
        if jobs != 1:
            raise ValueError(f"jobs={jobs}: is for one machine; with ray={ray!r} give workers")
        return RayCluster(ray, workers, gpus_per_worker, memory)
    for name, value in (("workers", workers), ("gpus_per_worker", gpus_per_worker)):
        if value is not None:
            raise ValueError(f"{name}={value:g}: needs ray, such as ray='local'")
    return Serial() if jobs == 1 else Processes(jobs)


def session(backend: Backend) -> AbstractContextManager[None]:
    """Return a context in which several runs of a backend share one connection."""
    return connected(backend.address) if isinstance(backend, RayCluster) else nullcontext()
