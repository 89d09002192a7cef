"""Texts, seed and arm of clips: from a manifest of many clips, or from the JSON file next to one clip."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ManifestError
from vidguide.eval.schemas import ManifestEntry, validate


def read_sidecar(clip: Path) -> dict[str, Any]:
    """Return the texts and the seed in the JSON file next to a clip; empty where there is none.

    Raises:
        ManifestError: the file is not JSON, or a field has the wrong type.
    """
    path = clip.with_suffix(".json")
    if not path.is_file():
        return {}
    content = parse_json(path, read_text(path), str(path))
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: must be an object with prompt, negative_prompt and seed")
    names = set(ManifestEntry.model_fields) - {"clip", "arm"}
    return check_fields({name: value for name, value in content.items() if name in names}, str(path))


def stated_hash(clip: Path) -> str | None:
    """Return the SHA-256 of the frames that the JSON file next to a clip states; None where it states none."""
    path = clip.with_suffix(".json")
    content = parse_json(path, read_text(path), str(path)) if path.is_file() else None
    stated = content.get("sha256") if isinstance(content, dict) else None
    return stated if isinstance(stated, str) else None


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Read JSON Lines, CSV, a JSON list of objects, or a JSON object of clip name to prompt or to fields.

    Args:
        path: of a file with suffix .jsonl, .csv (columns: the fields; an empty cell is unset) or .json.

    Returns:
        clip name to its fields.

    Raises:
        ManifestError: naming line and field. FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"prompts={str(path)!r}: no such file")
    parse = {".jsonl": parse_lines, ".csv": parse_csv}.get(path.suffix.lower(), parse_list)
    manifest: dict[str, dict[str, Any]] = {}
    for where, item in parse(path, read_text(path)):
        fields = check_fields(check_object(item, where), where)
        name = fields.pop("clip", None)
        if not name:
            raise ManifestError(f"{where}: lacks 'clip', the file or folder of the clip")
        if name in manifest:
            raise ManifestError(f"{where}: duplicate clip {name!r}")
        manifest[name] = fields
    if not manifest:
        raise ManifestError(f"{path}: lists no clip")
    return manifest


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ManifestError: the file has another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise ManifestError(f"{path}: not UTF-8 ({problem}); save it in UTF-8") from None


def parse_csv(path: Path, text: str) -> list[tuple[str, Any]]:
    """Return (location, fields) of each row of a CSV table; a seed becomes a number."""
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        rows = [(f"{path} line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ManifestError(f"{path} line {reader.line_num}: not CSV ({error})") from None
    for where, row in rows:
        if None in row or None in row.values():
            raise ManifestError(f"{where}: must have {len(reader.fieldnames or ())} cells, as many as the header")
    return [(where, {name: to_cell(name, value) for name, value in row.items() if value}) for where, row in rows]


def to_cell(name: str, value: str) -> str | int:
    """Return the value of a CSV cell: an integer for a seed that is one, else the text."""
    return int(value) if name == "seed" and value.removeprefix("-").isdecimal() else value


def parse_lines(path: Path, text: str) -> list[tuple[str, Any]]:
    """Return (location, value) of each line of JSON Lines."""
    lines = [(f"{path} line {number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [(where, parse_json(path, line, where)) for where, line in lines]


def parse_list(path: Path, text: str) -> list[tuple[str, Any]]:
    """Return (location, object) of each entry of a JSON list, or of a JSON object of clip to prompt or to fields."""
    content = parse_json(path, text, str(path))
    if isinstance(content, dict):
        fields = {name: {"prompt": value} if isinstance(value, str) else value for name, value in content.items()}
        content = [{"clip": name, **check_object(value, f"{path} {name!r}")} for name, value in fields.items()]
    if not isinstance(content, list):
        raise ManifestError(f"{path}: must be a list of objects, or an object of clip to prompt")
    return [(f"{path} entry {number}", item) for number, item in enumerate(content, 1)]


def parse_json(path: Path, text: str, where: str) -> Any:
    """Parse JSON.

    Raises:
        ManifestError: the text is not JSON, or an object has the same key twice.
    """

    def to_object(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for name, value in items:
            if name in content:
                raise ManifestError(f"{where}: duplicate key {name!r}; remove all but one")
            content[name] = value
        return content

    try:
        return json.loads(text, object_pairs_hook=to_object)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError(f"{where}: not JSON ({error}); a {path.suffix} file must contain JSON") from None


def check_object(item: Any, where: str) -> dict[str, Any]:
    """Return a JSON object; refuse anything else."""
    if not isinstance(item, dict):
        raise ManifestError(f"{where}: is {type(item).__name__}; must be an object with 'clip' and its texts")
    return item


def check_fields(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Validate the fields of a clip, and return those that are set; an unknown field is refused."""
    entry = validate(ManifestEntry, fields, where, ManifestError)
    return {name: value for name, value in entry.model_dump().items() if value not in (None, "")}
