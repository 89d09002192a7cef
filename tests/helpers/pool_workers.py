"""Workers for tests of pools: each job names what happens in it. They load no model."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidguide.clip import Clip
from vidguide.eval.pool.protocol import FatalError

# What happens in a job.
WRITE, RAISE, FILL, KILL, KILL_ONCE = "write", "raise", "fill", "kill", "kill once"


class PoolJob(NamedTuple):
    """A job: the clip to write, and what happens while it is written."""

    path: str
    action: str = WRITE


def noise(name: str) -> Clip:
    """Return a clip of noise that its name determines."""
    frames = np.random.default_rng(list(name.encode())).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return Clip(frames=frames, fps=8)


class NoiseWorker:
    """Writes a clip of noise in each job, and returns its SHA-256 and the process.

    Attributes:
        kind: type of its device.
    """

    def __init__(self, kind: str = "") -> None:
        self.kind = kind

    def __call__(self, job: PoolJob) -> tuple[str, int]:
        path = Path(job.path)
        if job.action == RAISE:
            raise FloatingPointError("all values are NaN")
        if job.action == FILL:
            raise FatalError("No space left on device")
        if job.action == KILL or (job.action == KILL_ONCE and not path.with_suffix(".killed").exists()):
            path.with_suffix(".killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        noise(path.stem).save(path)
        return noise(path.stem).sha256, os.getpid()


class BrokenWorker(NoiseWorker):
    """A worker whose model cannot be loaded; notes each attempt as a line of a file."""

    def __init__(self, log: str) -> None:
        with Path(log).open("a") as file:
            file.write("attempt\n")
        raise OSError("model='broken': cannot be loaded: its config.json is cut")


class DyingWorker(NoiseWorker):
    """A worker whose process dies while it loads its model."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def jobs_in(folder: Path, actions: list[str]) -> list[tuple[PoolJob, int]]:
    """Return a job for each action, with groups of two."""
    return [(PoolJob(str(folder / f"{number}.mkv"), action), number // 2) for number, action in enumerate(actions)]
