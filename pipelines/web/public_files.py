"""The files that the page may fetch: copies in one temporary folder, under random names, the oldest removed."""

import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

MAX_FILES = 1000
MAX_BYTES = 4 << 30


class PublicFiles:
    """A temporary folder of files that visitors may fetch; nothing else is served.

    Attributes:
        folder: the folder.
        limit, max_bytes: number of files, and size of all; the files that were used least recently are removed, but
            not the newest one.
    """

    def __init__(self, limit: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vidguide-"))
        self.limit, self.max_bytes = limit, max_bytes
        self._paths: OrderedDict[Hashable, Path] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, write: Callable[[Path], object], key: Hashable | None = None) -> Path:
        """Return the path of a file, which is written unless there is one of this key.

        Args:
            name: of the file, as a browser saves it, such as "clip.mp4"; the folder that it is in has a random name.
            write: writes it to a path.
            key: of the content; None for a new file.
        """
        key = secrets.token_hex(8) if key is None else key
        with self._lock:
            if key in self._paths:
                self._paths.move_to_end(key)
                return self._paths[key]
        path = self.folder / secrets.token_hex(16) / name
        path.parent.mkdir()
        try:
            write(path)
            return self._keep(key, path)
        finally:
            if self._paths.get(key) != path:  # it failed, or another thread was first
                shutil.rmtree(path.parent, ignore_errors=True)

    def _keep(self, key: Hashable, path: Path) -> Path:
        """Return the path of the file of a key, the given one unless there is one, and remove files over the limits."""
        with self._lock:
            if key in self._paths:
                return self._paths[key]
            self._paths[key] = path
            self._sizes[key] = sum(file.stat().st_size for file in path.parent.iterdir())
            while len(self._paths) > max(self.limit, 1) or (self._is_full() and len(self._paths) > 1):
                oldest, removed = self._paths.popitem(last=False)
                del self._sizes[oldest]
                shutil.rmtree(removed.parent, ignore_errors=True)
            return path

    def _is_full(self) -> bool:
        return sum(self._sizes.values()) > self.max_bytes

    def url(self, path: Path) -> str:
        """Return the address of a file of this folder, relative to the page."""
        return f"gradio_api/file={path.as_posix()}"

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
