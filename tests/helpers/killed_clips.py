"""A worker of a sweep whose process is killed within a clip."""

import os
import signal
from pathlib import Path

from vidguide.pipelines.sweep.jobs import Job
from vidguide.pipelines.sweep.run import ClipWorker, Made


class KilledOnceWorker(ClipWorker):
    """Generates clips; its process is killed after the last sampling step of the first attempts at seed 1."""

    def __call__(self, job: Job) -> Made:
        marker = Path(f"{job.path.parents[2]}-{job.path.stem}.killed")
        if job.seed == 1 and job.arm.name == "none" and not marker.exists():
            marker.touch()
            self.pipe.vae.decode = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(job)
