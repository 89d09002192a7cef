from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, wilcoxon

from vidguide.eval.scoring.statistics import compare_pairs, estimate, holm, noise_floor, p_value, wilson, win_rate
from vidguide.eval.scoring.verdict import compare


def rows(arm: str, **metrics: Sequence[float | None]) -> list[dict[str, Any]]:
    """Return result rows, one prompt per value; None is a failed clip."""
    return [
        dict(metric=name, status="failed" if value is None else "ok", value=value, prompt_id=f"p{index}", seed=0)
        | dict(clip=f"{arm}/{index}")
        for name, values in metrics.items()
        for index, value in enumerate(values)
    ]


def test_seeds_are_averaged_within_prompts() -> None:
    reference: dict[tuple[str, object], float] = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 5.0}
    other: dict[tuple[str, object], float] = {("a", 0): 2.0, ("a", 1): 6.0, ("b", 0): 5.0, ("c", 0): 9.0}
    result = compare_pairs(reference, other)
    assert result.by_prompt == {"a": (2.0, 4.0), "b": (5.0, 5.0)}
    assert (result.reference, result.other, result.difference.mean) == (3.5, 4.5, 1.0)
    assert (result.pairs, result.unpaired, result.difference.prompts) == (3, 1, 2)


def test_seeds_of_one_prompt_have_no_interval() -> None:
    reference: dict[tuple[str, object], float] = {("a", seed): 0.0 for seed in range(50)}
    result = compare_pairs(reference, dict.fromkeys(reference, 1.0))
    assert result.difference.low is None
    assert result.p is None


def test_interval_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(120):
        result = estimate(random.normal(0.3, 1, 40).tolist())
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.3 <= result.high
    assert covered / 120 == pytest.approx(0.95, abs=0.06)


def test_estimate_of_few_or_equal_values() -> None:
    assert estimate([]).mean is None
    assert estimate([2.0]).low is None
    assert (estimate([2.0, 2.0]).low, estimate([0.0, 0.0]).high) == (2.0, 0.0)
    assert estimate([1.0, 2.0, 4.0]) == estimate([1.0, 2.0, 4.0])


def test_interval_equals_scipys() -> None:
    values = np.random.default_rng(2).exponential(1, 50)
    for method in ("BCa", "percentile"):
        expected = bootstrap((values,), np.mean, n_resamples=2000, method=method, rng=np.random.default_rng(0))
        result = estimate(values.tolist(), method=method, resamples=2000)
        assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval))


def test_p_values_are_exact_for_few_and_close_to_wilcoxon_for_many() -> None:
    assert p_value([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert p_value([0.0, 0.0]) == 1
    assert p_value([1.0]) is None
    differences = np.random.default_rng(1).normal(0.3, 1, 80)
    assert p_value(differences.tolist()) == pytest.approx(wilcoxon(differences).pvalue, abs=0.02)


@pytest.mark.parametrize(("won", "count"), [(0, 5), (30, 50), (60, 100), (7, 7)])
def test_wilson_equals_scipys_for_integers(won: int, count: int) -> None:
    interval = binomtest(won, count).proportion_ci(method="wilson")
    assert wilson(won, count) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_ties_count_as_half_a_win() -> None:
    result = win_rate([1.0, 0.0, -1.0, 2.0], 1)
    assert result is not None
    assert result[0] == pytest.approx(2.5 / 4)
    assert win_rate([1.0, 0.0, -1.0, 2.0], -1) != result
    assert win_rate([], 1) is None


def test_holm_on_an_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}


def test_noise_floor_is_the_interval_bound_of_a_repetition() -> None:
    first: dict[tuple[str, object], float] = {(f"p{i}", 0): float(i) for i in range(20)}
    assert noise_floor(first, first) == 0
    again = {key: value + (0.1 if index % 2 else -0.1) for index, (key, value) in enumerate(first.items())}
    assert noise_floor(first, again) == pytest.approx(0.04, abs=0.02)


NOISE = np.random.default_rng(0).normal(0, 0.01, 30)


def verdicts(**changes: tuple[float, float]) -> dict[str, str]:
    """Return the verdict per metric, for (reference value, other value) with noise on 30 prompts."""
    names = {name: name.replace("__", ".") for name in changes}
    left = rows("a", **{names[name]: (a + 0 * NOISE).tolist() for name, (a, _) in changes.items()})
    right = rows("b", **{names[name]: (b * (1 + NOISE)).tolist() for name, (_, b) in changes.items()})
    return {line.metric: line.verdict for line in compare(left, right, ("a", "b")).lines}


def test_improvement_with_a_degraded_guard_is_confounded() -> None:
    moved = verdicts(temporal__warp_error=(0.01, 0.005), guard__motion=(6, 6), guard__detail=(50, 50))
    assert moved["temporal.warp_error"] == "better"
    still = verdicts(temporal__warp_error=(0.01, 0.005), guard__motion=(6, 5), guard__detail=(50, 40))
    assert still["temporal.warp_error"] == "confounded: less motion, less sharpness"
    frozen = verdicts(vbench__temporal_flickering=(0.9, 0.95), guard__frozen_share=(0.1, 0.2))
    assert frozen["vbench.temporal_flickering"] == "confounded: more frozen frames"
    destroyed = verdicts(world__negative_present=(0.9, 0.1), world__well_formed=(1, 0.5))
    assert destroyed["world.negative_present"] == "confounded: fewer well-formed clips"


def test_verdicts_without_a_violated_guard() -> None:
    assert verdicts(temporal__warp_error=(0.01, 0.02))["temporal.warp_error"] == "worse"
    assert verdicts(temporal__flow_jerk=(1.0, 1.0))["temporal.flow_jerk"] == "inconclusive"
    assert verdicts(guard__motion=(1.0, 0.5))["guard.motion"] == "lower"
    assert verdicts(world__colour=(0.5, 0.9))["world.colour"] == "better, exploratory"


def test_failed_clips_drop_their_pair_and_are_counted() -> None:
    result = compare(
        rows("a", temporal__x=[], **{"temporal.warp_error": [1.0, 2.0, None]}),
        rows("b", **{"temporal.warp_error": [1.0, None, 3.0]}),
        ("a", "b"),
    )
    assert result.failed == {"a": 1, "b": 1}
    assert result.lines[0].paired.pairs == 1
    assert result.lines[0].verdict == "one prompt only: nothing can be said"
    assert any("Smoke test" in note for note in result.notes)
    assert any("1 clip of b" in note for note in result.notes)


def test_effect_below_the_noise_floor() -> None:
    base = {"temporal.warp_error": [0.010, 0.011, 0.012, 0.010]}
    better = {"temporal.warp_error": [0.009, 0.010, 0.011, 0.009]}
    again = {"temporal.warp_error": [0.012, 0.009, 0.014, 0.013]}
    result = compare(rows("a", **base), rows("b", **better), ("a", "b"), again=rows("a2", **again))
    assert result.lines[0].verdict == "within the noise floor"
    assert not any("noise floor" in note for note in result.notes)


def test_arm_compared_with_itself_is_inconclusive() -> None:
    values = {"temporal.warp_error": np.random.default_rng(5).random(40).tolist()}
    result = compare(rows("a", **values), rows("a", **values), ("a", "again"))
    assert result.lines[0].verdict == "inconclusive"
    doubled = rows("a", **values) + [{**row, "clip": "other"} for row in rows("a", **values)[:1]]
    assert any("same prompt and seed as another" in note for note in compare(doubled, doubled, ("a", "b")).notes)
    with pytest.raises(ValueError, match="primary='fvd'"):
        compare([], [], ("a", "b"), primary=["fvd"])
