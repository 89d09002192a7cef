from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vidguide.eval.scoring.statistics import (
    benjamini_hochberg,
    compare_pairs,
    estimate,
    estimate_difference,
    holm,
    noise_floor,
    win_rate,
)
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


def test_measured_values_have_an_interval_from_six_prompts_on() -> None:
    assert estimate([]).mean is None
    values = [1.0, 2.0, 4.0, 4.5, 5.0, 7.0]
    assert (estimate(values[:5]).mean, estimate(values[:5]).low) == (3.3, None)
    assert (estimate(values).low, estimate(values).high) == (1, 7)  # of 64 sign patterns only the observed is rejected
    assert estimate(values) == estimate(values)


def test_equal_values_have_an_interval_above_zero_width_or_none() -> None:
    assert estimate([2.0] * 20).low is None
    right = estimate([1.0] * 20, (0, 1))
    low = 0.025 ** (1 / 20)
    assert (right.low, right.high) == pytest.approx((low, 1))
    half = estimate([0.5] * 20, (0, 1))
    assert (half.low, half.high) == pytest.approx((0.5 * low, 1 - 0.5 * low))
    unchanged, p = estimate_difference([0.0] * 20)
    assert p == 1
    assert (unchanged.low, unchanged.high) == pytest.approx((0.025 ** (1 / 20) - 1, 1 - 0.025 ** (1 / 20)))


def test_shares_of_any_range_have_the_interval_of_a_share() -> None:
    plain = estimate([1.0, 0.0, 1.0, 1.0, 0.0], (0, 1))
    scaled = estimate([7.0, 3.0, 7.0, 7.0, 3.0], (3, 7))
    assert plain.low is not None
    assert plain.high is not None
    assert (scaled.low, scaled.high) == pytest.approx((3 + 4 * plain.low, 3 + 4 * plain.high))


def test_ties_count_as_half_a_win() -> None:
    result = win_rate([1.0, 0.0, -1.0, 2.0], 1)
    assert result is not None
    assert result[0] == pytest.approx(2.5 / 4)
    assert win_rate([1.0, 0.0, -1.0, 2.0], -1) != result
    assert win_rate([], 1) is None


def test_holm_on_an_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}


def test_benjamini_hochberg_on_an_example() -> None:
    corrected = benjamini_hochberg({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert corrected == pytest.approx({"a": 0.04, "c": 0.04 * 4 / 3, "b": 0.04 * 4 / 3, "d": 0.5})
    assert benjamini_hochberg({}) == {}


def test_noise_floor_is_the_interval_bound_of_a_repetition() -> None:
    first: dict[tuple[str, object], float] = {(f"p{i}", 0): float(i) for i in range(20)}
    assert noise_floor(first, first) == 0
    again = {key: value + (0.1 if index % 2 else -0.1) for index, (key, value) in enumerate(first.items())}
    assert noise_floor(first, again) == pytest.approx(0.045, abs=0.02)


LEVEL, NOISE = np.random.default_rng(0).lognormal(0, 0.3, 30), np.random.default_rng(1).normal(0, 0.02, (2, 30))


def verdicts(**changes: tuple[float, float]) -> dict[str, str]:
    """Return the verdict per metric, for (reference value, other value) with levels and noise of 30 prompts."""
    names = {name: name.replace("__", ".") for name in changes}
    left = rows("a", **{names[name]: (a * LEVEL).tolist() for name, (a, _) in changes.items()})
    right = rows("b", **{names[name]: (b * LEVEL * (1 + NOISE[0])).tolist() for name, (_, b) in changes.items()})
    return {line.metric: line.verdict for line in compare(left, right, ("a", "b")).lines}


def test_improvement_with_a_degraded_guard_is_confounded() -> None:
    moved = verdicts(temporal__warp_error=(0.01, 0.005), guard__motion=(6, 6), guard__detail=(50, 50))
    assert moved["temporal.warp_error"] == "better"
    still = verdicts(temporal__warp_error=(0.01, 0.005), guard__motion=(6, 5), guard__detail=(50, 40))
    assert still["temporal.warp_error"] == "confounded: less motion, less sharpness"
    frozen = verdicts(vbench__temporal_flickering=(0.4, 0.6), guard__frozen_share=(0.1, 0.3))
    assert frozen["vbench.temporal_flickering"] == "confounded: more frozen frames"


def guarded(well_formed: tuple[Sequence[float], Sequence[float]]) -> str:
    """Return the verdict on an improvement by half, with a guard of yes-or-no values."""
    count = len(well_formed[0])
    levels = np.random.default_rng(2).lognormal(0, 0.3, count)
    left = rows("a", **{"temporal.warp_error": levels.tolist(), "world.well_formed": well_formed[0]})
    right = rows("b", **{"temporal.warp_error": (0.5 * levels).tolist(), "world.well_formed": well_formed[1]})
    return {line.metric: line.verdict for line in compare(left, right, ("a", "b")).lines}["temporal.warp_error"]


def test_guard_that_may_have_degraded_is_undecided_with_the_number_of_prompts() -> None:
    assert guarded(([1.0] * 20, [1.0] * 20)) == (
        "better, guard undecided: fewer well-formed clips (about 72 prompts needed)"
    )
    assert guarded(([1.0] * 71, [1.0] * 71)).startswith("better, guard undecided")
    assert guarded(([1.0] * 72, [1.0] * 72)) == "better"
    assert guarded(([1.0] * 20, [1.0] * 10 + [0.0] * 10)) == "confounded: fewer well-formed clips"
    some = guarded(([1.0] * 20, [1.0] * 18 + [0.0] * 2))
    assert "more than 10000" not in some
    assert int(some.split("about ")[1].split()[0]) > 72


def test_verdicts_without_a_violated_guard() -> None:
    assert verdicts(temporal__warp_error=(0.01, 0.02))["temporal.warp_error"] == "worse"
    assert verdicts(temporal__flow_jerk=(1.0, 1.0))["temporal.flow_jerk"] == "inconclusive"
    assert verdicts(guard__motion=(1.0, 0.5))["guard.motion"] == "lower"
    assert verdicts(world__colour=(0.2, 0.4))["world.colour"] == "better, exploratory"


def test_too_few_prompts_for_significance_are_stated() -> None:
    values = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]
    for count, expected in ((5, "too few prompts: p < 0.05 needs 6"), (6, "better")):
        left, right = values[:count], [0.5 * value for value in values[:count]]
        result = compare(
            rows("a", **{"temporal.warp_error": left}), rows("b", **{"temporal.warp_error": right}), ("a", "b")
        )
        assert result.lines[0].verdict == expected
        assert any("No difference can be significant" in note for note in result.notes) == (count == 5)
    three = dict.fromkeys(("temporal.warp_error", "world.attributes", "world.negative_present"), values[:6])
    half = {name: [0.5 * value for value in column] for name, column in three.items()}
    lines = compare(rows("a", **three), rows("b", **half), ("a", "b")).lines
    assert {line.verdict for line in lines} == {"too few prompts: p < 0.05 needs 7"}  # corrected for three


def test_exploratory_metrics_are_corrected_for_their_number() -> None:
    random = np.random.default_rng(4)
    names = ("world.colour", "world.shape", "world.size", "world.motion", "temporal.flow_jerk", "guard.sharpness")
    left = {name: random.random(12).tolist() for name in names}
    right = {name: random.random(12).tolist() for name in names}
    lines = compare(rows("a", **left), rows("b", **right), ("a", "b")).lines
    p_values = {line.metric: line.paired.p for line in lines if line.paired.p is not None}
    assert len(p_values) == len(names)
    assert {line.metric: line.p_corrected for line in lines} == pytest.approx(benjamini_hochberg(p_values))


def test_clips_of_different_length_size_or_rate_are_not_compared() -> None:
    values = {"temporal.warp_error": np.random.default_rng(5).random(12).tolist()}
    half = {"temporal.warp_error": [0.5 * value for value in values["temporal.warp_error"]]}
    shape = dict(frames=16, height=64, width=96, fps=8.0)
    left = [{**row, **shape} for row in rows("a", **values)]
    for change, words in (
        ({"frames": 15}, "length: 12 of 12 pairs, the first 16 and 15 frames"),
        ({"width": 64}, "frame size: 12 of 12 pairs, the first 96 x 64 and 64 x 64 pixels"),
        ({"fps": 16.0}, "frame rate: 12 of 12 pairs, the first 8 and 16 per second"),
    ):
        result = compare(left, [{**row, **shape, **change} for row in rows("b", **half)], ("a", "b"))
        assert result.lines[0].verdict == f"not comparable: the clips differ in {words.partition(':')[0]}"
        assert any(words in note for note in result.notes)
    equal = compare(left, [{**row, **shape, "fps": 7.98} for row in rows("b", **half)], ("a", "b"))
    assert equal.lines[0].verdict == "better"


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
    base = {"temporal.warp_error": [0.010, 0.011, 0.012, 0.010] * 2}
    better = {"temporal.warp_error": [0.009, 0.010, 0.011, 0.009] * 2}
    again = {"temporal.warp_error": [0.012, 0.009, 0.014, 0.013] * 2}
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
