"""Score clips: each clip is read once, every metric is computed on it, every outcome becomes a row."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vidguide.clip import Clip
from vidguide.eval.clips.entries import Entry, as_row
from vidguide.eval.clips.errors import ReadError
from vidguide.eval.clips.manifest import stated_hash
from vidguide.eval.clips.pyav import LOSSLESS
from vidguide.eval.clips.read import MAX_BYTES, check_arguments, file_hash, read
from vidguide.eval.encoders.transformers import Encoder
from vidguide.eval.metrics.base import Metric, Value
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import SCHEMA, Row, fingerprint

LIBRARIES = ("vidguide", "numpy", "scipy", "av", "imageio", "pillow", "transformers", "torch")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How clips are read: see :func:`vidguide.eval.clips.read.read`; wrong ones raise ValueError."""

    fps: float | None = None
    reader: str = "av"
    partial: bool = False
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        check_arguments(self.fps, self.reader)


def versions() -> dict[str, str]:
    """Versions of what values depend on."""
    import cv2

    found = {"python": platform.python_version(), "opencv": str(cv2.__version__)}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def score(
    entries: Iterable[Entry],
    metrics: Sequence[Metric],
    settings: Settings,
    encoders: Mapping[str, Encoder] | None = None,
    folder: Path | None = None,
    earlier: Sequence[Row] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Rows of all clips; a clip that cannot be read has rows too, with the reason.

    Args:
        entries: clips with their texts.
        metrics: to compute. settings: how to read. encoders: for the metrics that need weights.
        folder: where the rows of each clip are appended as soon as they are there.
        earlier: rows of an earlier run; those of the same clip, text, definition and versions are kept.
        tell: called with each clip's path before it is scored.
    """
    environment = versions()
    kept = {identity(row): row for row in earlier if row["status"] != "failed"}
    every: list[Row] = []
    for entry in entries:
        tell(str(entry.clip))
        blank = blank_rows(entry, metrics, settings, environment, encoders or {})
        known = [kept.get(identity(row)) for row in blank]
        rows = [row for row in known if row]
        if len(rows) < len(blank):
            rows = fill(blank, entry, metrics, settings, encoders or {})
            if folder:
                results.append(folder, rows)
        every += rows
    return every


def identity(row: Row) -> tuple[Any, ...]:
    """What makes two rows the same measurement."""
    names = (
        "clip",
        "file_sha256",
        "arm",
        "prompt_id",
        "seed",
        "eval_prompt",
        "negative_prompt",
        "metric",
        "config_hash",
    )
    return tuple(row.get(name) for name in names)


def blank_rows(
    entry: Entry,
    metrics: Sequence[Metric],
    settings: Settings,
    environment: dict[str, str],
    encoders: Mapping[str, Encoder],
) -> list[Row]:
    """A row per metric with everything but the outcome."""
    try:
        file = file_hash(entry.clip)
    except OSError:
        file = None
    rows = []
    for metric in metrics:
        definition = {"metric": metric.id, "version": metric.version, "weights": metric.weights}
        reading = {name: value for name, value in asdict(settings).items() if name != "max_bytes"}
        place = {"computed_on": computed_on(metric, encoders)}
        config = {**definition, **place, **reading, "versions": environment, "schema": SCHEMA}
        row = {"schema": SCHEMA, **as_row(entry), **definition, **place, "unit": metric.unit, "file_sha256": file}
        rows.append({**row, "config_hash": fingerprint(config), "versions": environment})
    return rows


def computed_on(metric: Metric, encoders: Mapping[str, Encoder]) -> str:
    """Device and dtype of the networks that a metric uses; those without run on the CPU, in the dtype they state."""
    places = [encoders[kind].place for kind in metric.encoders if kind in encoders]
    return ", ".join(dict.fromkeys(places)) or "cpu"


def fill(
    rows: list[Row], entry: Entry, metrics: Sequence[Metric], settings: Settings, encoders: Mapping[str, Encoder]
) -> list[Row]:
    """The rows with their outcomes."""
    try:
        clip = read(entry.clip, **asdict(settings))
    except (ReadError, OSError, ImportError, MemoryError) as error:
        failed = outcome(Value(value=None, reason=f"{type(error).__name__}: {error}"), "failed")
        return [{**row, **failed} for row in rows]
    sample = Sample(clip, entry.eval_prompt, entry.negative_prompt, encoders)
    about = description(clip)
    if clip.provenance["codec"] in LOSSLESS and stated_hash(entry.clip) not in (None, about["clip_sha256"]):
        about["marks"] = [*about["marks"], "the frames are not those that the JSON beside the clip tells of"]
    return [{**row, **about, **measured(metric, sample)} for row, metric in zip(rows, metrics, strict=True)]


def measured(metric: Metric, sample: Sample) -> Row:
    """One metric's outcome; a fault of one metric does not take the others with it."""
    try:
        value = metric(sample)
    except Exception as error:  # whatever a library throws becomes a failed row that names it
        return outcome(Value(value=None, reason=f"{type(error).__name__}: {error}"), "failed")
    return outcome(value, "undefined" if value.value is None else "ok")


def outcome(value: Value, status: str) -> Row:
    """The fields of a row that a metric fills."""
    fields = {"value": value.value, "status": status, "reason": value.reason}
    return {**fields, "per_frame": value.per_frame, "details": value.details}


def description(clip: Clip) -> Row:
    """The fields of a row that reading fills."""
    frames, height, width = clip.frames.shape[:3]
    told = {name: clip.provenance.get(name) for name in ("reader", "codec", "marks")}
    return {"clip_sha256": clip.sha256, "frames": frames, "height": height, "width": width, "fps": clip.fps, **told}


def exit_code(rows: Sequence[Row]) -> int:
    """0: all scored; 2: some clips failed; 3: nothing scored."""
    if not any(row["status"] == "ok" for row in rows):
        return 3
    return 2 if any(row["status"] == "failed" for row in rows) else 0
