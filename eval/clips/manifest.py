"""The files that tell a clip's texts: a manifest of many clips, or the JSON beside one."""

import json
import re
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ManifestError

UNWRITABLE = re.compile("[\x00\ud800-\udfff]")  # no path holds the first, no UTF-8 the others
FIELDS = {
    "clip": str,
    "arm": str,
    "prompt_id": str,
    "seed": int,
    "prompt": str,
    "eval_prompt": str,
    "negative_prompt": str,
}


def beside(clip: Path) -> dict[str, Any]:
    """The texts and the seed in the JSON beside a clip; empty where there is none.

    Raises:
        ManifestError: it is not JSON, or a field is of the wrong kind.
    """
    path = clip.with_suffix(".json")
    if not path.is_file():
        return {}
    content = parse(path, path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: must be an object with prompt, negative_prompt and seed")
    known = {name: value for name, value in content.items() if name in FIELDS and name not in ("clip", "arm")}
    return checked(known, str(path))


def stated_hash(clip: Path) -> str | None:
    """The fingerprint of the frames in the JSON beside a clip, where it has one."""
    path = clip.with_suffix(".json")
    content = parse(path, path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else None
    stated = content.get("sha256") if isinstance(content, dict) else None
    return stated if isinstance(stated, str) else None


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Clip name to its fields, from JSON Lines, a JSON list of objects, or a JSON object of name to prompt or fields.

    Raises:
        ManifestError: naming line and field. FileNotFoundError: it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"prompts={str(path)!r}: there is no such file")
    text = path.read_text(encoding="utf-8", errors="replace")
    items = from_lines(path, text) if path.suffix.lower() == ".jsonl" else from_json(path, text)
    listed: dict[str, dict[str, Any]] = {}
    for where, item in items:
        fields = checked(as_object(item, where), where)
        name = fields.pop("clip", None)
        if not name:
            raise ManifestError(f"{where}: lacks 'clip', the file or folder that it is about")
        if name in listed:
            raise ManifestError(f"{where}: clip {name!r} is there twice")
        listed[name] = fields
    if not listed:
        raise ManifestError(f"{path}: names no clip")
    return listed


def from_lines(path: Path, text: str) -> list[tuple[str, Any]]:
    """(where, value) of each line of JSON Lines."""
    lines = [(f"{path} line {number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [(where, parse(path, line, where)) for where, line in lines]


def from_json(path: Path, text: str) -> list[tuple[str, Any]]:
    """(where, object) of each entry of a JSON list, or of a JSON object of clip to prompt or to fields."""
    whole = parse(path, text, str(path))
    if isinstance(whole, dict):
        texts = {name: {"prompt": value} if isinstance(value, str) else value for name, value in whole.items()}
        whole = [{"clip": name, **as_object(value, f"{path} {name!r}")} for name, value in texts.items()]
    if not isinstance(whole, list):
        raise ManifestError(f"{path}: must be a list of objects, or an object of clip to prompt")
    return [(f"{path} entry {number}", item) for number, item in enumerate(whole, 1)]


def as_object(item: Any, where: str) -> dict[str, Any]:
    """A JSON object, or a refusal."""
    if not isinstance(item, dict):
        raise ManifestError(f"{where}: is {type(item).__name__}; must be an object with 'clip' and its texts")
    return item


def parse(path: Path, text: str, where: str) -> Any:
    """JSON from text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError(f"{where}: is not JSON ({error}); {path.suffix} was expected to hold it") from None


def checked(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields that are set, each of its kind; a misspelt one is refused, not passed over."""
    for name, value in fields.items():
        if name not in FIELDS:
            raise ManifestError(f"{where}: has an unknown field {name!r}; there are {', '.join(FIELDS)}")
        if value is not None and (not isinstance(value, FIELDS[name]) or isinstance(value, bool)):
            raise ManifestError(f"{where}: {name}={value!r} must be {FIELDS[name].__name__}")
        if isinstance(value, str) and UNWRITABLE.search(value):
            raise ManifestError(f"{where}: {name}={value!r} has characters that no file can hold")
    return {name: value for name, value in fields.items() if value not in (None, "")}
