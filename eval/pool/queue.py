"""Jobs that wait for a worker: all jobs of a group run on workers of one kind."""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Task:
    """A job, the group whose jobs are compared with each other, and the number of workers that died in it."""

    job: Any
    group: Hashable
    deaths: int = 0


class TaskQueue:
    """Queue of tasks, in which each step takes constant time.

    A group gets the kind of the worker that takes its first task. Groups that were begun come first. A task whose
    worker died comes after all others of its kind.
    """

    def __init__(self, tasks: Iterable[Task], kinds: Mapping[Any, str] | None = None) -> None:
        """Create the queue.

        Args:
            tasks: in the order in which they are taken.
            kinds: of groups that were begun in an earlier run.
        """
        self._kinds: dict[Hashable, str] = dict(kinds or {})
        self._open: dict[Hashable, deque[Task]] = {}  # of groups without a kind
        self._begun: dict[str, deque[Task]] = defaultdict(deque)  # by kind
        self._retried: dict[str, deque[Task]] = defaultdict(deque)
        self._length = 0
        for task in tasks:
            self._length += 1
            if task.group in self._kinds:
                self._begun[self._kinds[task.group]].append(task)
            else:
                self._open.setdefault(task.group, deque()).append(task)

    def __len__(self) -> int:
        return self._length

    def take(self, kind: str) -> Task | None:
        """Remove and return the next task for a worker of a kind; None if there is none."""
        if not self._begun[kind] and self._open:
            group = next(iter(self._open))
            self._kinds[group] = kind
            self._begun[kind] = self._open.pop(group)
        waiting = self._begun[kind] or self._retried[kind]
        if not waiting:
            return None
        self._length -= 1
        return waiting.popleft()

    def retry(self, task: Task) -> None:
        """Return a task whose worker died."""
        self._length += 1
        self._retried[self._kinds[task.group]].append(task)

    def remove_all(self) -> list[tuple[Task, str | None]]:
        """Remove and return all tasks, each with the kind of its group."""
        queues = [*self._begun.values(), *self._retried.values(), *self._open.values()]
        tasks = [(task, self._kinds.get(task.group)) for queue in queues for task in queue]
        self._begun, self._retried, self._open, self._length = defaultdict(deque), defaultdict(deque), {}, 0
        return tasks
