"""Results on disk: one JSON line per clip and metric, complete in itself, and never half-written.

While a run goes on, its lines are appended to `results.part.jsonl`, so that it can be taken up where it stopped; when
it is done `results.jsonl` takes their place at once.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidguide.clip import replace_whole
from vidguide.eval.clips.errors import ResultsError

SCHEMA = 1
FINAL, PART = "results.jsonl", "results.part.jsonl"
NEEDED = {"schema", "clip", "arm", "prompt_id", "seed", "metric", "value", "status", "config_hash", "file_sha256"}
TABLE = ("arm", "clip", "prompt_id", "seed", "metric", "value", "status", "reason", "unit", "version", "file_sha256")

Row = dict[str, Any]


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Short hash of everything that a value depends on besides the clip."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def append(folder: Path, rows: Iterable[Row]) -> None:
    """Add the rows of one clip to the unfinished results."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with (folder / PART).open("a", encoding="utf-8") as file:
        file.write(text)


def finish(folder: Path, rows: Sequence[Row]) -> Path:
    """Put the whole results in place, and remove the unfinished ones."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    target = folder / FINAL
    replace_whole(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    (folder / PART).unlink(missing_ok=True)
    return target


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """The same rows as a table, without curves and versions; an undefined value is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, TABLE, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text = buffer.getvalue().encode("utf-8", errors="backslashreplace")
    replace_whole(path, lambda temporary: temporary.write_bytes(text))


def load(path: Path) -> list[Row]:
    """Rows from a results file or from a folder that holds one.

    Raises:
        ResultsError: it is none of ours or of another schema. FileNotFoundError: it is not there.
    """
    file = path / FINAL if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"results={str(file)!r}: there is no such file")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [parse(line, f"{file} line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def load_earlier(folder: Path) -> list[Row]:
    """Rows of an earlier run into this folder, finished or not; a last line cut off by a crash is left out."""
    rows = load(folder) if (folder / FINAL).is_file() else []
    part = folder / PART
    if part.is_file():
        lines = part.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # or the next line would be joined to it
            replace_whole(part, lambda temporary: temporary.write_text("".join(whole), encoding="utf-8"))
        rows += [parse(line, f"{part} line {number}") for number, line in enumerate(whole, 1)]
    return rows


def parse(line: str, where: str) -> Row:
    """One row.

    Raises:
        ResultsError: it is not one, or of another schema.
    """
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise ResultsError(f"{where}: is not JSON; give a results.jsonl that vidguide wrote") from None
    missing = NEEDED - set(row) if isinstance(row, dict) else NEEDED
    if missing:
        raise ResultsError(f"{where}: lacks {', '.join(sorted(missing))}; give a results.jsonl that vidguide wrote")
    if row["schema"] != SCHEMA:
        raise ResultsError(f"{where}: has schema {row['schema']!r}, this version reads {SCHEMA}; score the clips again")
    if (row["value"] is not None) != (row["status"] == "ok"):
        raise ResultsError(f"{where}: value {row['value']!r} with status {row['status']!r}")
    return dict(row)
