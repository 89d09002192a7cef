"""A lease on the folder of a sweep, so that two runs never generate the same clips at once.

The lease of a run is a file, `sweep.lock`, created atomically (`O_EXCL`), with host, process and time. Its holder
touches it every `BEAT` seconds. It is stale, and is taken over, if its process is no longer alive on this host, or if
it was not touched for `STALE` seconds on another one. The workers of a run check it before they write.

In an object store the lease is an object. Where its file system does not create objects atomically, of two runs that
start at the same moment the one whose lease was overwritten ends before it writes. There is no reliable time, so that
the lease of another host is never taken over: the message says which object to remove.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from typing_extensions import TypedDict

from vidguide.eval.files import read_object, validate
from vidguide.eval.pool.protocol import FatalError
from vidguide.pipelines.sweep.storage import AnyPath, ObjectPath

BEAT, STALE = 20.0, 300.0  # seconds; the clock is that of the file system
NAME = "sweep.lock"
CURE = "wait for it, or choose another folder. If it is no longer running, remove"


class Holder(TypedDict):
    """Content of a lease: host and process of its holder, when that process was created, and when it took the lease."""

    host: str
    pid: int
    created: float
    started: str


class HeldError(FatalError, ValueError):
    """The folder is in use by another run, or the lease was lost to one."""


@dataclass(frozen=True)
class Claim:
    """What a process of a run needs to check its lease, on any host.

    Attributes:
        path: of the lease's file. holder: the run.
    """

    path: AnyPath
    holder: Holder

    def check(self) -> None:
        """Check that no other run took the lease over, which happens if this one was suspended for `STALE` seconds.

        Raises:
            HeldError: it did, or the folder is not visible on this host.
        """
        holder = holder_of(self.path)
        if holder is None:
            raise HeldError(
                f"output: {self.path} is missing on {platform.node()}: all machines of a run must share the folder; "
                "or another run has removed it"
            )
        if holder != self.holder:
            raise HeldError(f"output: {self.path} was taken over by another run while this one was suspended; it ends")


class Lease:
    """A lease on a folder that this process holds.

    Attributes:
        path: of its file. holder: this process.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._touch, daemon=True)
        self._beat.start()

    def claim(self) -> Claim:
        """Return what the run's workers need to check the lease."""
        return Claim(self.path.absolute(), self.holder)

    def release(self) -> None:
        """End the lease, and remove its file if it is still that of this process."""
        self._ended.set()
        self._beat.join()
        if holder_of(self.path) == self.holder:
            self.path.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)


@contextmanager
def lease(folder: AnyPath) -> Iterator[Claim]:
    """Hold a folder, or a URL, for the duration of the context.

    Raises:
        HeldError: another run holds it; names its host, process and file.
        OSError: the folder cannot be made or written.
    """
    if isinstance(folder, ObjectPath):
        with object_lease(folder / NAME) as claim:
            yield claim
        return
    folder.mkdir(parents=True, exist_ok=True)
    held = Lease(folder / NAME, take(folder / NAME))
    try:
        yield held.claim()
    finally:
        held.release()


@contextmanager
def object_lease(path: ObjectPath) -> Iterator[Claim]:
    """Hold a lease in an object store for the duration of the context; raises as :func:`lease`."""
    claim = Claim(path, this_process())
    try:
        path.create(json.dumps(claim.holder))
    except FileExistsError:
        holder = holder_of(path)
        if holder is None or holder["host"] != platform.node() or is_alive(holder):
            raise HeldError(f"output: {path.parent} is in use by {described(holder)}; {CURE} {path}") from None
        path.unlink(missing_ok=True)
        path.create(json.dumps(claim.holder))
    try:
        yield claim
    finally:
        if holder_of(path) == claim.holder:
            path.unlink(missing_ok=True)


def this_process() -> Holder:
    """Return this process as a holder."""
    process = psutil.Process()
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return Holder(host=platform.node(), pid=process.pid, created=process.create_time(), started=now)


def described(holder: Holder | None) -> str:
    """Return a holder for messages."""
    return f"process {holder['pid']} on {holder['host']} since {holder['started']}" if holder else "another run"


def take(path: Path) -> Holder:
    """Create the file of a lease for this process; a stale one is replaced.

    Raises:
        HeldError: another run holds it.
    """
    holder = this_process()
    for _ in range(2):
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(holder, file)
            return holder
        except FileExistsError:
            clear_or_refuse(path)
    raise HeldError(f"output: {path} was taken by another run at this moment; wait for it")


def clear_or_refuse(path: Path) -> None:
    """Remove a stale lease, by its file. One run at a time may do so, which holds a second file meanwhile.

    Raises:
        HeldError: it is not stale; names its holder and the cure. Or another run is removing it.
    """
    refuse_if_held(path)
    takeover = path.with_suffix(".takeover")
    try:
        takeover.touch(exist_ok=False)
    except FileExistsError:
        if age_of(takeover) > STALE:  # of a run that was killed while it held it
            takeover.unlink(missing_ok=True)
        raise HeldError(f"output: {path} is being taken over by another run at this moment; wait for it") from None
    try:
        refuse_if_held(path)  # another run may have replaced it meanwhile
        path.unlink(missing_ok=True)
    finally:
        takeover.unlink(missing_ok=True)


def refuse_if_held(path: Path) -> None:
    """Check that a lease is stale or gone.

    Raises:
        HeldError: it is neither.
    """
    holder, age = holder_of(path), age_of(path)
    if path.exists() and not is_stale(holder, age):
        raise HeldError(f"output: {path.parent} is in use by {described(holder)}, seen {age:.0f} s ago; {CURE} {path}")


def is_stale(holder: Holder | None, age: float) -> bool:
    """Return whether a lease is of a process that is no longer alive on this host, or was not touched for long."""
    if holder is not None and holder["host"] == platform.node():
        return not is_alive(holder)
    return age > STALE


def is_alive(holder: Holder) -> bool:
    """Return whether the process of a holder is running on this host; a later one with its number is not that one."""
    try:
        process = psutil.Process(holder["pid"])
        return abs(process.create_time() - holder["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def holder_of(path: AnyPath) -> Holder | None:
    """Return the holder of a lease; None for a file that is missing, or that is not completely written."""
    try:
        content: Any = validate(Holder, read_object(path))
    except (OSError, ValueError, TypeError):
        return None
    holder: Holder = content
    return holder


def age_of(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of its file system."""
    probe = path.with_suffix(f".clock-{os.getpid()}-{threading.get_ident()}")
    try:
        probe.touch()
        return max(probe.stat().st_mtime - path.stat().st_mtime, 0.0)
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
