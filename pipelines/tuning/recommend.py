"""Choose settings from finished trials, by the pairs to choose by only."""

from collections.abc import Sequence

from vidguide.pipelines.tuning.racing import Trial

BEST, CONSERVATIVE, KNEE = "best", "conservative", "knee"
MEANING = {
    BEST: "the largest improvement with all kept metrics within their margins",
    CONSERVATIVE: "the least change of the kept metrics among improvements whose interval excludes 0",
    KNEE: "the balance: farthest from the line between the ends of the Pareto front",
}


def gain(trial: Trial) -> tuple[float, float]:
    """Return the objectives of a trial with a standing: mean improvement, and slack."""
    assert trial.standing is not None
    return trial.standing.improvement.mean or 0.0, trial.standing.slack


def candidates(trials: Sequence[Trial]) -> list[Trial]:
    """Return finished trials that improve, with all metrics to keep within their margins, both on average."""
    within = [trial for trial in trials if trial.outcome == "finished" and gain(trial)[1] >= 0]
    return [trial for trial in within if gain(trial)[0] > 0]


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other exceeds in one objective without being less in the other, by improvement."""

    def exceeds(other: Trial, trial: Trial) -> bool:
        a, b = gain(other), gain(trial)
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    front = [trial for trial in trials if not any(exceeds(other, trial) for other in trials)]
    return sorted(front, key=gain)


def recommend(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Return up to three recommended trials, by what they are; several may be the same trial."""
    possible = candidates(trials)
    if not possible:
        return {}
    chosen = {BEST: max(possible, key=gain)}
    sure = [trial for trial in possible if is_sure(trial)]
    if sure:
        chosen[CONSERVATIVE] = max(sure, key=lambda trial: gain(trial)[::-1])
    return {**chosen, KNEE: knee(pareto_front(possible))}


def is_sure(trial: Trial) -> bool:
    """Return whether the interval of an improvement excludes 0."""
    assert trial.standing is not None
    low = trial.standing.improvement.low
    return low is not None and low > 0


def knee(front: Sequence[Trial]) -> Trial:
    """Return the trial of a Pareto front that is farthest from the line between its ends; of two the best one.

    With both objectives scaled to 0 to 1 over the front, that is the largest sum.
    """
    points = [gain(trial) for trial in front]
    lows = [min(axis) for axis in zip(*points, strict=True)]
    sizes = [max(axis) - low or 1.0 for axis, low in zip(zip(*points, strict=True), lows, strict=True)]
    sums = [sum((value - low) / size for value, low, size in zip(point, lows, sizes, strict=True)) for point in points]
    largest = max(sums)
    return next(trial for trial, total in zip(front[::-1], sums[::-1], strict=True) if total >= largest - 1e-9)
