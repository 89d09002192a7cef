"""Files of a model, from a local folder or the Hugging Face Hub, and their SHA-256."""

import functools
import hashlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # exported, without `__all__`

from vidguide.eval.files import read_object, read_text, suggestion
from vidguide.eval.hub import is_reachable
from vidguide.pipelines.models.spec import Checkpoint, Lora, Model

BLOCK_BYTES = 1 << 20
INDICES = ("model_index.json", "modular_model_index.json")  # of a pipeline, and of a modular one
CLASS_FIELDS = ("_class_name", "_blocks_class_name")  # of an index, for a pipeline and a modular one
AGAIN = "download the folder again"
CONFIGS = ("config.json", "scheduler_config.json")  # of a module and of a scheduler of diffusers
MAX_JSON = 1 << 20  # bytes of a JSON file that is read only to see whether it is JSON
LIBRARIES = ("diffusers", "transformers")

# SHA-256 of the weight files that load() read besides the pipeline folder, by pipeline and file.
FINGERPRINTS: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def is_repo_id(name: str) -> bool:
    """Return whether a name has the form of a Hugging Face repo id with its owner, `owner/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name  # ids without an owner are valid for some legacy models only


def find_file(source: str, file: str, revision: str | None = None) -> Path:
    """Return the path of a file in a local folder or in a Hugging Face repository, downloaded if necessary.

    Raises:
        OSError: there is no such file or repository, or the Hub cannot be reached and the file is not cached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / file).is_file():
            raise OSError(f"{source!r}: has no file {file!r}")
        return folder / file
    if not is_repo_id(source):
        raise OSError(f"{source!r}: is neither a local folder nor a Hugging Face repo id (owner/name)")
    return download(source, file, revision)


def download(repo_id: str, file: str, revision: str | None) -> Path:
    """Return the path of a file of a Hugging Face repository in the local cache, downloaded if the Hub answers.

    Raises:
        OSError: saying what is missing, or that the Hub cannot be reached.
    """
    from huggingface_hub import errors, hf_hub_download

    reasons: dict[type[Exception], str] = {  # subclasses before their base classes
        errors.GatedRepoError: "access is gated: request it on the repository's page, then run `hf auth login`",
        errors.RepositoryNotFoundError: "there is no such repository, or it is private: run `hf auth login`",
        errors.RevisionNotFoundError: "the repository has no such revision",
        errors.LocalEntryNotFoundError: "the file is not in the local cache, and the Hub cannot be reached",
        errors.EntryNotFoundError: "the repository has no such file",
    }
    try:
        return Path(hf_hub_download(repo_id, file, revision=revision, local_files_only=not is_reachable()))
    except tuple(reasons) as error:
        reason = next(reason for kind, reason in reasons.items() if isinstance(error, kind))
        suffix = f" at revision {revision!r}" if revision else ""
        raise OSError(f"{file!r} of Hugging Face repo id {repo_id!r}{suffix}: {reason}") from error


def read_index(source: str, revision: str | None) -> dict[str, Any]:
    """Return the content of `model_index.json`: the classes of the pipeline and its components.

    A modular pipeline has `modular_model_index.json` in its place.
    """
    try:
        path = find_file(source, INDICES[0], revision)
    except OSError as error:
        try:
            path = find_file(source, INDICES[1], revision)
        except OSError:
            raise error from None
    index = read_object(path, cure=AGAIN)
    check_index(index, path)
    return index


def check_index(index: dict[str, Any], path: Path) -> None:
    """Check that the classes that an index names exist in the installed packages.

    Args:
        index: content of `model_index.json`.
        path: of that file, for messages.

    Raises:
        ValueError: an entry has another form. ImportError: diffusers or transformers lacks a class.
    """
    components = component_names(index)
    for field, entry in index.items():
        if field in CLASS_FIELDS and isinstance(entry, str):
            check_class(f"{path}: {field}={entry!r}", "diffusers", entry)
        elif not field.startswith("_") and (isinstance(entry, list) or field in components):
            if not is_library_and_class(entry):
                raise ValueError(f"{path}: {field}={entry!r}: must be a library and a class; {AGAIN}")
            if entry[0] in LIBRARIES and entry[1] is not None:
                check_class(f"{path}: {field}={entry[:2]}", entry[0], entry[1])
    names = [field for field in CLASS_FIELDS if index.get(field)]
    if not names:
        raise ValueError(f"{path}: lacks '_class_name', the class of the pipeline; give a folder in diffusers' format")


def component_names(index: dict[str, Any]) -> set[str]:
    """Return the components of the pipeline class of an index; empty for a class that is not in diffusers."""
    import diffusers

    pipeline: Any = getattr(diffusers, str(index.get("_class_name")), None)
    if not inspect.isclass(pipeline):
        return set()
    parameters = inspect.signature(pipeline).parameters.values()
    required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    return required | set(getattr(pipeline, "_optional_components", ()))


def is_library_and_class(entry: Any) -> bool:
    """Return whether an entry of an index has the form of a component: library and class, or null, and a third part."""
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        return False
    return all(part is None or isinstance(part, str) for part in entry[:2])


def check_configs(folder: Path, index: dict[str, Any]) -> None:
    """Check the JSON files of the components in a local folder.

    The configuration of a class of diffusers is compared with the defaults of that class.

    Raises:
        ValueError: a file is not JSON, or a configuration has a text in the place of a number.
    """
    import diffusers

    for field, entry in index.items():
        if not is_library_and_class(entry):
            continue
        for path in sorted((folder / field).glob("*.json")):
            if path.name in CONFIGS and entry[0] == "diffusers" and entry[1]:
                check_config(path, getattr(diffusers, entry[1]))
            elif path.stat().st_size <= MAX_JSON:
                check_json(path)


def check_json(path: Path) -> None:
    """Refuse a file of transformers that is not JSON; a repeated key is left to its reader.

    Raises:
        ValueError: naming the file.
    """
    try:
        json.loads(read_text(path, cure=AGAIN))
    except json.JSONDecodeError as failure:
        raise ValueError(f"{path}: not JSON ({failure}); {AGAIN}") from None


def check_config(path: Path, component: Any) -> None:
    """Check the configuration of one component; raises as :func:`check_configs`."""
    config = read_object(path, cure=AGAIN)
    for parameter in inspect.signature(component).parameters.values():
        value, default = config.get(parameter.name), parameter.default
        if isinstance(value, str) and isinstance(default, int | float):
            raise ValueError(f"{path}: {parameter.name}={value!r}: must be a number (default {default}); {AGAIN}")


def check_class(where: str, library: str, name: str) -> None:
    """Refuse a class that a library lacks.

    Raises:
        ImportError: beginning with `where`, with the cure.
    """
    module = importlib.import_module(library)
    if not hasattr(module, name):
        close = suggestion(name, [known for known in dir(module) if known[:1].isupper()])
        raise ImportError(
            f"{where}: {library} {module.__version__} has no {name}{close}; pip install -U {library}, or correct it"
        )


def weight_files(model: Model) -> dict[str, Path]:
    """Return the paths of the single checkpoint and the LoRAs of a model, in this order, by `source/file`."""
    parts: list[Checkpoint | Lora] = [*([model.checkpoint] if model.checkpoint else []), *model.loras]
    return {f"{part.source}/{part.file}": find_file(part.source, part.file, part.revision) for part in parts}


def fingerprints(files: dict[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file."""
    return {name: sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()}


@functools.cache
def sha256(path: Path, size: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file, cached for as long as its size in bytes and modification time are the same."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
