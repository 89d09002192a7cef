"""Score clips: each clip is read once, all metrics are computed on it, and each outcome becomes a row."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from vidguide.eval.metrics.registry import with_weights
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.pool.loop import run_jobs
from vidguide.eval.pool.protocol import Backend, Failure, WorkerError
from vidguide.eval.pool.serial import Serial
from vidguide.eval.pool.status import Status
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


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """A clip to score.

    Attributes:
        number: its place among the clips.
        entry: the clip with its texts.
        earlier: its rows of an earlier run.
    """

    number: int
    entry: Entry
    earlier: tuple[Row, ...]


class ScoreWorker:
    """Scores clips, with networks that are loaded once."""

    def __init__(
        self, metrics: Sequence[Metric], settings: Settings, encoders: Mapping[str, Encoder], folder: str
    ) -> None:
        """Load the networks.

        Args:
            metrics, settings, encoders: as for :func:`score`.
            folder: to which relative paths of clips are relative.
        """
        if folder != str(Path.cwd()):
            os.chdir(folder)
        self.settings = settings
        self.encoders = {kind: encoders[kind] for kind in encoders}
        self.metrics = [with_weights(metric, self.encoders) for metric in metrics]
        self.versions = library_versions()

    def __call__(self, task: ScoreTask) -> tuple[list[Row], bool]:
        """Return the rows of a clip, and whether they are new rather than those of the earlier run."""
        reusable = {measurement_key(row): row for row in task.earlier}
        pending = pending_rows(task.entry, self.metrics, self.settings, self.versions, self.encoders)
        rows = [row for row in (reusable.get(measurement_key(row)) for row in pending) if row]
        if len(rows) == len(pending):
            return rows, False
        return complete_rows(pending, task.entry, self.metrics, self.settings, self.encoders), True


def score(
    entries: Iterable[Entry],
    metrics: Sequence[Metric],
    settings: Settings,
    encoders: Mapping[str, Encoder] | None = None,
    folder: Path | None = None,
    earlier: Sequence[Row] = (),
    backend: Backend | None = None,
    on_status: Callable[[Status], None] = lambda status: None,
) -> list[Row]:
    """Return the rows of all clips; a clip that cannot be read has rows with the reason.

    Args:
        entries: clips with their texts.
        metrics: to compute.
        settings: how to read clips; the memory limit is that of each worker.
        encoders: for metrics that need weights; for workers in other processes a
            :class:`vidguide.eval.encoders.networks.Networks`, which each of them loads.
        folder: to which the rows of each clip are appended as soon as they are computed, by this process only.
        earlier: rows of an earlier run; those of the same clip, texts, definition and versions are reused.
        backend: where clips are scored; None for this process.
        on_status: called with the progress.

    Raises:
        WorkerError: a worker cannot be made, or workers died in clips, which it names.
    """
    tasks = make_tasks(entries, earlier)
    rows_of: dict[int, list[Row]] = {}

    def record(task: ScoreTask, outcome: Any) -> None:
        if isinstance(outcome, Failure):
            return
        rows_of[task.number], fresh = outcome
        if fresh and folder:
            results.append(folder, rows_of[task.number])

    factory = partial(ScoreWorker, tuple(metrics), settings, encoders or {}, str(Path.cwd()))
    jobs = [(task, task.number) for task in tasks]
    failed = run_jobs(backend or Serial(), factory, jobs, on_result=record, on_status=on_status)
    if failed:
        named = "; ".join(f"{task.entry.clip}: {reason}" for task, reason in failed.items())
        raise WorkerError(f"{len(failed)} of {len(tasks)} clips were not scored: {named}; the next run continues")
    return [row for task in tasks for row in rows_of[task.number]]


def make_tasks(entries: Iterable[Entry], earlier: Sequence[Row]) -> list[ScoreTask]:
    """Return a task for each clip, with those of its earlier rows that did not fail."""
    by_clip: dict[Any, list[Row]] = {}
    for row in earlier:
        if row["status"] != "failed":
            by_clip.setdefault(row.get("clip"), []).append(row)
    return [ScoreTask(number, entry, tuple(by_clip.get(str(entry.clip), ()))) for number, entry in enumerate(entries)]


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
