"""Statistics of votes: against plain implementations, known distributions, and simulated prompts and raters."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from vidguide.eval.scoring.agreement import krippendorff_alpha
from vidguide.eval.scoring.bradley_terry import count_wins, estimate_strengths, explain_missing, fit_strengths
from vidguide.eval.scoring.intervals import share_interval
from vidguide.eval.scoring.preference import compare_votes, summarize_votes
from vidguide.eval.scoring.two_way import (
    Variance,
    effective_votes,
    make_cells,
    mean_variance,
    share_interval_of,
    share_p_value,
    variance_components,
)

RANDOM = np.random.default_rng()
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, 12 units, 0 is missing.
OBSERVERS = ("123321412000", "123322412503", "033323422510", "123324412510")
INTERVAL_ALPHA = 0.849  # as printed there


def crossed(
    prompts: int, raters: int, deviations: tuple[float, float, float], random: np.random.Generator
) -> tuple[list[float], list[int], list[int]]:
    """Return values with effects of prompts, raters and noise, and the prompt and the rater of each."""
    effects = [
        deviation * random.normal(size=size) for deviation, size in zip(deviations, (prompts, raters), strict=False)
    ]
    pairs = list(itertools.product(range(prompts), range(raters)))
    values = [effects[0][p] + effects[1][r] + deviations[2] * random.normal() for p, r in pairs]
    return values, [p for p, _ in pairs], [r for _, r in pairs]


def anova(table: NDArray[np.float64]) -> tuple[float, float]:
    """Return variance of the grand mean and its degrees of freedom, by the mean squares of a two-way table."""
    (prompts, raters), mean = table.shape, table.mean()
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    of_prompts = raters * ((rows - mean) ** 2).sum() / (prompts - 1)
    of_raters = prompts * ((columns - mean) ** 2).sum() / (raters - 1)
    rest = ((table - rows[:, None] - columns + mean) ** 2).sum() / ((prompts - 1) * (raters - 1))
    total = of_prompts + of_raters - rest
    uncertainty = of_prompts**2 / (prompts - 1) + of_raters**2 / (raters - 1)
    return total / table.size, total**2 / (uncertainty + rest**2 / ((prompts - 1) * (raters - 1)))


def test_variance_of_a_complete_table_is_that_of_its_mean_squares() -> None:
    values, prompts, raters = crossed(9, 5, (1.5, 1.0, 0.5), RANDOM)
    variance = mean_variance(make_cells(values, prompts, raters, by_prompt=True))
    expected = anova(np.array(values).reshape(9, 5))
    assert (variance.variance, variance.freedom) == pytest.approx(expected, rel=1e-9)


def test_variance_components_are_unbiased_where_votes_are_missing() -> None:
    random, estimates = np.random.default_rng(3), []
    for _ in range(1500):
        values, prompts, raters = crossed(12, 6, (0.8, 0.5, 1.0), random)
        present = np.flatnonzero(random.random(len(values)) < 0.6)
        cells = make_cells(
            [values[k] for k in present], [prompts[k] for k in present], [raters[k] for k in present], True
        )
        components = variance_components(cells)
        assert components is not None
        estimates.append(components)
    assert np.mean(estimates, axis=0) == pytest.approx([0.64, 0.25, 1.0], rel=0.06)  # truncation at 0 adds little


def test_one_rater_is_clustered_by_prompt_and_one_prompt_by_rater() -> None:
    values = RANDOM.random(8).tolist()
    expected = float(np.var(values, ddof=1) / 8)
    labels: list[Any] = list(range(8))
    for prompts, raters in ((labels, ["anna"] * 8), (["p"] * 8, labels)):
        variance = mean_variance(make_cells(values, prompts, raters, by_prompt=True))
        assert (variance.variance, variance.freedom) == pytest.approx((expected, 7))


def test_raters_without_common_prompts_have_the_sum_of_both_cluster_robust_variances() -> None:
    values = RANDOM.random(6).tolist()
    raters = ["anna", "anna", "ben", "ben", "cem", "cem"]
    variance = mean_variance(make_cells(values, list(range(6)), raters, by_prompt=True))
    by_rater = np.array(values).reshape(3, 2).mean(axis=1)
    assert variance.variance == pytest.approx(np.var(values, ddof=1) / 6 + np.var(by_rater, ddof=1) / 3)
    assert variance.freedom == 2


@pytest.mark.parametrize("values", [(1.0, 0.0), (1 / 3, 2 / 3)])
def test_groups_of_raters_that_agree_within_but_have_no_common_prompt_differ_by_prompt_and_rater(
    values: tuple[float, float],
) -> None:
    votes = [(value, (group, p), (group, r)) for group, value in enumerate(values) for p in "ab" for r in "cd"]
    scores, prompts, raters = (list(column) for column in zip(*votes, strict=True))
    cells = make_cells(scores, prompts, raters, by_prompt=True)
    clusters = [cells.values[cells.prompts == number].mean() for number in range(4)]
    assert mean_variance(cells).variance == pytest.approx(2 * np.var(clusters, ddof=1) / 4)
    assert mean_variance(cells).freedom == 3


def test_seeds_are_averaged_within_prompt_and_rater() -> None:
    cells = make_cells([1.0, 0.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b", "b"], ["x", "x", "y", "x", "x"], by_prompt=True)
    assert cells.mean == pytest.approx(((0.5 + 1.0) / 2 + 0.5) / 2)
    assert make_cells([1.0, 0.0, 1.0], ["a", "a", "b"], ["x"] * 3, by_prompt=False).mean == pytest.approx(2 / 3)


@pytest.mark.parametrize(("wins", "votes"), [(7, 20), (0, 5), (12, 12), (15, 30)])
def test_interval_of_independent_votes_is_that_of_clopper_and_pearson(wins: int, votes: int) -> None:
    assert share_interval_of(wins / votes, votes) == pytest.approx(share_interval(wins, votes))
    assert share_p_value(wins / votes, votes) == pytest.approx(
        min(2 * min(stats.binom.cdf(wins, votes, 0.5), stats.binom.sf(wins - 1, votes, 0.5)), 1)
    )


def test_interval_excludes_one_half_exactly_if_p_is_at_most_0_05() -> None:
    for _ in range(300):
        mean, votes = RANDOM.random(), 40 * RANDOM.random()
        low, high = share_interval_of(mean, votes)
        assert (low <= 0.5 <= high) == (share_p_value(mean, votes) > 0.05)


def test_effective_votes_are_all_for_independent_ones_and_the_prompts_for_unanimous_ones() -> None:
    assert effective_votes(0.3, Variance(variance=0.21 / 40, freedom=39), 40, 10) == pytest.approx(40)
    assert effective_votes(0.3, Variance(variance=0.21 / 20, freedom=1e9), 40, 10) == pytest.approx(
        20 * (stats.t.ppf(0.975, 39) / stats.norm.ppf(0.975)) ** 2, rel=1e-6
    )
    assert effective_votes(1.0, Variance(variance=0.0, freedom=3), 40, 10) == 10
    assert effective_votes(1.0, Variance(variance=math.inf, freedom=1), 1, 1) == 0
    assert share_interval_of(1.0, 0.0) == (0.0, 1.0)


def simulate_share(random: np.random.Generator, prompts: int, raters: int, effects: tuple[float, float]) -> Any:
    """Return votes of 0, 1/2 and 1 of all raters on all prompts: a normal preference with effects of both."""
    values, rows, columns = crossed(prompts, raters, (*effects, 1.0), random)
    return [1.0 if value > 0.3 else 0.0 if value < -0.3 else 0.5 for value in values], rows, columns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "raters", "effects"),
    [
        (20, 1, (0.7, 0.0)),
        (50, 3, (0.7, 0.0)),
        (50, 3, (0.7, 0.3)),
        (50, 3, (0.7, 0.7)),
        (20, 10, (0.7, 0.5)),
        (100, 8, (0.0, 0.0)),
    ],
)
def test_intervals_contain_the_true_share_in_simulated_studies(
    prompts: int, raters: int, effects: tuple[float, float]
) -> None:
    random, repetitions, contained = np.random.default_rng(5), 1000, 0
    for _ in range(repetitions):
        votes, rows, columns = simulate_share(random, prompts, raters, effects)
        cells = make_cells(votes, rows, columns, by_prompt=True)
        low, high = share_interval_of(
            cells.mean, effective_votes(cells.mean, mean_variance(cells), len(votes), prompts)
        )
        contained += low <= 0.5 <= high  # by symmetry the true share
    assert contained / repetitions >= 0.94


def plain_strengths(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the strengths by a general optimiser of the sum over votes, the first one 0, then centred."""

    def loss(rest: NDArray[np.float64]) -> float:
        s = [0.0, *rest]
        return -sum(w * math.log(1 / (1 + math.exp(s[j] - s[i]))) for (i, j), w in np.ndenumerate(wins) if w)

    optimum = optimize.minimize(
        loss, np.zeros(len(wins) - 1), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 20000}
    )
    whole = np.array([0.0, *optimum.x])
    return whole - whole.mean()


def test_strengths_are_those_of_largest_likelihood() -> None:
    wins = RANDOM.integers(1, 20, (4, 4)) + RANDOM.choice([0.0, 0.5], (4, 4))
    np.fill_diagonal(wins, 0)
    assert fit_strengths(wins) == pytest.approx(plain_strengths(wins), abs=1e-5)


def test_strengths_of_two_variants_are_the_log_odds_of_the_win_rate() -> None:
    strengths = fit_strengths(np.array([[0, 30.5], [9.5, 0]]))
    assert strengths[0] - strengths[1] == pytest.approx(math.log(30.5 / 9.5))


def test_strengths_with_nearly_unanimous_votes_converge() -> None:
    strengths = fit_strengths(np.array([[0, 5000.0, 0], [0.5, 0, 3000], [0, 0.5, 0]]))
    assert np.diff(strengths) == pytest.approx([-math.log(10000), -math.log(6000)])


def test_missing_strengths_are_explained() -> None:
    names = ["a", "b", "c", "d"]
    apart = np.zeros((4, 4))
    apart[0, 1] = apart[1, 0] = apart[2, 3] = apart[3, 2] = 1
    assert explain_missing(apart, names) == "no vote connects a, b with c, d"
    connected = np.ones((4, 4)) - np.eye(4)
    assert explain_missing(connected, names) == ""
    connected[:3, 3] = 0
    assert explain_missing(connected, names).startswith("d won every vote against the others")
    assert explain_missing(connected.T, names).startswith("d lost every vote against the others")


def vote_arrays(
    random: np.random.Generator, strengths: NDArray[np.float64], prompts: int, raters: int, deviation: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[int], list[int]]:
    """Return votes on all pairs, with random strengths of each prompt and of each rater."""
    pairs, results, rows, columns = [], [], [], []
    of_prompt, of_rater = (deviation * random.normal(size=(size, len(strengths))) for size in (prompts, raters))
    for prompt, rater in itertools.product(range(prompts), range(raters)):
        for i, j in itertools.combinations(range(len(strengths)), 2):
            s = strengths + of_prompt[prompt] + of_rater[rater]
            pairs.append((i, j))
            results.append(float(random.random() < 1 / (1 + math.exp(s[i] - s[j]))))
            rows.append(prompt)
            columns.append(rater)
    return np.array(pairs), np.array(results), rows, columns


def test_planted_strengths_are_recovered_in_order_with_intervals() -> None:
    planted = np.array([-1.0, 0.0, 1.0])
    pairs, results, prompts, raters = vote_arrays(np.random.default_rng(7), planted, 40, 4, 0.0)
    estimates, reason = estimate_strengths(["a", "b", "c"], pairs, results, prompts, raters)
    assert (reason, [each.variant for each in estimates]) == ("", ["c", "b", "a"])
    for each, true in zip(estimates, planted[::-1], strict=True):
        assert each.low < true < each.high
        assert each.high - each.low < 1.5
        assert each.share == pytest.approx(1 / (1 + math.exp(-each.strength)))
        assert each.votes == 2 * 40 * 4


def test_interval_of_strengths_from_independent_votes_is_that_of_the_information() -> None:
    random = np.random.default_rng(8)
    count = 4000
    pairs = np.array([(0, 1), (1, 2), (0, 2)])[random.integers(0, 3, count)]
    results = (random.random(count) < 0.6).astype(float)
    estimates, _ = estimate_strengths(["a", "b", "c"], pairs, results, list(range(count)), ["x"] * count)
    wins = count_wins(3, pairs, results)
    s = fit_strengths(wins)
    p = 1 / (1 + np.exp(s - s[:, None]))
    weights = (wins + wins.T) * p * (1 - p)
    deviations = np.sqrt(np.diag(np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)))
    for each in estimates:
        index = ["a", "b", "c"].index(each.variant)
        assert (each.high - each.low) / 2 == pytest.approx(1.96 * deviations[index], rel=0.05)


@pytest.mark.slow
def test_intervals_of_strengths_contain_the_planted_ones_in_simulated_studies() -> None:
    random, planted, contained = np.random.default_rng(9), np.array([-0.6, 0.0, 0.6]), []
    for _ in range(300):
        votes = vote_arrays(random, planted, 30, 6, 0.3)
        estimates, reason = estimate_strengths(["a", "b", "c"], *votes)
        assert not reason
        true = dict(zip("abc", planted, strict=True))
        contained += [each.low <= true[each.variant] <= each.high for each in estimates]
    assert np.mean(contained) >= 0.93


def plain_alpha(units: list[list[float]]) -> float:
    """Return alpha by its definition: observed and expected squared differences of pairs of values."""
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum((a - b) ** 2 / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2))
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected


def test_alpha_is_that_of_its_definition_and_of_a_published_example() -> None:
    units = [RANDOM.choice([0.0, 0.5, 1.0], RANDOM.integers(1, 6)).tolist() for _ in range(30)]
    agreement = krippendorff_alpha([(number, value) for number, unit in enumerate(units) for value in unit])
    assert agreement.alpha == pytest.approx(plain_alpha(units))
    assert agreement.pairs == sum(len(unit) > 1 for unit in units)
    published = [(unit, float(row[unit])) for row in OBSERVERS for unit in range(12) if row[unit] != "0"]
    assert krippendorff_alpha(published).alpha == pytest.approx(INTERVAL_ALPHA, abs=5e-4)


def test_alpha_is_undefined_with_a_reason() -> None:
    assert krippendorff_alpha([("a", 1.0), ("b", 0.0)]).reason == "no pair of clips has votes of two raters"
    assert krippendorff_alpha([("a", 0.5), ("a", 0.5)]).reason == "all votes are equal"


def rows_of(votes: list[tuple[str, str, str, str]], arms: tuple[str, ...] = ("none", "nag")) -> list[dict[str, Any]]:
    """Return the rows of votes (rater, prompt, left arm, choice) on the first arm and another one."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for prompt in dict.fromkeys(vote[1] for vote in votes):
        for arm in arms:
            rows[arm, prompt] = {
                **{"metric": "preference.human", "clip": f"{arm}/{prompt}", "arm": arm, "prompt_id": prompt, "seed": 0},
                **{"file_sha256": f"{arm} {prompt}", "status": "ok", "value": 0.5, "details": {"votes": []}},
            }
    for rater, prompt, left, choice in votes:
        right = next(arm for arm in arms[:2] if arm != left)
        for arm, other, side in ((left, right, "left"), (right, left, "right")):
            details = {"rater": rater, "against": f"{other} {prompt}", "side": side, "choice": choice}
            rows[arm, prompt]["details"]["votes"].append({**details, "milliseconds": 2000})
    return list(rows.values())


def compare_rows(rows: list[dict[str, Any]]) -> Any:
    """Return the comparison of nag with none."""
    return compare_votes(*([row for row in rows if row["arm"] == arm] for arm in ("none", "nag")))


def test_win_rate_counts_sides_ties_and_skipped_pairs() -> None:
    votes = [
        ("a", "p", "none", "right"),
        ("b", "p", "nag", "tie"),
        ("a", "q", "nag", "right"),
        ("b", "q", "none", "skip"),
    ]
    pair = compare_rows(rows_of(votes))
    assert pair.by_prompt == {"p": (0.25, 0.75), "q": (1.0, 0.0)}
    assert (pair.reference, pair.other) == pytest.approx((0.625, 0.375))
    assert pair.difference.mean == pytest.approx(-0.25)
    assert pair.pairs == 2


def test_all_ties_are_no_preference_with_an_interval_that_has_a_length() -> None:
    rows = rows_of([(rater, f"p{n}", "none", "tie") for rater in "ab" for n in range(30)])
    pair, statistics = compare_rows(rows), summarize_votes(rows)
    assert (pair.difference.mean, pair.p) == (0.0, 1.0)
    assert pair.difference.low < -0.3 < 0.3 < pair.difference.high
    assert statistics is not None
    assert statistics.left is None
    assert statistics.agreement.reason == "all votes are equal"
    assert [each.strength for each in statistics.strengths] == pytest.approx([0.0, 0.0])
    assert (statistics.win_rates[0].p_sign, statistics.win_rates[0].ties) == (1.0, 60)


def test_unanimous_votes_of_one_rater_count_each_prompt_once() -> None:
    rows = rows_of([("a", f"p{n}", "none", "right") for n in range(20)])
    pair, statistics = compare_rows(rows), summarize_votes(rows)
    assert ((1 + pair.difference.low) / 2, (1 + pair.difference.high) / 2) == pytest.approx(share_interval(20, 20))
    assert statistics is not None
    assert "has no finite estimate" in statistics.without_strengths
    assert any(note.startswith("One rater: ") for note in statistics.notes)
    assert any("raters prefer a side" in note for note in statistics.notes)


def test_a_variant_without_votes_is_named() -> None:
    rows = rows_of([("a", "p", "none", "right"), ("b", "p", "none", "left")], ("none", "nag", "cfg"))
    statistics = summarize_votes(rows)
    assert statistics is not None
    assert [(rate.reference, rate.other) for rate in statistics.win_rates] == [("none", "nag")]
    assert len(statistics.strengths) == 2
    assert "Without votes: cfg." in statistics.notes


def test_hasty_raters_are_named() -> None:
    rows = rows_of([("a", f"p{n}", "none", "right") for n in range(4)])
    rows += rows_of([("b", f"q{n}", "none", "skip") for n in range(4)])
    rows += [{"metric": "guard.motion", "clip": row["clip"], "frames": 24, "fps": 8} for row in rows]
    statistics = summarize_votes(rows)
    assert statistics is not None
    assert [note for note in statistics.notes if "decided" in note.split()] == [
        "a decided 4 of 4 votes before the clips had ended."
    ]


def test_skipped_pairs_only_leave_nothing_to_compare() -> None:
    rows = rows_of([("a", "p", "none", "skip")])
    statistics = summarize_votes(rows)
    assert statistics is not None
    assert (statistics.win_rates, statistics.without_strengths) == ([], "every pair was skipped")
    assert (statistics.raters[0].votes, statistics.raters[0].skipped) == (0, 1)
    assert compare_rows(rows).p is None
    assert summarize_votes([]) is None
