"""Intervals and p-values against the plainest implementation of their definitions, and each other."""

import itertools
import time

import numpy as np
import pytest
from scipy.stats import beta, binomtest, permutation_test, wilcoxon

from vidguide.eval.scoring.intervals import (
    ALPHA,
    SignFlips,
    paired_share_interval,
    paired_share_p_value,
    prompts_for_decision,
    prompts_for_p,
    prompts_for_share,
    share_interval,
    unchanged_bound,
)
from vidguide.eval.scoring.statistics import estimate_difference


def flipped_p_value(values: np.ndarray, mean: float) -> float:
    """Return the share of all sign patterns whose studentised sum is at least as large as the observed one."""
    centred, count = values - mean, len(values)

    def statistic(signed: np.ndarray) -> float:
        with np.errstate(divide="ignore"):
            return float(abs(signed.mean()) / (signed.std(ddof=1) / np.sqrt(count)))

    observed = statistic(centred)
    flips = [statistic(np.array(signs) * centred) for signs in itertools.product((1, -1), repeat=count)]
    return float(np.mean([flip >= observed * (1 - 1e-9) for flip in flips]))


@pytest.mark.parametrize("count", [2, 5, 6, 7, 9])
def test_p_value_is_the_studentised_sign_flip_test(count: int) -> None:
    random = np.random.default_rng(count)
    for values in (random.normal(0.5, 1, count), random.standard_t(3, count), random.integers(-2, 3, count) + 0.5):
        flips = SignFlips(np.asarray(values, float))
        for mean in (0.0, 0.3, float(values.min()), float(values.max()), *random.normal(0, 1, 5)):
            assert flips.p_value(mean) == pytest.approx(flipped_p_value(values, mean), abs=1e-12)


@pytest.mark.parametrize("count", [6, 9, 13, 14, 40])
def test_interval_contains_exactly_the_means_that_are_not_rejected(count: int) -> None:
    random = np.random.default_rng(count)
    for values in (random.normal(0.4, 1, count), random.lognormal(0, 1, count), np.round(random.normal(0, 2, count))):
        flips = SignFlips(values)
        interval = flips.interval()
        assert interval
        step = 1e-9 * np.ptp(values)
        for bound, outwards in zip(interval, (-1, 1), strict=True):
            assert flips.p_value(bound) > ALPHA
            assert flips.p_value(bound + outwards * step) <= ALPHA
        for mean in random.normal(values.mean(), 1, 50):
            assert (flips.p_value(mean) > ALPHA) == (interval[0] <= mean <= interval[1])


def test_many_prompts_agree_with_scipy() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 80)
    assert SignFlips(values).p_value() == pytest.approx(wilcoxon(values).pvalue, abs=0.02)
    sampled = permutation_test((values,), np.mean, permutation_type="samples", rng=np.random.default_rng(0))
    assert SignFlips(values - 0.2).p_value() == pytest.approx(
        permutation_test((values - 0.2,), np.mean, permutation_type="samples", rng=np.random.default_rng(0)).pvalue,
        abs=0.02,
    )
    assert SignFlips(values).p_value() == pytest.approx(sampled.pvalue, abs=0.01)
    few = np.random.default_rng(2).normal(0.3, 1, 12)
    exact = permutation_test((few,), np.mean, permutation_type="samples").pvalue
    assert SignFlips(few).p_value() == pytest.approx(exact, abs=1e-12)


def test_scale_and_sign_of_the_values_do_not_matter() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, 30)
    low, high = SignFlips(values).interval() or (0, 0)
    assert SignFlips(-1e-6 * values).interval() == pytest.approx((-1e-6 * high, -1e-6 * low), rel=0.2)
    assert SignFlips(1e9 * values).interval() == pytest.approx((1e9 * low, 1e9 * high))
    assert SignFlips(np.array([0.3, -0.1, -0.2] * 3)).p_value() == 1  # a sum of 0 but for rounding


def test_five_prompts_have_no_interval_and_cannot_be_significant() -> None:
    for count in range(2, 6):
        assert SignFlips(np.arange(1.0, count + 1)).interval() is None
        assert SignFlips(np.arange(1.0, count + 1)).p_value() == 2 / 2**count
    assert prompts_for_p() == 6
    assert prompts_for_p(3) == 7
    for tests in range(1, 20):
        assert 2 ** (1 - prompts_for_p(tests)) * tests <= ALPHA < 2 ** (2 - prompts_for_p(tests)) * tests


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (0, 12), (5, 5), (30, 50), (199, 200)])
def test_share_interval_is_that_of_clopper_and_pearson(successes: int, count: int) -> None:
    low = beta.ppf(0.025, successes, count - successes + 1) if successes else 0
    high = beta.ppf(0.975, successes + 1, count - successes) if successes < count else 1
    assert share_interval(successes, count) == pytest.approx((low, high), abs=1e-9)


def test_half_successes_have_the_interval_of_both_integers() -> None:
    assert share_interval(2.5, 4) == (share_interval(2, 4)[0], share_interval(3, 4)[1])


def melded_interval(gained: int, lost: int, count: int, draws: int = 400_000) -> tuple[float, float]:
    """Return the interval of Fay and Lumbard 2021 by random draws of its confidence variables."""
    random, changed = np.random.default_rng(0), gained + lost

    def draw(successes: int, failures: int) -> np.ndarray:
        if not successes or not failures:
            return np.full(draws, float(bool(successes)))
        return random.beta(successes, failures, draws)

    def quantile(ups: int, downs: int) -> float:
        product = 2 * draw(ups, downs + 1) - 1
        upper, lower = draw(changed + 1, count - changed), draw(changed, count - changed + 1)
        return float(np.quantile(np.where(product < 0, product * upper, product * lower), 0.025))

    return quantile(gained, lost), -quantile(lost, gained)


@pytest.mark.parametrize(
    ("gained", "lost", "count"),
    [(3, 1, 13), (0, 3, 9), (7, 0, 27), (8, 0, 8), (5, 5, 40), (0, 0, 20), (20, 5, 50), (4, 6, 10)],
)
def test_interval_of_paired_shares_is_that_of_fay_and_lumbard(gained: int, lost: int, count: int) -> None:
    interval = paired_share_interval(gained, lost, count)
    assert interval == pytest.approx(melded_interval(gained, lost, count), abs=4e-3)
    assert -1 <= interval[0] <= (gained - lost) / count <= interval[1] <= 1


def test_interval_of_paired_shares_agrees_with_mcnemar_in_every_table() -> None:
    for count in (5, 13):
        for gained, lost in itertools.product(range(count + 1), repeat=2):
            if gained + lost <= count:
                low, high = paired_share_interval(gained, lost, count)
                p = binomtest(gained, gained + lost).pvalue if gained + lost else 1
                assert paired_share_p_value(gained, lost) == pytest.approx(p)
                assert (p <= ALPHA) == (low > 0 or high < 0)
                assert high - low > 0.01


def test_p_value_of_yes_or_no_differences_is_that_of_sign_flips() -> None:
    for ups, downs, zeros in ((6, 1, 3), (3, 2, 0), (8, 0, 4)):
        values = [1.0] * ups + [-1.0] * downs + [0.0] * zeros
        assert estimate_difference(values)[1] == pytest.approx(SignFlips(np.array(values)).p_value())


def test_numbers_of_prompts() -> None:
    assert unchanged_bound(prompts_for_share(0.05)) < 0.05 < unchanged_bound(prompts_for_share(0.05) - 1)
    assert prompts_for_share(1.0) == 1
    values = np.random.default_rng(0).normal(1, 2, 4000)
    assert prompts_for_decision(values.tolist()) == pytest.approx((1.96 + 0.8416) ** 2 * 4, rel=0.1)
    assert prompts_for_decision([1.0, -1.0]) == np.inf


def test_two_hundred_prompts_take_well_under_a_second() -> None:
    values = np.random.default_rng(0).normal(size=200)
    started = time.process_time()
    SignFlips(values).interval()
    assert time.process_time() - started < 0.5
