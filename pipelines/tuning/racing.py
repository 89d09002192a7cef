"""Compare a trial with the reference and with other trials, on the pairs that both have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidguide.eval.metrics.base import Guard
from vidguide.eval.scoring.noninferiority import decide, distances
from vidguide.eval.scoring.statistics import Estimate, Key, PairedComparison, compare_pairs, oriented
from vidguide.eval.scoring.verdict import direction

Values = Mapping[str, Mapping[Key, float]]  # of each metric, by prompt and seed


@dataclass(kw_only=True)
class Trial:
    """One setting, and how far it got.

    Attributes:
        number: of the trial. values: of its parameters. spec: of its guidance.
        clips: number of its pairs so far.
        outcome: "" while it runs, "finished", "given up", "undefined" without values, or "failed" without a clip.
        reason: of the last three.
        scores: values of its clips.
        standing: its comparison with the reference; None before the first.
    """

    number: int
    values: dict[str, Any]
    spec: str
    clips: int = 0
    outcome: str = ""
    reason: str = ""
    scores: Values = field(default_factory=dict)
    standing: "Standing | None" = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Comparison of a setting with the reference.

    Attributes:
        objective: metric that is improved.
        pairs: paired statistics, by metric.
        guards: of the metrics to keep.
    """

    objective: str
    pairs: Mapping[str, PairedComparison]
    guards: Sequence[Guard]

    @property
    def improvement(self) -> Estimate:
        """Change of the objective with its interval, positive if better."""
        return oriented(self.pairs[self.objective].difference, direction(self.objective))

    @property
    def slack(self) -> float:
        """Smallest distance of a metric to keep from its margin, in margins: 1 for no change, below 0 outside."""
        return min(guard_slack(guard, self.pairs[guard.id]) for guard in self.guards)

    @property
    def defined(self) -> bool:
        """Whether the objective and all metrics to keep have a value."""
        return not self.undefined()

    def undefined(self) -> list[str]:
        """Return the metrics, of the objective and those to keep, that have no value in both arms."""
        names = dict.fromkeys((self.objective, *(guard.id for guard in self.guards)))
        return [name for name in names if self.pairs[name].difference.mean is None]

    def violations(self) -> list[str]:
        """Return what the guards say whose interval lies outside the margin."""
        decisions = [decide(guard, self.pairs) for guard in self.guards]
        return [each.guard.violation for each in decisions if each is not None and each.side == "outside"]

    def side(self, guard: Guard) -> str:
        """Return on which side of its margin a guard is: "inside", "outside" or "undecided"."""
        decision = decide(guard, self.pairs)
        return "undecided" if decision is None else decision.side


def guard_slack(guard: Guard, pair: PairedComparison) -> float:
    """Return the mean distance of a metric from its margin, in margins; 1 where the reference's mean is 0."""
    size = abs(guard.change) * (abs(pair.reference or 0.0) if guard.relative else 1.0)
    return float(np.mean(distances(guard, pair))) / size if size else 1.0


def compare_with_reference(reference: Values, scores: Values, objective: str, guards: Sequence[Guard]) -> Standing:
    """Return the comparison of a setting with the reference, on the pairs that both have."""
    names = {objective, *(guard.id for guard in guards)}
    pairs = {name: compare_pairs(reference.get(name, {}), scores.get(name, {})) for name in names}
    return Standing(objective=objective, pairs=pairs, guards=guards)


def losing_reason(trial: Trial, others: Sequence[Trial]) -> str:
    """Return why a trial cannot win; empty if it can.

    It cannot if a metric to keep changes by more than its margin for sure, or if another trial of at least as many
    clips keeps as much and improves the objective more for sure: both by 95% intervals of paired differences.
    """
    standing = trial.standing
    assert standing is not None
    if outside := standing.violations():
        return ", ".join(dict.fromkeys(outside))
    for other in others:
        if other is not trial and other.outcome in ("", "finished") and beats(other, trial):
            return f"trial {other.number} improves {standing.objective} more"
    return ""


def beats(other: Trial, trial: Trial) -> bool:
    """Return whether another trial improves the objective more for sure, and keeps as much or more."""
    assert trial.standing is not None
    if other.standing is None or other.clips < trial.clips or other.standing.slack < max(trial.standing.slack, 0.0):
        return False
    objective = trial.standing.objective
    pair = compare_pairs(trial.scores.get(objective, {}), other.scores.get(objective, {}))
    gain = oriented(pair.difference, direction(objective))
    return gain.low is not None and gain.low > 0
