"""Progress of a run: jobs done and failed, workers, speed, and the time that is left."""

import time
from dataclasses import dataclass, field


@dataclass
class Status:
    """Progress of a run.

    Attributes:
        total, done, failed: numbers of jobs; those that failed are not done.
        workers: that are ready.
        started: when the first worker was ready, in seconds of `time.monotonic`; None before.
    """

    total: int
    done: int = 0
    failed: int = 0
    workers: int = 0
    started: float | None = field(default=None, repr=False)

    @property
    def per_minute(self) -> float:
        """Jobs done a minute, since the first worker was ready; 0 before the first."""
        seconds = 0.0 if self.started is None else time.monotonic() - self.started
        return 60 * self.done / seconds if seconds else 0.0

    @property
    def minutes_left(self) -> float | None:
        """Minutes until all jobs are made, at the present speed; None before the first is done."""
        left = self.total - self.done - self.failed
        return left / self.per_minute if self.done else None

    def details(self) -> str:
        """Return all but the number of jobs done as text: "1 failed, 2 workers, 14.2 a minute, 6 min left"."""
        parts = [f"{self.failed} failed"] if self.failed else []
        parts.append(f"{self.workers} worker{'' if self.workers == 1 else 's'}")
        if self.minutes_left is not None:
            parts += [f"{self.per_minute:.1f} a minute", f"{self.minutes_left:.0f} min left"]
        return ", ".join(parts)
