"""Export clips to VBench and VBench-2.0 and import their scores, for the dimensions that only they compute.

Both need their own environments, as they pin old versions of their dependencies. They score lossy .mp4 files named by
prompt, in their `custom_input` mode. Each imported score is a row of a metric named `external.`, and names its file.
"""

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidguide.clip import Clip, replace_whole
from vidguide.eval.clips.entries import Entry, entries, to_row
from vidguide.eval.clips.errors import ResultsError
from vidguide.eval.clips.read import file_hash, read
from vidguide.eval.files import read_object, validate
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.vbench_external import DIMENSIONS_2, OF_A_PROMPT
from vidguide.eval.schemas import VBenchScore
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import SCHEMA, Row, settings_hash

INDEX, PROMPTS = "exported.json", "prompts.json"
MAX_PROMPT = 120  # characters of a prompt in a file name
PERCENT = {"imaging_quality"}  # VBench writes 0..100 per clip, but 0..1 for the mean
INVALID = -1  # of VBench-2.0: it could not judge the clip


def export_clips(clips: Sequence[Path], manifest: Path | None, output: Path) -> dict[Path, int]:
    """Write the clips of each arm into a folder, with prompts.json for VBench's --prompt_file.

    Args:
        clips, manifest: see :func:`vidguide.eval.evaluate.evaluate`.
        output: folder; an earlier export in it is replaced.

    Returns:
        folder of each arm to its number of clips.

    Raises:
        ValueError: there is no clip, or a clip has no prompt, by which VBench names files.
        ReadError: a clip is damaged.
    """
    exported = entries(clips, manifest)
    if not exported:
        raise ValueError("clips: no clip in the given paths; give videos, frame folders or folders of them")
    without_prompt = [str(entry.clip) for entry in exported if not entry.eval_prompt]
    if without_prompt:
        raise ValueError(f"clip={without_prompt[0]!r}: has no prompt, by which VBench names clips; give --prompts")
    counts: dict[Path, int] = {}
    index: dict[str, dict[str, Any]] = {}
    for arm, arm_entries in group_by_arm(exported).items():
        folder = output / arm.replace("/", "_")
        index |= export_arm(arm_entries, folder)
        counts[folder] = len(arm_entries)
    write_json(output / INDEX, index)
    return counts


def group_by_arm(clips: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the clips of each arm, in order."""
    arms: dict[str, list[Entry]] = defaultdict(list)
    for entry in clips:
        arms[entry.arm].append(entry)
    return arms


def export_arm(clips: Sequence[Entry], folder: Path) -> dict[str, dict[str, Any]]:
    """Write the clips of one arm and their prompts, and return `folder/file` to the entry of each clip."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [vbench_name(entry, clips[:number]) for number, entry in enumerate(clips)]
    index = {}
    for name, entry in zip(names, clips, strict=True):
        write_clip(read(entry.clip), folder / name)
        index[f"{folder.name}/{name}"] = {**to_row(entry), "file_sha256": file_hash(entry.clip)}
    write_json(folder / PROMPTS, {name: entry.eval_prompt for name, entry in zip(names, clips, strict=True)})
    return index


def vbench_name(entry: Entry, previous: Sequence[Entry]) -> str:
    """Return VBench's name of a clip: `prompt-number.mp4`, numbered within each prompt."""
    number = sum(other.eval_prompt == entry.eval_prompt for other in previous)
    return f"{str(entry.eval_prompt).replace('/', ' ')[:MAX_PROMPT]}-{number}.mp4"


def write_clip(clip: Clip, path: Path) -> None:
    """Write a clip as .mp4 at its original size, without a JSON file."""
    clip.save(path)
    path.with_suffix(".json").unlink()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def import_scores(files: Sequence[Path], exported: Path, output: Path) -> list[Row]:
    """Import scores of VBench or VBench-2.0 per clip, and append them to the results in a folder.

    Rows of the same clip and metric are replaced.

    Args:
        files: `*_eval_results.json`, written by VBench or VBench-2.0.
        exported: the folder that :func:`export_clips` wrote.
        output: folder for results.jsonl and results.csv.

    Returns:
        the imported rows.

    Raises:
        ResultsError: VBench did not write a file, or it scores a clip that was not exported, or one twice.
        FileNotFoundError: a file does not exist.
    """
    index = read_object(exported / INDEX, ResultsError, "export the clips again")
    rows = [row for file in files for row in file_rows(file, index)]
    if not rows:
        raise ResultsError(f"results={', '.join(map(str, files))!r}: no score of any clip")
    check_unique(rows)
    output.mkdir(parents=True, exist_ok=True)
    imported = {(row["clip"], row["metric"]) for row in rows}
    others = [row for row in results.load_existing(output) if (row["clip"], row["metric"]) not in imported]
    results.finish(output, [*others, *rows])
    results.write_csv(output / "results.csv", [*others, *rows])
    return rows


def check_unique(rows: Sequence[Row]) -> None:
    """Refuse a clip that is scored twice.

    Raises:
        ResultsError: naming the files.
    """
    files: dict[tuple[str, str], str] = {}
    for row in rows:
        key, file = (row["clip"], row["metric"]), row["details"]["file"]
        if key in files:
            where = " and ".join(dict.fromkeys((files[key], file)))
            raise ResultsError(f"{where}: {row['metric']} of {row['clip']} twice; give each score once")
        files[key] = file


def file_rows(file: Path, index: dict[str, Any]) -> list[Row]:
    """Return a row for each clip and dimension of a file, which maps dimensions to [mean, [score of a clip, ...]]."""
    rows = []
    for dimension, pair in read_object(file, ResultsError, "give an *_eval_results.json of VBench").items():
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], list)):
            raise ResultsError(
                f"{file}: {dimension!r} must be a pair of a score and a list of clips, as VBench writes it"
            )
        if isinstance(pair[0], bool) or not isinstance(pair[0], int | float) or not math.isfinite(pair[0]):
            raise ResultsError(f"{file} {dimension!r}: mean={pair[0]!r}: must be a finite number")
        rows += [clip_row(file, dimension, score, index) for score in pair[1]]
    return rows


def clip_row(file: Path, dimension: str, score: Any, index: dict[str, Any]) -> Row:
    """Return the row of one clip and dimension."""
    where = f"{file} {dimension!r}"
    if f"external.{dimension}" not in METRICS:
        raise ResultsError(f"{where}: not a dimension of VBench or VBench-2.0")
    if not isinstance(score, dict):
        raise ResultsError(f"{where}: an entry is {type(score).__name__}; must be an object")
    checked = validate(VBenchScore, score, where=where, error=ResultsError)
    path = Path(checked.video_path)
    entry = index.get(f"{path.parent.name}/{path.name}")
    if entry is None:
        raise ResultsError(
            f"{where}: video_path={checked.video_path!r} is not an exported clip; export the clips again"
        )
    row = external_row(entry, dimension, file)
    return {**row, **outcome(dimension, float(checked.video_results), where)}


def outcome(dimension: str, score: float, where: str) -> Row:
    """Return value, status and reason of a score.

    Raises:
        ResultsError: the score is outside the range of the dimension.
    """
    if score == INVALID and dimension in DIMENSIONS_2:
        return {"value": None, "status": "undefined", "reason": "VBench-2.0 could not judge the clip (-1)"}
    scale, metric = 100 if dimension in PERCENT else 1, METRICS[f"external.{dimension}"]
    if not metric.low <= score / scale <= metric.high:
        exception = f", or {INVALID} for a clip without a score" if dimension in DIMENSIONS_2 else ""
        limits = f"{scale * metric.low:g}..{scale * metric.high:g}"
        raise ResultsError(f"{where}: video_results={score:g}: must be in {limits}{exception}")
    return {"value": score / scale, "status": "ok", "reason": None}


def external_row(entry: Row, dimension: str, file: Path) -> Row:
    """Return a row of the results without its outcome; one number for all clips of a prompt has no seed."""
    metric = METRICS[f"external.{dimension}"]
    suite = metric.version.partition(",")[0]
    return {
        **{"schema": SCHEMA, **entry, "metric": metric.id, "version": metric.version, "unit": metric.unit},
        **{"weights": f"{suite}'s own", "computed_on": "unknown", "per_frame": [], "versions": {}},
        **{"marks": [f"scored by {suite} from lossy .mp4"], "details": {"file": str(file)}},
        "config_hash": settings_hash({"metric": metric.id, "source": "external"}),
        **({"seed": None} if dimension == OF_A_PROMPT else {}),
    }
