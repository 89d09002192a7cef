"""Progress of a long command: a bar on a terminal; a line now and then where the output is a file or a pipe."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bars

from vidguide.eval.pool.status import Status
from vidguide.eval.report.console import errors

INTERVAL = 30.0  # seconds between two lines


class Progress:
    """Context manager that shows how many parts of a task are done.

    Args:
        task: what is counted, such as "clips".
        total: number of parts; None if it is not known yet.
        hidden: whether to show nothing.
        console: to show it on; standard error by default.
    """

    def __init__(
        self, task: str, total: int | None = None, hidden: bool = False, console: Console | None = None
    ) -> None:
        self.task, self.done, self.total, self.hidden = task, 0, total, hidden
        self.console = console or errors
        columns = (*Bars.get_default_columns(), MofNCompleteColumn())
        self.bars = Bars(*columns, console=self.console, transient=True, disable=hidden or not self.console.is_terminal)
        self.bar = self.bars.add_task(task, total=total)
        self.printed = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def update(self, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        """Record a number of done parts.

        Args:
            done: None for one more than before.
            total: None if it has not changed.
            detail: further text, such as the time that is left.
        """
        self.done = self.done + 1 if done is None else done
        self.total = self.total if total is None else total
        rest = f", {detail}" if detail else ""
        self.bars.update(self.bar, completed=self.done, total=self.total, description=self.task + rest)
        now = time.monotonic()
        if not (self.hidden or self.console.is_terminal) and now - self.printed >= INTERVAL:
            self.printed = now
            known = "" if self.total is None else f" of {self.total}"
            self.console.print(f"{self.task}: {self.done}{known}{rest}", markup=False, highlight=False, soft_wrap=True)

    def show(self, status: Status) -> None:
        """Show the status of a pool of workers."""
        self.update(status.done, status.total, status.details())
