"""Statistics of votes on pairs of clips: win rates, strengths, agreement, and guards against careless raters.

Votes are read from the rows of the metric `preference.human`: the details of a clip's row have its votes, each with the
rater, the SHA-256 and the path of the other clip, the side, the choice and the milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from vidguide.eval.metrics.human_preference import PREFERENCE
from vidguide.eval.scoring.agreement import Agreement, krippendorff_alpha
from vidguide.eval.scoring.bradley_terry import Strength, estimate_strengths
from vidguide.eval.scoring.intervals import Interval, paired_share_p_value, share_interval
from vidguide.eval.scoring.statistics import Estimate, PairedComparison
from vidguide.eval.scoring.two_way import (
    effective_votes,
    make_cells,
    mean_variance,
    share_interval_of,
    share_p_value,
)

Row = Mapping[str, Any]
RESULTS = {"left": 0.0, "right": 1.0, "tie": 0.5}  # of the right clip
SKIP = "skip"
FEW_RATERS = 5  # with three, intervals for further raters have twice the length
ROUNDING = 1e-9  # of a mean over raters


@dataclass(frozen=True, kw_only=True)
class PairVote:
    """One vote on two clips of the same prompt and seed.

    Attributes:
        rater, prompt, seed: who voted on what.
        arms: names of the left and the right variant.
        choice: "left", "right", "tie" or "skip".
        milliseconds: from the first frame to the choice.
        seconds: length of the clip; None where it is unknown.
    """

    rater: str
    prompt: str
    seed: int | None
    arms: tuple[str, str]
    choice: str
    milliseconds: int
    seconds: float | None = None

    def result(self, arm: str) -> float:
        """Return 1 if the arm won, 0 if it lost, and 1/2 for a tie."""
        right = RESULTS[self.choice]
        return right if self.arms[1] == arm else 1 - right


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """Votes on two variants.

    Attributes:
        reference, other: names of the variants.
        share, low, high: win rate of the other, a tie as half a win, with its 95% interval.
        p: two-sided p-value of a win rate of 1/2, which agrees with the interval.
        p_sign: p-value of the sign test over prompts: on how many the other wins more votes than it loses.
        won, lost: number of those prompts, and of those where it loses more.
        votes, ties, prompts, raters: numbers of them.
    """

    reference: str
    other: str
    share: float
    low: float
    high: float
    p: float
    p_sign: float
    won: int
    lost: int
    votes: int
    ties: int
    prompts: int
    raters: int


@dataclass(frozen=True, kw_only=True)
class RaterSummary:
    """One rater: numbers of votes and skipped pairs, share of votes for the left clip, median time in seconds."""

    rater: str
    votes: int
    skipped: int
    left: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Statistics of all votes.

    Attributes:
        win_rates: of each pair of variants with votes.
        strengths: of Bradley and Terry, strongest first; empty for the reason in `without_strengths`.
        agreement: between raters.
        left: share of decided votes for the left clip, with its exact 95% interval; None without such votes.
        seconds: median time of a vote.
        raters: one summary per rater.
        notes: sentences to show with the numbers.
    """

    win_rates: list[WinRate]
    strengths: list[Strength]
    without_strengths: str
    agreement: Agreement
    left: tuple[float, float, float] | None
    seconds: float
    raters: list[RaterSummary]
    notes: list[str]


def read_pair_votes(rows: Iterable[Row]) -> list[PairVote]:
    """Return the votes in the rows, each once; those against a clip that is not among the rows are left out."""
    listed = [row for row in rows if row["metric"] == PREFERENCE]
    clips: dict[Any, Row] = {}
    for row in listed:
        for clip in (row["clip"], None):  # results of earlier versions have no path of the other clip
            clips.setdefault((row["prompt_id"], row["seed"], row["file_sha256"], clip), row)
    lengths = {row["clip"]: row["frames"] / row["fps"] for row in rows if row.get("frames") and row.get("fps")}
    votes = []
    for left in listed:
        for vote in (left.get("details") or {}).get("votes", []):
            right = clips.get((left["prompt_id"], left["seed"], vote["against"], vote.get("against_clip")))
            if right is not None and vote["side"] == "left":
                votes.append(pair_vote(vote, left, right, lengths.get(left["clip"])))
    return votes


def pair_vote(vote: Mapping[str, Any], left: Row, right: Row, seconds: float | None) -> PairVote:
    """Return a vote of the details of the left clip's row."""
    return PairVote(
        rater=vote["rater"],
        prompt=left["prompt_id"],
        seed=left["seed"],
        arms=(left["arm"], right["arm"]),
        choice=vote["choice"],
        milliseconds=vote["milliseconds"],
        seconds=seconds,
    )


def decided(votes: Iterable[PairVote]) -> list[PairVote]:
    """Return the votes without skipped pairs."""
    return [vote for vote in votes if vote.choice != SKIP]


def compare_votes(reference: Sequence[Row], other: Sequence[Row]) -> PairedComparison:
    """Compare two arms by the votes on pairs of their clips.

    The mean of the other arm is its win rate, that of the reference the rest, and the difference lies between -1 and 1.
    """
    voted = read_pair_votes([*reference, *other])
    votes = decided(voted)
    if not votes:
        nothing = Estimate(mean=None, low=None, high=None, prompts=0)
        return PairedComparison(
            reference=None, other=None, difference=nothing, by_prompt={}, pairs=0, unpaired=0, p=None
        )
    name = next(row["arm"] for row in other)
    share, (low, high), p = win_rate_of(votes, name)
    by_prompt = {prompt: (1 - won, won) for prompt, won in share_by_prompt(votes, name).items()}
    difference = Estimate(mean=2 * share - 1, low=2 * low - 1, high=2 * high - 1, prompts=len(by_prompt))
    pairs = len({(vote.prompt, vote.seed) for vote in votes})
    return PairedComparison(
        reference=1 - share, other=share, difference=difference, by_prompt=by_prompt, pairs=pairs, unpaired=0, p=p
    )


def win_rate_of(votes: Sequence[PairVote], arm: str) -> tuple[float, Interval, float]:
    """Return the win rate of an arm, its 95% interval, and the two-sided p-value of 1/2; for votes on two arms."""
    prompts, raters = [vote.prompt for vote in votes], [vote.rater for vote in votes]
    cells = make_cells([vote.result(arm) for vote in votes], prompts, raters, by_prompt=True)
    count = effective_votes(cells.mean, mean_variance(cells), len(votes), len(set(prompts)))
    return cells.mean, share_interval_of(cells.mean, count), share_p_value(cells.mean, count)


def share_by_prompt(votes: Iterable[PairVote], arm: str) -> dict[str, float]:
    """Return the win rate of an arm on each prompt: the mean over raters, of each over seeds."""
    grouped: dict[str, dict[str, list[float]]] = {}
    for vote in votes:
        grouped.setdefault(vote.prompt, {}).setdefault(vote.rater, []).append(vote.result(arm))
    return {
        prompt: float(np.mean([float(np.mean(results)) for results in raters.values()]))
        for prompt, raters in grouped.items()
    }


def summarize_votes(rows: Sequence[Row], arms: Sequence[str] = ()) -> Preference | None:
    """Return the statistics of all votes in the rows; None without a vote.

    Args:
        rows: of the results.
        arms: the order of variants, the reference first; by default that of the rows.
    """
    voted = read_pair_votes(rows)
    if not voted:
        return None
    votes = decided(voted)
    known = dict.fromkeys(row["arm"] for row in rows if row["metric"] == PREFERENCE)
    names = list(dict.fromkeys([*(name for name in arms if name in known), *known]))
    strengths, reason = strengths_of(votes, names)
    raters = [summarize_rater(rater, voted) for rater in sorted({vote.rater for vote in voted})]
    left = left_share(votes)
    return Preference(
        win_rates=[rate for pair in combinations(names, 2) if (rate := win_rate_between(votes, *pair))],
        strengths=strengths,
        without_strengths=reason,
        agreement=krippendorff_alpha(units_of(votes, names)),
        left=left,
        seconds=median(vote.milliseconds for vote in voted) / 1000,
        raters=raters,
        notes=[*rater_notes(raters), *guard_notes(voted, left), *unvoted_notes(votes, names)],
    )


def win_rate_between(votes: Sequence[PairVote], reference: str, other: str) -> WinRate | None:
    """Return the win rate of one variant against another; None without votes on them."""
    selected = [vote for vote in votes if set(vote.arms) == {reference, other}]
    if not selected:
        return None
    share, (low, high), p = win_rate_of(selected, other)
    shares = share_by_prompt(selected, other).values()
    won, lost = (sum(sign * (value - 0.5) > ROUNDING for value in shares) for sign in (1, -1))
    return WinRate(
        reference=reference,
        other=other,
        share=share,
        low=low,
        high=high,
        p=p,
        p_sign=paired_share_p_value(won, lost),
        won=won,
        lost=lost,
        votes=len(selected),
        ties=sum(vote.choice == "tie" for vote in selected),
        prompts=len(shares),
        raters=len({vote.rater for vote in selected}),
    )


def strengths_of(votes: Sequence[PairVote], names: Sequence[str]) -> tuple[list[Strength], str]:
    """Return the strengths of the variants that have votes, or the reason why they have none."""
    used = [name for name in names if any(name in vote.arms for vote in votes)]
    if not used:
        return [], "every pair was skipped"
    numbers = {name: index for index, name in enumerate(used)}
    pairs = np.array([[numbers[arm] for arm in vote.arms] for vote in votes], np.int64)
    results = np.array([RESULTS[vote.choice] for vote in votes])
    return estimate_strengths(used, pairs, results, [vote.prompt for vote in votes], [vote.rater for vote in votes])


def units_of(votes: Sequence[PairVote], names: Sequence[str]) -> list[tuple[Any, float]]:
    """Return each vote as the pair of clips, whichever side they had, and the result of its later variant."""
    units = []
    for vote in votes:
        first, second = sorted(vote.arms, key=names.index)
        units.append(((vote.prompt, vote.seed, first, second), vote.result(second)))
    return units


def left_share(votes: Iterable[PairVote]) -> tuple[float, float, float] | None:
    """Return the share of the left clip in votes that are no tie, with its exact interval for independent votes."""
    sides = [vote.choice == "left" for vote in votes if vote.choice != "tie"]
    return (sum(sides) / len(sides), *share_interval(sum(sides), len(sides))) if sides else None


def summarize_rater(rater: str, voted: Iterable[PairVote]) -> RaterSummary:
    """Return the summary of one rater."""
    selected = [vote for vote in voted if vote.rater == rater]
    votes = decided(selected)
    left = left_share(votes)
    return RaterSummary(
        rater=rater,
        votes=len(votes),
        skipped=len(selected) - len(votes),
        left=left[0] if left else None,
        seconds=median(vote.milliseconds for vote in selected) / 1000,
    )


def rater_notes(raters: Sequence[RaterSummary]) -> list[str]:
    """Return a note if there are too few raters to say something about others."""
    count = len(raters)
    if count == 1:
        return ["One rater: the intervals are for further prompts judged by the same rater, not for other raters."]
    if count < FEW_RATERS:
        return [f"Raters: {count}; the intervals are for further raters too, and wide for fewer than {FEW_RATERS}."]
    return []


def guard_notes(voted: Sequence[PairVote], left: tuple[float, float, float] | None) -> list[str]:
    """Return notes on a preferred side, and on raters who decide before a clip has ended, without skipped pairs."""
    notes = []
    if left and not left[1] <= 0.5 <= left[2]:
        share = f"{left[0]:.0%} [{left[1]:.0%}, {left[2]:.0%}]"
        notes.append(f"The left clip was chosen in {share} of the decided votes: raters prefer a side.")
    votes = decided(voted)
    for rater in sorted({vote.rater for vote in votes}):
        early = [vote.milliseconds / 1000 < vote.seconds for vote in votes if vote.rater == rater and vote.seconds]
        if sum(early) > len(early) / 2:
            notes.append(f"{rater} decided {sum(early)} of {len(early)} votes before the clips had ended.")
    return notes


def unvoted_notes(votes: Sequence[PairVote], names: Sequence[str]) -> list[str]:
    """Return a note on variants without votes."""
    missing = [name for name in names if not any(name in vote.arms for vote in votes)]
    return [f"Without votes: {', '.join(missing)}."] if missing else []
