"""Files of a model, found on the hub or in a local folder before anything expensive, and their fingerprints."""

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from vidguide.pipelines.models.spec import Checkpoint, Lora, Model

HUB_ID = r"[\w.-]+/[\w.-]+"
BLOCK = 1 << 20  # bytes that are hashed at a time

# What load() has put into a pipeline beside its own folder: fingerprint by file.
FINGERPRINTS: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def find_file(source: str, file: str, revision: str | None = None) -> Path:
    """A file of a local folder or of a hub id, fetched if need be.

    Raises:
        OSError: there is no such file or hub id, or the hub cannot be reached and the file is not in its cache.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / file).is_file():
            raise OSError(f"{source!r}: has no file {file!r}")
        return folder / file
    if not re.fullmatch(HUB_ID, source):
        raise OSError(f"{source!r}: is no folder here, and no hub id")
    return fetched(source, file, revision)


def fetched(source: str, file: str, revision: str | None) -> Path:
    """A file of a hub id, from the local cache or the hub.

    Raises:
        OSError: saying what is missing, or that the hub is out of reach.
    """
    from huggingface_hub import errors, hf_hub_download

    reasons: dict[type[Exception], str] = {  # the first that fits: some are kinds of others
        errors.GatedRepoError: "access must be asked for on its page, then `hf auth login`",
        errors.RepositoryNotFoundError: "the hub has no such repository, or it is private: `hf auth login`",
        errors.RevisionNotFoundError: "the repository has no such revision",
        errors.LocalEntryNotFoundError: "not in the local cache, and the hub cannot be reached from here",
        errors.EntryNotFoundError: "the repository has no such file",
    }
    try:
        return Path(hf_hub_download(source, file, revision=revision))
    except tuple(reasons) as error:
        reason = next(reason for kind, reason in reasons.items() if isinstance(error, kind))
        at = f" at revision {revision!r}" if revision else ""
        raise OSError(f"{file!r} of hub id {source!r}{at}: {reason}") from error


def read_index(source: str, revision: str | None) -> dict[str, Any]:
    """What a pipeline folder says of itself: class and parts."""
    index: dict[str, Any] = json.loads(find_file(source, "model_index.json", revision).read_text(encoding="utf-8"))
    return index


def weight_files(model: Model) -> dict[str, Path]:
    """The files that a model takes beside its folder, by `source/file`, the single checkpoint first."""
    parts: list[Checkpoint | Lora] = [*([model.checkpoint] if model.checkpoint else []), *model.loras]
    return {f"{part.source}/{part.file}": find_file(part.source, part.file, part.revision) for part in parts}


def fingerprints(files: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of each file."""
    return {name: sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()}


@functools.cache
def sha256(path: Path, size: int, changed: int) -> str:
    """Of a file that has this size and was changed last then."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
