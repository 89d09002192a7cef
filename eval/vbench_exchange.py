"""Clips to VBench and its scores back, for the dimensions that only VBench itself computes.

VBench runs in an environment of its own (it pins old versions of much) in its `custom_input` mode, on lossy .mp4 files
named by prompt. What comes back is kept apart: each score is a row of the namespace `external` and names its file.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidguide.clip import Clip, replace_whole
from vidguide.eval.clips.entries import Entry, as_row, entries
from vidguide.eval.clips.errors import ResultsError
from vidguide.eval.clips.read import file_hash, read
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import SCHEMA, Row, fingerprint

INDEX, PROMPTS = "exported.json", "prompts.json"
LONGEST = 120  # letters of a prompt in a file name
IN_HUNDREDTHS = {"imaging_quality"}  # VBench gives 0..100 per clip and 0..1 for the whole


def export(clips: Sequence[Path], manifest: Path | None, output: Path) -> dict[Path, int]:
    """Write the clips of each arm into a folder of its own, with prompts.json for VBench's --prompt_file.

    Args:
        clips, manifest: as for :func:`vidguide.eval.evaluate.evaluate`.
        output: folder; what lies in it from an earlier export is replaced.

    Returns:
        folders and how many clips each holds.

    Raises:
        ValueError: there is no clip, or one without a prompt, which VBench cannot name. ReadError: one is damaged.
    """
    found = entries(clips, manifest)
    if not found:
        raise ValueError("clips: there is no clip in what was given; give videos, frame folders or folders of them")
    nameless = [str(entry.clip) for entry in found if not entry.eval_prompt]
    if nameless:
        raise ValueError(f"clip={nameless[0]!r}: has no prompt; VBench names clips by it: give --prompts")
    written: dict[Path, int] = {}
    index: dict[str, dict[str, Any]] = {}
    for arm, mine in by_arm(found).items():
        folder = output / arm.replace("/", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names = [named(entry, mine[:number]) for number, entry in enumerate(mine)]
        for name, entry in zip(names, mine, strict=True):
            put_clip(read(entry.clip), folder / name)
            index[f"{folder.name}/{name}"] = {**as_row(entry), "file_sha256": file_hash(entry.clip)}
        put_json(folder / PROMPTS, {name: entry.eval_prompt for name, entry in zip(names, mine, strict=True)})
        written[folder] = len(mine)
    put_json(output / INDEX, index)
    return written


def by_arm(found: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Clips of each arm, in order."""
    arms: dict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        arms[entry.arm].append(entry)
    return arms


def named(entry: Entry, before: Sequence[Entry]) -> str:
    """VBench's name of a clip: `prompt-number.mp4`, numbers counted for each prompt."""
    number = sum(other.eval_prompt == entry.eval_prompt for other in before)
    return f"{str(entry.eval_prompt).replace('/', ' ')[:LONGEST]}-{number}.mp4"


def put_clip(clip: Clip, path: Path) -> None:
    """The clip as .mp4, without the JSON beside it, at its own size."""
    clip.save(path)
    path.with_suffix(".json").unlink()


def put_json(path: Path, content: Any) -> None:
    """A JSON file, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def bring(files: Sequence[Path], exported: Path, output: Path) -> list[Row]:
    """VBench's per-clip results as rows, appended to what the folder has; those of the same clip and name are replaced.

    Args:
        files: `*_eval_results.json`, as VBench writes them.
        exported: the folder that :func:`export` wrote.
        output: folder for results.jsonl and results.csv.

    Raises:
        ResultsError: a file is not VBench's, or tells of a clip that was not exported.
        FileNotFoundError: a file is not there.
    """
    index = load_json(exported / INDEX)
    rows = [row for file in files for row in rows_of(file, index)]
    if not rows:
        raise ResultsError(f"results={', '.join(map(str, files))!r}: hold no score of any clip")
    output.mkdir(parents=True, exist_ok=True)
    fresh = {(row["clip"], row["metric"]) for row in rows}
    earlier = [row for row in results.load_earlier(output) if (row["clip"], row["metric"]) not in fresh]
    results.finish(output, [*earlier, *rows])
    results.write_csv(output / "results.csv", [*earlier, *rows])
    return rows


def rows_of(file: Path, index: dict[str, Any]) -> list[Row]:
    """A row for each clip and dimension of one file."""
    content = load_json(file)
    rows = []
    for dimension, told in content.items():
        if not (isinstance(told, list) and len(told) == 2 and isinstance(told[1], list)):
            raise ResultsError(f"{file}: {dimension!r} is not a pair of a score and a list of clips, as VBench writes")
        for one in told[1]:
            rows.append(row_of(file, dimension, one, index))
    return rows


def row_of(file: Path, dimension: str, told: Any, index: dict[str, Any]) -> Row:
    """The row of one clip."""
    if not isinstance(told, dict) or not {"video_path", "video_results"} <= set(told):
        raise ResultsError(f"{file}: {dimension!r} has an entry without video_path and video_results")
    path = Path(told["video_path"])
    known = index.get(f"{path.parent.name}/{path.name}")
    if known is None:
        raise ResultsError(f"{file}: {told['video_path']!r} is not among the exported clips; export them again")
    value = told["video_results"]
    if not isinstance(value, int | float) or value != value:
        raise ResultsError(f"{file}: {dimension!r} of {path.name!r} is {value!r}, no number")
    name = f"external.{dimension}"
    if name not in METRICS:
        raise ResultsError(f"{file}: {dimension!r} is no dimension of VBench")
    row = {"schema": SCHEMA, **known, "metric": name, "version": "VBench, as installed there"}
    row |= {"value": float(value) / (100 if dimension in IN_HUNDREDTHS else 1), "status": "ok", "reason": None}
    row |= {
        "unit": "as VBench defines it",
        "weights": "VBench's own",
        "computed_on": "unknown",
        "per_frame": [],
        "versions": {},
    }
    row |= {"marks": ["scored by VBench from lossy .mp4"], "details": {"file": str(file)}}
    return {**row, "config_hash": fingerprint({"metric": row["metric"], "source": "external"})}


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r}: there is no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ResultsError(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ResultsError(f"{path}: must be a JSON object")
    return content
