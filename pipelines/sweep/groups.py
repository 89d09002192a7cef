"""A worker of a sweep that is several processes, which share each clip by diffusers' context parallel.

The first process is the pool's worker: it starts the others, passes each job on to them, and alone writes the clip. All
run the whole pipeline; the transformer's sequence is divided among them.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from vidguide.pipelines.sweep.jobs import Job
from vidguide.pipelines.sweep.run import ClipWorker, Made, make_clip

LIMIT = 600.0  # seconds that a process waits for the others within a clip, before it ends
CODE = "from vidguide.pipelines.sweep.groups import serve; serve()"


class Group(NamedTuple):
    """What the processes of a worker need to find each other.

    Attributes:
        size: number of processes. rendezvous: file in which they meet.
        prepare: called in each process before the model is loaded; None for nothing.
    """

    size: int
    rendezvous: str
    prepare: Callable[[], None] | None = None


class GroupWorker:
    """Generates clips of a sweep in a group of processes, one per GPU that the worker has, or on the CPU.

    Pass it to :func:`vidguide.pipelines.sweep.run.run` as `worker=partial(GroupWorker, size=2)`, with a backend whose
    workers have as many GPUs, such as `RayCluster(gpus_per_worker=2)`. If a process of a group dies, the whole worker
    ends, and the pool replaces it.

    Attributes:
        kind: as of :class:`ClipWorker`, with the number of processes.
    """

    def __init__(self, *arguments: Any, size: int, prepare: Callable[[], None] | None = None) -> None:
        """Start the processes, and load the pipeline in each.

        Args:
            arguments: as for :class:`ClipWorker`.
            size: number of processes.
            prepare: as of :class:`Group`.

        Raises:
            ValueError: `size` is below 2, or diffusers has no plan for the model. Others: as :class:`ClipWorker`.
        """
        if size < 2:
            raise ValueError(f"size={size}: must be at least 2; one process is a ClipWorker")
        self._folder = tempfile.TemporaryDirectory()
        group = Group(size, str(Path(self._folder.name) / "rendezvous"), prepare)
        self._processes, self._ends = start_others(group, arguments)
        self._worker = join(group, 0, arguments)
        self.kind = f"{self._worker.kind} x {size}"

    def __call__(self, job: Job) -> Made:
        """Generate and write a clip; ends this process if another of the group has died.

        Raises:
            FatalError: as :class:`ClipWorker`. Others: the clip cannot be generated.
        """
        try:
            for end in self._ends:
                end.send(job)
            return self._worker(job)
        except Exception:
            if any(process.poll() is not None for process in self._processes):
                raise SystemExit("a process of the group has died") from None
            raise


def start_others(group: Group, arguments: tuple[Any, ...]) -> tuple[list["subprocess.Popen[bytes]"], list[Connection]]:
    """Start all processes but the first, and return them with connections to them. They end with the connection."""
    processes, ends = [], []
    for rank in range(1, group.size):
        end, other = Pipe()
        command = [sys.executable, "-c", CODE, str(other.fileno())]
        processes.append(subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL))
        other.close()
        end.send((pickle.dumps(group), rank, pickle.dumps(arguments), list(sys.path), str(Path.cwd())))
        ends.append(end)
    return processes, ends


def join(group: Group, rank: int, arguments: tuple[Any, ...]) -> ClipWorker:
    """Join the group, and return a worker whose transformers divide their sequence among it."""
    import torch
    from diffusers import ContextParallelConfig
    from torch import distributed

    if group.prepare is not None:
        group.prepare()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{group.rendezvous}",
        rank=rank,
        world_size=group.size,
        timeout=timedelta(seconds=LIMIT),
    )
    worker = ClipWorker(*arguments)
    for name in ("transformer", "transformer_2"):
        transformer = getattr(worker.pipe, name, None)
        if transformer is not None:
            transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=group.size))
    return worker


def serve() -> None:
    """Run the jobs that the first process passes on, without writing, until the connection is closed."""
    end = Connection(int(sys.argv[1]))
    group, rank, arguments, path, folder = end.recv()
    sys.path[:] = path
    os.chdir(folder)
    worker = join(pickle.loads(group), rank, pickle.loads(arguments))
    with suppress(EOFError, ConnectionResetError):
        while True:
            job = end.recv()
            with suppress(Exception):  # which the first process raises too
                make_clip(worker.sweep, job, worker.pipe)
