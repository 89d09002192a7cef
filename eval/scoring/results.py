"""Result files: one JSON line per clip and metric, each complete in itself.

A running evaluation appends its rows to `results.part.jsonl`, from which an interrupted run resumes. A finished one
replaces that file atomically by `results.jsonl`.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidguide.clip import replace_whole
from vidguide.eval.clips.errors import ResultsError
from vidguide.eval.files import parse_json, read_text, validate
from vidguide.eval.hashing import short_sha256
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.schemas import ResultRow

SCHEMA = 1
FINAL, PART = "results.jsonl", "results.part.jsonl"
CSV_COLUMNS = (
    *("arm", "clip", "prompt_id", "seed", "metric", "value", "status", "reason", "unit", "version", "file_sha256"),
)
CURE = "give a results.jsonl that vidguide wrote"

Row = dict[str, Any]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return a short hash of everything other than the clip that a value depends on."""
    return short_sha256([json.dumps(settings, sort_keys=True).encode()])


def to_lines(rows: Iterable[Row]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def append(folder: Path, rows: Iterable[Row]) -> None:
    """Append the rows of one clip to the unfinished results."""
    text = to_lines(rows)
    with (folder / PART).open("a", encoding="utf-8") as file:
        file.write(text)


def finish(folder: Path, rows: Sequence[Row]) -> Path:
    """Write all results, remove the unfinished ones, and return the path."""
    text = to_lines(rows)
    target = folder / FINAL
    replace_whole(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    (folder / PART).unlink(missing_ok=True)
    return target


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV, without per-frame values and versions; an undefined value is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text = buffer.getvalue().encode("utf-8", errors="backslashreplace")
    replace_whole(path, lambda temporary: temporary.write_bytes(text))


def load(path: Path) -> list[Row]:
    """Load rows from a results file, or from a folder that contains one.

    Raises:
        ResultsError: vidguide did not write the file, or its schema version differs.
        FileNotFoundError: there is no such file.
    """
    file = path / FINAL if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"results={str(file)!r}: no such file")
    lines = read_lines(file)
    rows = [parse_row(line, f"{file} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    unknown = next((row["metric"] for row in rows if row["metric"] not in METRICS), None)
    if unknown is not None:
        raise ResultsError(f"{file}: metric={unknown!r}: no such metric; score the clips again")
    return rows


def read_lines(file: Path) -> list[str]:
    """Return the lines of a file in UTF-8, each with its line break."""
    return read_text(file, ResultsError, CURE).splitlines(keepends=True)


def load_existing(folder: Path) -> list[Row]:
    """Load the rows of an earlier run, finished or not; a last line that a crash truncated is dropped."""
    rows = load(folder) if (folder / FINAL).is_file() else []
    part = folder / PART
    if part.is_file():
        lines = read_lines(part)
        complete = [line for line in lines if line.endswith("\n")]
        if len(complete) < len(lines):  # otherwise the next row would be appended to the truncated line
            replace_whole(part, lambda temporary: temporary.write_text("".join(complete), encoding="utf-8"))
        rows += [parse_row(line, f"{part} line {number}") for number, line in enumerate(complete, 1)]
    return rows


def parse_row(line: str, where: str) -> Row:
    """Parse one row.

    Raises:
        ResultsError: it is not a row of this schema version.
    """
    row: Any = parse_json(line, where, ResultsError, CURE, finite=True)
    if not isinstance(row, dict):
        raise ResultsError(f"{where}: is {type(row).__name__}, must be an object; {CURE}")
    if "schema" in row and row["schema"] != SCHEMA:
        raise ResultsError(f"{where}: schema={row['schema']!r}: must be {SCHEMA}; score the clips again")
    validate(ResultRow, row, where=where, error=ResultsError, cure=CURE)
    if (row["value"] is not None) != (row["status"] == "ok"):
        raise ResultsError(f"{where}: value={row['value']!r} contradicts status={row['status']!r}; {CURE}")
    return row
