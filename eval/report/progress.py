"""Progress of a run: a bar in a terminal, and a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn

from vidguide.eval.pool.status import Status
from vidguide.eval.report.console import errors

INTERVAL = 60.0  # seconds between two lines


@contextmanager
def status_bar(name: str, hidden: bool = False) -> Iterator[Callable[[Status], None]]:
    """Show the status of a run in the context; yields the function to call with it.

    Args:
        name: what the jobs are, such as "clips".
        hidden: whether to show nothing.
    """
    if hidden:
        yield lambda status: None
    elif not errors.is_terminal:
        yield Lines(name)
    else:
        with Progress(TextColumn("{task.description}"), BarColumn(), console=errors, transient=True) as bar:
            task = bar.add_task(name, total=None)
            yield lambda status: bar.update(
                task, total=status.total, completed=status.done + status.failed, description=f"{name}: {status.line()}"
            )


class Lines:
    """Print the status as a line, at intervals."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._printed = time.monotonic()

    def __call__(self, status: Status) -> None:
        """Print a line, if the last one was long ago."""
        if time.monotonic() - self._printed >= INTERVAL:
            self._printed = time.monotonic()
            errors.print(f"{self.name}: {status.line()}", markup=False, highlight=False, soft_wrap=True)
