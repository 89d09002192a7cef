"""Where a sweep writes its clips: a folder, or a URL of an object store that fsspec opens (s3://, gs://, memory://).

In a folder each file is renamed when it is complete. An object store has no rename, and no partly written objects: each
file is uploaded as a whole under its final name, the JSON last, and an earlier JSON is removed before.
"""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from vidguide.clip import Clip


@dataclass(frozen=True)
class ObjectPath:
    """Path of an object in an object store, with the part of the interface of :class:`pathlib.Path` that sweeps need.

    Attributes:
        url: with the protocol.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    def __truediv__(self, name: str | Path) -> "ObjectPath":
        return ObjectPath(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self.url)

    @property
    def parent(self) -> "ObjectPath":
        """Path without its last part."""
        return ObjectPath(posixpath.dirname(self.url))

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """Return the path with another suffix."""
        return ObjectPath(posixpath.splitext(self.url)[0] + suffix)

    def absolute(self) -> "ObjectPath":
        """Return the path itself."""
        return self

    def is_file(self) -> bool:
        """Return whether the object exists."""
        file_system, name = self._open_store()
        return bool(file_system.isfile(name))

    def stat(self) -> SimpleNamespace:
        """Return the size of the object, as `st_size`."""
        file_system, name = self._open_store()
        return SimpleNamespace(st_size=file_system.size(name))

    def open(self, mode: str = "rb") -> Any:
        """Open the object to read it."""
        file_system, name = self._open_store()
        return file_system.open(name, mode)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content as text."""
        file_system, name = self._open_store()
        content: bytes = file_system.cat_file(name)
        return content.decode(encoding)

    def create(self, text: str) -> None:
        """Create the object; raises FileExistsError if it exists. Atomic only where the store's file system is."""
        file_system, name = self._open_store()
        file_system.makedirs(posixpath.dirname(name), exist_ok=True)  # of stores that have folders
        file_system.pipe_file(name, text.encode(), mode="create")

    def upload(self, file: Path) -> None:
        """Write the content of a file as a whole object."""
        file_system, name = self._open_store()
        file_system.makedirs(posixpath.dirname(name), exist_ok=True)
        file_system.put_file(str(file), name)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        file_system, name = self._open_store()
        try:
            file_system.rm_file(name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _open_store(self) -> tuple[Any, str]:
        """Return the file system, which fsspec opens once for a process, and the path in it."""
        from fsspec.core import url_to_fs

        file_system, name = url_to_fs(self.url)
        return file_system, str(name)


AnyPath = Any  # Path or ObjectPath; callers that pass a folder get Path


def output_path(output: str | Path | ObjectPath) -> AnyPath:
    """Return a folder, or the path of a URL.

    Raises:
        ValueError: fsspec does not know the protocol. ImportError: it needs a package that is not installed.
    """
    if isinstance(output, Path | ObjectPath) or "://" not in output:
        return output if isinstance(output, ObjectPath) else Path(output)
    path = ObjectPath(output.rstrip("/"))
    try:
        path._open_store()
    except (ValueError, ImportError) as error:
        raise type(error)(f"output={output!r}: {error}") from error
    return path


def save_clip(clip: Clip, path: AnyPath) -> None:
    """Write a clip and its JSON, the JSON last.

    Raises:
        OSError: they cannot be written.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clip.save(path)
        return
    with saved_locally(clip, path.name) as file:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.upload(file)
        path.with_suffix(".json").upload(file.with_suffix(".json"))


@contextmanager
def saved_locally(clip: Clip, name: str) -> Iterator[Path]:
    """Write a clip to a temporary folder that exists in the context; yields the path of its file."""
    with TemporaryDirectory() as folder:
        yield clip.save(Path(folder) / name)
