"""The files that the page may fetch: copies in one temporary folder, under random names, the oldest removed."""

import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

MAX_FILES = 1000


class PublicFiles:
    """A temporary folder of files that visitors may fetch; nothing else is served.

    Attributes:
        folder: the folder.
        limit: number of files; the files that were used least recently are removed.
    """

    def __init__(self, limit: int = MAX_FILES) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vidguide-"))
        self.limit = limit
        self._paths: OrderedDict[Hashable, Path] = OrderedDict()
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
        write(path)
        with self._lock:
            self._paths[key] = path
            while len(self._paths) > self.limit:
                shutil.rmtree(self._paths.popitem(last=False)[1].parent, ignore_errors=True)
        return path

    def url(self, path: Path) -> str:
        """Return the address of a file of this folder, relative to the page."""
        return f"gradio_api/file={path.as_posix()}"

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
