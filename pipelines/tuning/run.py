"""tune(): trials that race on some prompts and seeds, then the recommended settings on others; resumable.

The trials do not depend on the number of workers: in each round, every running trial gets its next clips, and a new one
begins where one has ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidguide.eval.evaluate import compare_arms, require, write
from vidguide.eval.pool.protocol import Backend
from vidguide.eval.pool.serial import Serial
from vidguide.eval.pool.status import Status
from vidguide.eval.scoring import results
from vidguide.pipelines.loading.load import resolve
from vidguide.pipelines.sweep.config import Arm
from vidguide.pipelines.sweep.lease import lease
from vidguide.pipelines.sweep.run import local_folder
from vidguide.pipelines.tuning import study
from vidguide.pipelines.tuning.clips import Clips
from vidguide.pipelines.tuning.config import BATCH, RECOMMENDED, Tuning, guard_text, record
from vidguide.pipelines.tuning.racing import Standing, Trial, compare_with_reference, losing_reason
from vidguide.pipelines.tuning.recommend import pareto_front, recommend

HELD_OUT = "held_out"  # folder of the report of the final comparison
FAILURES = 4  # trials in a row without a clip, after which the search ends


@dataclass(frozen=True, kw_only=True)
class TuningRun:
    """Result of a tuning.

    Attributes:
        tuning: what was tuned.
        trials: in the order in which they were proposed.
        recommended: trials by what they are, see :mod:`vidguide.pipelines.tuning.recommend`.
        held_out: comparison of each recommended trial with the reference on the held-out pairs, by its number.
        remade: clips that were not as they had been written, with the reason. failed: clips without a score.
    """

    tuning: Tuning
    trials: list[Trial]
    recommended: dict[str, Trial]
    held_out: dict[int, Standing]
    remade: dict[Path, str]
    failed: dict[Path, str]

    @property
    def front(self) -> list[Trial]:
        """Finished trials that no other exceeds in one objective without being less in the other."""
        return pareto_front([trial for trial in self.trials if trial.outcome == "finished"])

    @property
    def clips(self) -> dict[str, int]:
        """Number of clips: without guidance, of trials, held out, and in all."""
        counts = {
            "reference": len(self.tuning.pairs),
            "trials": sum(trial.clips for trial in self.trials),
            "held out": len(self.tuning.held_out) * (1 + len(self.held_out)) if self.held_out else 0,
        }
        return {**counts, "all": sum(counts.values())}


def tune(
    tuning: Tuning,
    folder: str | Path,
    *,
    backend: Backend | None = None,
    on_status: Callable[[Status], None] = lambda status: None,
) -> TuningRun:
    """Find settings: the clips are in `FOLDER/clips`, the trials in `FOLDER/journal.log`.

    The report is not written; call :func:`vidguide.pipelines.tuning.report.save`.

    Args:
        tuning: from :func:`vidguide.pipelines.tuning.config.make_tuning`.
        folder: output folder; an earlier run of the same tuning is continued, with the same trials.
        backend: where clips are generated and scored, such as :class:`vidguide.eval.pool.ray_actors.RayCluster`; None
            for this process.
        on_status: called with the progress.

    Raises:
        ImportError: Optuna, or a package of the evaluation, is not installed. ValueError, TypeError, OSError: as for
            :func:`vidguide.pipelines.sweep.run.run`; the folder has a tuning with another configuration; or the
            objective has no value, or cannot improve, without guidance.
    """
    study.require()
    require()
    resolve(tuning.sweep.model)
    target = local_folder(folder)
    with lease(target) as claim:
        record(tuning, target)
        with Clips(tuning, target, claim, backend or Serial(), on_status) as clips:
            trials = search(tuning, study.Study(target, tuning.space, tuning.seed), clips)
            recommended = recommend(trials)
            held_out = compare_held_out(tuning, recommended, clips, target)
        results.finish(target, clips.all_rows())
        return TuningRun(
            tuning=tuning,
            trials=trials,
            recommended=recommended,
            held_out=held_out,
            remade=clips.remade,
            failed=clips.failed,
        )


def arm_of(trial: Trial) -> Arm:
    """Return a trial as an arm of the sweep."""
    return Arm(name=f"trial-{trial.number:03d}", guidance=trial.spec)


def search(tuning: Tuning, proposals: "study.Study", clips: Clips) -> list[Trial]:
    """Run trials until the budget is spent or all settings were tried; returns them."""
    reference = tuning.reference
    check_reference(tuning, clips, clips.complete((reference, pair) for pair in tuning.pairs))
    trials: list[Trial] = []
    running: list[Trial] = []
    while True:
        while len(running) < tuning.parallel and is_affordable(tuning, trials, running):
            proposal = proposals.ask()
            if proposal is None:
                break
            trials.append(Trial(**proposal._asdict(), spec=tuning.space.spec(proposal.values)))
            running.append(trials[-1])
        if not running:
            return trials
        advance(tuning, running, trials, clips)
        check_failures(trials)
        for trial in running:
            if trial.outcome and trial.outcome != "failed":  # the next run tries a failed one again
                proposals.record_result(trial.number, objectives(trial))
        running = [trial for trial in running if not trial.outcome]


def is_affordable(tuning: Tuning, trials: Sequence[Trial], running: Sequence[Trial]) -> bool:
    """Return whether the budget suffices for all running trials and one more, up to their last pair."""
    count = len(tuning.pairs)
    spent = count + sum(trial.clips for trial in trials)
    promised = sum(count - trial.clips for trial in running)
    return spent + promised + count <= tuning.search_budget


def check_reference(tuning: Tuning, clips: Clips, failed: dict[str, str]) -> None:
    """Refuse to go on without values of the reference, or if the objective cannot improve.

    Raises:
        ValueError, OSError: naming the metric and the reason.
    """
    if failed:
        raise OSError(f"a clip without the guidance could not be made: {', '.join(failed.values())}; run again")
    rows = clips.rows([tuning.reference.name], tuning.pairs)
    for option, name in (("objective", tuning.objective), *(("keep", guard.id) for guard in tuning.guards)):
        of_metric = [row for row in rows if row["metric"] == name]
        if not any(row["status"] == "ok" for row in of_metric):
            reason = of_metric[0]["reason"]
            raise ValueError(f"{option}={name!r}: has no value in {len(of_metric)} clips without guidance: {reason}")
    for guard in tuning.guards:
        guarded = [row["value"] for row in rows if row["metric"] == guard.id and row["status"] == "ok"]
        if guard.relative and not any(guarded):
            raise ValueError(
                f"keep={guard_text(guard)!r}: is a share of the mean, which is 0 in {len(guarded)} clips without "
                f"guidance; give the margin as a number, such as {guard.id}:0.05"
            )
    metric = next(metric for metric in tuning.metrics if metric.id == tuning.objective)
    end = metric.high if metric.better == "higher" else metric.low
    values = [row["value"] for row in rows if row["metric"] == tuning.objective and row["status"] == "ok"]
    if all(value == end for value in values):
        raise ValueError(
            f"objective={tuning.objective!r}: is {end:g} in all {len(values)} clips without guidance, and cannot "
            "improve; choose prompts for which it does"
        )


def check_failures(trials: Sequence[Trial]) -> None:
    """End the search if clips of several trials in a row failed: the reason is hardly their settings.

    Raises:
        OSError: with the reason.
    """
    last = [trial for trial in trials if trial.outcome][-FAILURES:]
    if len(last) == FAILURES and all(trial.outcome == "failed" for trial in last):
        numbers = f"{last[0].number} to {last[-1].number}"
        raise OSError(f"clips of the trials {numbers} could not be made: {last[-1].reason}; run again")


def advance(tuning: Tuning, running: Sequence[Trial], trials: Sequence[Trial], clips: Clips) -> None:
    """Give each running trial its next clips, and end those that have all, that failed, or that cannot win."""
    ends = {trial.number: min(trial.clips + BATCH, len(tuning.pairs)) for trial in running}
    wanted = [(arm_of(t), pair) for t in running for pair in tuning.pairs[t.clips : ends[t.number]]]
    failed = clips.complete(wanted)
    for trial in running:
        trial.clips = ends[trial.number]
        pairs = tuning.pairs[: trial.clips]
        trial.scores = clips.scores(arm_of(trial).name, pairs)
        reference = clips.scores(tuning.reference.name, pairs)
        trial.standing = compare_with_reference(reference, trial.scores, tuning.objective, tuning.guards)
        if arm_of(trial).name in failed:
            trial.outcome, trial.reason = "failed", failed[arm_of(trial).name]
    for trial, reason in [(trial, reason_to_end(trial, trials)) for trial in running if not trial.outcome]:
        if reason:
            trial.outcome, trial.reason = "given up", reason
        elif trial.clips == len(tuning.pairs):
            missing = trial.standing.undefined() if trial.standing else []
            trial.outcome = "undefined" if missing else "finished"
            trial.reason = f"no value of {', '.join(missing)}" if missing else ""


def reason_to_end(trial: Trial, trials: Sequence[Trial]) -> str:
    """Return why a trial cannot win; empty if it can, or if nothing is known yet."""
    assert trial.standing is not None
    return losing_reason(trial, trials) if trial.standing.defined else ""


def objectives(trial: Trial) -> tuple[float, float] | None:
    """Return what the journal records of a trial: improvement and slack on its clips; None if one is undefined."""
    standing = trial.standing
    if standing is None or not standing.defined:
        return None
    improvement = standing.improvement.mean
    assert improvement is not None  # as it is defined
    return improvement, standing.slack


def compare_held_out(tuning: Tuning, recommended: dict[str, Trial], clips: Clips, folder: Path) -> dict[int, Standing]:
    """Generate the held-out clips, compare recommended trials with the reference, and write that report."""
    distinct = {trial.number: trial for trial in recommended.values()}
    assert len(distinct) <= RECOMMENDED
    if not distinct:
        return {}
    arms = [tuning.reference, *map(arm_of, distinct.values())]
    clips.complete((arm, pair) for pair in tuning.held_out for arm in arms)
    reference = clips.scores(tuning.reference.name, tuning.held_out)
    rows = clips.rows([arm.name for arm in arms], tuning.held_out)
    primary = (tuning.objective, *dict.fromkeys(guard.id for guard in tuning.guards))
    (folder / HELD_OUT).mkdir(exist_ok=True)
    write(compare_arms([rows], [arm.name for arm in arms], None, primary), folder / HELD_OUT)
    return {
        number: compare_with_reference(
            reference, clips.scores(arm_of(trial).name, tuning.held_out), tuning.objective, tuning.guards
        )
        for number, trial in distinct.items()
    }
