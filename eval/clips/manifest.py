"""Texts, seed and arm of clips: from a manifest of many clips, or from the JSON file next to one clip."""

import csv
import io
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ManifestError
from vidguide.eval.files import read_json, read_json_lines, read_object, read_text, validate
from vidguide.eval.schemas import ManifestEntry


def read_sidecar(clip: Path) -> dict[str, Any]:
    """Return the texts and the seed in the JSON file next to a clip; empty where there is none.

    Raises:
        ManifestError: the file is not JSON, or a field has the wrong type.
    """
    path = clip.with_suffix(".json")
    if not path.is_file():
        return {}
    content = read_object(path, ManifestError, "it must have prompt, negative_prompt and seed, or be moved")
    names = set(ManifestEntry.model_fields) - {"clip", "arm"}
    return check_fields({name: value for name, value in content.items() if name in names}, str(path))


def stated_hash(clip: Path) -> str | None:
    """Return the SHA-256 of the frames that the JSON file next to a clip states; None where it states none."""
    path = clip.with_suffix(".json")
    content = read_json(path, ManifestError) if path.is_file() else None
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
    read = {".jsonl": read_lines, ".csv": read_csv}.get(path.suffix.lower(), read_list)
    manifest: dict[str, dict[str, Any]] = {}
    for where, item in read(path):
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


def read_csv(path: Path) -> list[tuple[str, Any]]:
    """Return (location, fields) of each row of a CSV table; a seed becomes a number."""
    reader = csv.DictReader(io.StringIO(read_text(path, ManifestError)), strict=True)
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


def read_lines(path: Path) -> list[tuple[str, Any]]:
    """Return (location, value) of each line of JSON Lines."""
    return read_json_lines(path, ManifestError)


def read_list(path: Path) -> list[tuple[str, Any]]:
    """Return (location, object) of each entry of a JSON list, or of a JSON object of clip to prompt or to fields."""
    content = read_json(path, ManifestError)
    if isinstance(content, dict):
        fields = {name: {"prompt": value} if isinstance(value, str) else value for name, value in content.items()}
        content = [{"clip": name, **check_object(value, f"{path} {name!r}")} for name, value in fields.items()]
    if not isinstance(content, list):
        raise ManifestError(f"{path}: must be a list of objects, or an object of clip to prompt")
    return [(f"{path} entry {number}", item) for number, item in enumerate(content, 1)]


def check_object(item: Any, where: str) -> dict[str, Any]:
    """Return a JSON object; refuse anything else."""
    if not isinstance(item, dict):
        raise ManifestError(f"{where}: is {type(item).__name__}; must be an object with 'clip' and its texts")
    return item


def check_fields(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Validate the fields of a clip, and return those that are set; an unknown field is refused."""
    entry = validate(ManifestEntry, fields, where=where, error=ManifestError)
    return {name: value for name, value in entry.model_dump().items() if value not in (None, "")}
