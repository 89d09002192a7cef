"""The clips of a tuning: those of a sweep, each generated and scored by a worker that has loaded everything once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vidguide.eval.clips.entries import Entry
from vidguide.eval.clips.read import file_hash
from vidguide.eval.encoders.networks import Networks
from vidguide.eval.pool.loop import run_jobs
from vidguide.eval.pool.persistent import Persistent
from vidguide.eval.pool.protocol import Backend, Failure
from vidguide.eval.pool.status import Status
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import Row
from vidguide.eval.scoring.score import ScoreTask, ScoreWorker, Settings
from vidguide.eval.scoring.verdict import values_by_key
from vidguide.pipelines.sweep.config import Arm
from vidguide.pipelines.sweep.jobs import Job
from vidguide.pipelines.sweep.jobs import jobs as sweep_jobs
from vidguide.pipelines.sweep.lease import Claim
from vidguide.pipelines.sweep.run import (
    ClipWorker,
    absolute_model,
    begun_kinds,
    clear_temporaries,
    earlier_clips,
    has_images,
    state_of,
)
from vidguide.pipelines.tuning.config import BATCH, Pair, Tuning, replace_arms
from vidguide.pipelines.tuning.racing import Values

Wanted = tuple[Arm, Pair]


@dataclass(frozen=True, eq=False)
class TrialJob:
    """A clip to generate, unless it exists, and to score."""

    clip: Job
    exists: bool
    task: ScoreTask


class TrialWorker:
    """Generates clips and scores them.

    Attributes:
        kind: name of its GPU or CPU, on which the frames depend.
    """

    def __init__(self, make: Callable[[], ClipWorker], score: Callable[[], ScoreWorker]) -> None:
        self.make, self.score = make(), score()
        self.kind = self.make.kind

    def __call__(self, job: TrialJob) -> list[Row]:
        """Return the rows of a clip."""
        if not job.exists:
            self.make(job.clip)
        rows, _ = self.score(job.task)
        return rows


class Clips:
    """Clips of a folder and their scores, which :meth:`complete` extends.

    Attributes:
        remade: clips that were not as they had been written, with the reason.
        failed: clips that could not be generated or scored, with the reason.
    """

    def __init__(
        self, tuning: Tuning, folder: Path, claim: Claim, backend: Backend, on_status: Callable[[Status], None]
    ) -> None:
        """Read the scores of an earlier run.

        Args:
            tuning: whose clips.
            folder: of the clips, on which this process holds the lease.
            claim: of that lease.
            backend: where clips are generated and scored.
            on_status: called with the progress, of the whole budget.
        """
        self.tuning, self.folder, self.claim, self.on_status = tuning, folder, claim, on_status
        self.remade: dict[Path, str] = {}
        self.failed: dict[Path, str] = {}
        self._rows: dict[tuple[str, Pair], list[Row]] = {}
        self._states: dict[Path, str | None] = {}
        self._jobs: dict[str, dict[Pair, Job]] = {}  # by arm
        self._earlier: dict[str, dict[str, Row]] = {}
        for row in results.load_existing(folder):
            self._earlier.setdefault(row["clip"], {})[row["metric"]] = row
        self._backend = Persistent(backend, max(tuning.parallel * BATCH, len(tuning.pairs)))
        self._factory: Callable[[], TrialWorker] | None = None
        self._progress = Status(total=tuning.budget)

    def __enter__(self) -> "Clips":
        self._backend.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._backend.__exit__(*error)

    def rows(self, arms: Iterable[str], pairs: Iterable[Pair]) -> list[Row]:
        """Return the rows of arms on pairs, in their order, so that no sum depends on the order of completion."""
        keys = [(arm, pair) for pair in pairs for arm in arms]
        return [row for key in keys for row in self._rows.get(key, ())]

    def all_rows(self) -> list[Row]:
        """Return the rows of all clips, by arm and pair."""
        return [row for key in sorted(self._rows) for row in self._rows[key]]

    def scores(self, arm: str, pairs: Iterable[Pair]) -> Values:
        """Return the values of an arm on some pairs, by metric."""
        rows = self.rows([arm], pairs)
        return {metric.id: values_by_key(rows, metric.id) for metric in self.tuning.metrics}

    def complete(self, wanted: Iterable[Wanted]) -> dict[str, str]:
        """Generate and score clips that are missing; returns the reason of a clip that was not made by name of its arm.

        Raises:
            ValueError: a clip on the disk is of another request. Others as :func:`vidguide.eval.pool.loop.run_jobs`.
        """
        chosen = [(arm, pair) for arm, pair in wanted if (arm.name, pair) not in self._rows]
        by_arm = {arm.name: self._jobs_of(arm) for arm, _ in chosen}
        jobs = [by_arm[arm.name][pair] for arm, pair in chosen]
        for job in jobs:
            self._take_state(job)
        missing = [job for job in jobs if not self._take_rows(job)]
        if missing:
            self._run(missing)
        return {job.arm.name: self.failed[job.path] for job in jobs if (job.arm.name, job.pair) not in self._rows}

    def _jobs_of(self, arm: Arm) -> Mapping[Pair, Job]:
        """Return all jobs of an arm, as the sweep makes them."""
        if arm.name not in self._jobs:
            jobs = sweep_jobs(replace_arms(self.tuning.sweep, [arm]), self.folder)
            self._jobs[arm.name] = {job.pair: job for job in jobs}
        return self._jobs[arm.name]

    def _take_state(self, job: Job) -> None:
        """Note whether a clip is on the disk as it was written."""
        state = self._states[job.path] = state_of(job)
        if state:
            self.remade[job.path] = state
        clear_temporaries(job)

    def _take_rows(self, job: Job) -> bool:
        """Take the rows of an earlier run, if they are those of the clip on the disk."""
        rows = self._earlier.get(str(job.path), {})
        if self._states[job.path] is not None:
            return False
        metrics = self.tuning.metrics
        known = [rows[metric.id] for metric in metrics if metric.id in rows]
        if len(known) < len(metrics) or any(
            row["version"] != metric.version or row["status"] == "failed"
            for row, metric in zip(known, metrics, strict=True)
        ):
            return False
        if known[0].get("file_sha256") != file_hash(job.path):
            return False
        self._rows[job.arm.name, job.pair] = known
        return True

    def _run(self, jobs: list[Job]) -> None:
        """Generate and score clips."""
        tasks = {job.path: self._trial_job(number, job) for number, job in enumerate(jobs)}
        jobs_of = {id(tasks[job.path]): job for job in jobs}
        done, failed = len(self._rows), len(self.failed)

        def record(task: TrialJob, outcome: Any) -> None:
            job = jobs_of[id(task)]
            if isinstance(outcome, Failure):
                self.failed[job.path] = outcome.reason
                return
            results.append(self.folder, outcome)
            self._rows[job.arm.name, job.pair] = outcome
            self.failed.pop(job.path, None)
            unscored = [f"{row['metric']}: {row['reason']}" for row in outcome if row["status"] == "failed"]
            if unscored:
                self.failed[job.path] = ", ".join(unscored)
            self._states[job.path] = None

        def report(status: Status) -> None:
            self._progress.done, self._progress.failed = done + status.done, failed + status.failed
            self._progress.workers = status.workers
            self._progress.started = self._progress.started or status.started
            self.on_status(self._progress)

        run_jobs(
            self._backend,
            self._worker(),
            [(task, task.clip.pair) for task in tasks.values()],
            kinds=self._kinds(jobs),
            on_result=record,
            on_status=report,
        )

    def _trial_job(self, number: int, job: Job) -> TrialJob:
        """Return the job for a worker."""
        prompt = job.prompt
        entry = Entry(
            clip=job.path,
            arm=job.arm.name,
            prompt_id=prompt.id,
            seed=job.seed,
            prompt=prompt.prompt,
            eval_prompt=prompt.eval_prompt,
            negative_prompt=prompt.negative_prompt,
        )
        return TrialJob(job.absolute(), self._states[job.path] is None, ScoreTask(number, entry, ()))

    def _kinds(self, jobs: list[Job]) -> dict[Pair, str]:
        """Return the type of device on which the reference of each pair was generated, where it exists."""
        reference = self._jobs_of(self.tuning.reference)
        existing = {reference[job.pair].path: reference[job.pair] for job in jobs}
        known = [job for path, job in existing.items() if self._states.get(path, "") is None]
        states = {**{job.path: None for job in known}, **{job.path: "" for job in jobs}}
        return begun_kinds([*known, *jobs], states)

    def _worker(self) -> Callable[[], TrialWorker]:
        """Return the factory of the workers, which is the same for all runs."""
        if self._factory is None:
            sweep = self.tuning.sweep
            reference = list(self._jobs_of(self.tuning.reference).values())
            states = {job.path: None if job.json_path.is_file() else "" for job in reference}
            earlier = earlier_clips(reference, states)
            make = partial(ClipWorker, sweep, absolute_model(sweep.model), has_images(sweep), self.claim, earlier)
            device = sweep.placement.get("device") or "cpu"
            networks = Networks(self.tuning.encoders, device)
            score = partial(ScoreWorker, tuple(self.tuning.metrics), Settings(), networks, str(Path.cwd()))
            self._factory = partial(TrialWorker, make, score)
        return self._factory
