"""Score clips: each clip is read once, all metrics are computed on it, and each outcome becomes a row."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vidguide.clip import Clip
from vidguide.eval.clips.entries import Entry, to_row
from vidguide.eval.clips.errors import ReadError, TooLargeError
from vidguide.eval.clips.manifest import stated_hash
from vidguide.eval.clips.pyav import LOSSLESS
from vidguide.eval.clips.read import MAX_BYTES, check_arguments, file_hash, read
from vidguide.eval.encoders.transformers import Encoder
from vidguide.eval.metrics.base import Metric, Value
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import SCHEMA, Row, settings_hash

LIBRARIES = ("vidguide", "numpy", "scipy", "av", "imageio", "pillow", "transformers", "torch")
WORKING_FRAMES = 56  # bytes of which metrics need in addition to the clip; measured: 51
MEASUREMENT_FIELDS = (  # equal for two rows that are the same measurement
    *("clip", "file_sha256", "arm", "prompt_id", "seed"),
    *("eval_prompt", "negative_prompt", "metric", "config_hash"),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How clips are read, see :func:`vidguide.eval.clips.read.read`; raises ValueError for invalid settings."""

    fps: float | None = None
    reader: str = "av"
    partial: bool = False
    max_bytes: int = MAX_BYTES  # of a clip and of the working memory to score it

    def __post_init__(self) -> None:
        check_arguments(self.fps, self.reader)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries on which values depend."""
    import cv2

    versions = {"python": platform.python_version(), "opencv": str(cv2.__version__)}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def score(
    entries: Iterable[Entry],
    metrics: Sequence[Metric],
    settings: Settings,
    encoders: Mapping[str, Encoder] | None = None,
    folder: Path | None = None,
    earlier: Sequence[Row] = (),
    on_clip: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Return the rows of all clips; a clip that cannot be read has rows with the reason.

    Args:
        entries: clips with their texts.
        metrics: to compute.
        settings: how to read clips.
        encoders: for metrics that need weights.
        folder: to which the rows of each clip are appended as soon as they are computed.
        earlier: rows of an earlier run; those of the same clip, texts, definition and versions are reused.
        on_clip: called with each clip's path before it is scored.
    """
    versions = library_versions()
    reusable = {measurement_key(row): row for row in earlier if row["status"] != "failed"}
    all_rows: list[Row] = []
    for entry in entries:
        on_clip(str(entry.clip))
        pending = pending_rows(entry, metrics, settings, versions, encoders or {})
        rows = [row for row in (reusable.get(measurement_key(row)) for row in pending) if row]
        if len(rows) < len(pending):
            rows = complete_rows(pending, entry, metrics, settings, encoders or {})
            if folder:
                results.append(folder, rows)
        all_rows += rows
    return all_rows


def measurement_key(row: Row) -> tuple[Any, ...]:
    """Return the fields that identify a measurement."""
    return tuple(row.get(name) for name in MEASUREMENT_FIELDS)


def pending_rows(
    entry: Entry,
    metrics: Sequence[Metric],
    settings: Settings,
    versions: dict[str, str],
    encoders: Mapping[str, Encoder],
) -> list[Row]:
    """Return a row per metric with every field but the outcome."""
    try:
        file_sha256 = file_hash(entry.clip)
    except OSError:
        file_sha256 = None
    reading = {name: value for name, value in asdict(settings).items() if name != "max_bytes"}
    rows = []
    for metric in metrics:
        definition = {"metric": metric.id, "version": metric.version, "weights": metric.weights}
        definition["computed_on"] = computed_on(metric, encoders)
        config = {**definition, **reading, "versions": versions, "schema": SCHEMA}
        row = {"schema": SCHEMA, **to_row(entry), **definition, "unit": metric.unit, "file_sha256": file_sha256}
        rows.append({**row, "config_hash": settings_hash(config), "versions": versions})
    return rows


def computed_on(metric: Metric, encoders: Mapping[str, Encoder]) -> str:
    """Return device and dtype of the networks that a metric uses; a metric without networks runs on the CPU."""
    places = [encoders[kind].place for kind in metric.encoders if kind in encoders]
    return ", ".join(dict.fromkeys(places)) or "cpu"


def complete_rows(
    rows: list[Row], entry: Entry, metrics: Sequence[Metric], settings: Settings, encoders: Mapping[str, Encoder]
) -> list[Row]:
    """Read the clip, compute the metrics, and return the rows with their outcomes."""
    try:
        clip = read(entry.clip, **asdict(settings))
        check_memory(clip, entry.clip, settings.max_bytes)
    except (ReadError, OSError, ImportError, MemoryError) as error:
        failed = failed_fields(error)
        return [{**row, **failed} for row in rows]
    sample = Sample(clip, entry.eval_prompt, entry.negative_prompt, encoders)
    fields = clip_fields(clip)
    if clip.provenance["codec"] in LOSSLESS and stated_hash(entry.clip) not in (None, fields["clip_sha256"]):
        fields["marks"] = [*fields["marks"], "the frames differ from those described by the JSON file of the clip"]
    return [{**row, **fields, **measure(metric, sample)} for row, metric in zip(rows, metrics, strict=True)]


def check_memory(clip: Clip, path: Path, max_bytes: int) -> None:
    """Refuse a clip of frames so large that scoring it exceeds the memory limit.

    Raises:
        TooLargeError: naming the size and the limit.
    """
    count, height, width = clip.frames.shape[:3]
    needed = (count + WORKING_FRAMES) * clip.frames[0].nbytes
    if needed > max_bytes:
        problem = f"scoring {count} frames of {width} x {height} pixels needs {needed >> 20} MiB"
        limit = f"the limit is {max_bytes >> 20}; scale it down or raise max_bytes (--memory)"
        raise TooLargeError(path, f"{problem}, {limit}")


def measure(metric: Metric, sample: Sample) -> Row:
    """Return the outcome of one metric; an error in one metric does not affect the others."""
    try:
        value = metric(sample)
    except Exception as error:  # any error of a library becomes a failed row that names it
        return failed_fields(error)
    return outcome_fields(value, "undefined" if value.value is None else "ok")


def failed_fields(error: BaseException) -> Row:
    """Return the outcome fields of a row that failed with an error."""
    return outcome_fields(Value(value=None, reason=f"{type(error).__name__}: {error}"), "failed")


def outcome_fields(value: Value, status: str) -> Row:
    """Return the fields of a row that a metric determines."""
    fields = {"value": value.value, "status": status, "reason": value.reason}
    return {**fields, "per_frame": value.per_frame, "details": value.details}


def clip_fields(clip: Clip) -> Row:
    """Return the fields of a row that reading determines."""
    frames, height, width = clip.frames.shape[:3]
    size = {"frames": frames, "height": height, "width": width, "fps": clip.fps}
    return {
        "clip_sha256": clip.sha256,
        **size,
        **{name: clip.provenance.get(name) for name in ("reader", "codec", "marks")},
    }


def exit_code(rows: Sequence[Row]) -> int:
    """Return 0 if all clips were scored, 2 if some failed, 3 if nothing was scored."""
    if not any(row["status"] == "ok" for row in rows):
        return 3
    return 2 if any(row["status"] == "failed" for row in rows) else 0
