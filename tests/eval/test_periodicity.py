"""Loops and boomerangs, on clips in which the repeated frames are known."""

from typing import Any

import numpy as np
import pytest

from tests.helpers import known_clips as clips
from tests.helpers.attacks import SCENES, added_noise
from vidguide.clip import Clip
from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import Value
from vidguide.eval.metrics.periodicity import find_repetitions, frame_distances
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.report.tables import describe_repetition
from vidguide.eval.world.scene import render

FRAMES = clips.translation(frames=24).frames


def measured(frames: np.ndarray) -> Value:
    return METRICS["temporal.periodicity"](Sample(Clip(frames=np.ascontiguousarray(frames), fps=8)))


def repetition(kind: str, first: int, last: int, **numbers: int) -> dict[str, Any]:
    return {"kind": kind, "first": first, "last": last, "period": 0, "turn": 0, **numbers}


@pytest.mark.parametrize("sigma", [0, 1, 6])
@pytest.mark.parametrize("period", [3, 5, 11])
def test_loop_is_named_with_its_period_and_frames(period: int, sigma: float) -> None:
    result = measured(added_noise(sigma)(FRAMES[np.arange(24) % period]))
    assert result.value == pytest.approx((24 - period) / 24)
    assert result.per_frame == [0.0] * period + [1.0] * (24 - period)
    assert result.details["repetitions"] == [repetition("loop", period, 23, period=period)]


@pytest.mark.parametrize(("half", "tail"), [(12, 11), (12, 12), (8, 4)])
def test_boomerang_is_named_with_its_turning_point(half: int, tail: int) -> None:
    """The last frame of the first half is shown once (11) or twice (12, 4)."""
    order = [*range(half), *range(half - 1 - (tail == 11), -1, -1)][: half + tail]
    result = measured(FRAMES[order])
    turn = 2 * half - 1 - (tail == 11)
    expected = repetition("boomerang", half, half + tail - 1, turn=turn)
    assert result.details["repetitions"] == [expected]
    assert result.value == pytest.approx(tail / len(order))


def test_repeated_boomerang_is_a_loop_and_a_boomerang() -> None:
    order = [*range(8), *range(6, 0, -1)] * 2
    result = measured(FRAMES[order])
    kinds = {event["kind"] for event in result.details["repetitions"]}
    assert kinds == {"loop", "boomerang"}
    assert result.value == pytest.approx((len(order) - 8) / len(order))


def test_loop_of_a_part_and_repeated_section_name_only_their_frames() -> None:
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 5, 6, 10, 11, 12]
    result = measured(FRAMES[order])
    assert result.details["repetitions"] == [repetition("loop", 10, 13, period=7)]
    assert result.value == pytest.approx(4 / 17)


@pytest.mark.parametrize(
    "order",
    [
        range(24),
        range(23, -1, -1),
        np.arange(24) // 2,
        np.arange(24) * 2 // 3,
        [*range(12), *[12] * 12],
        [*range(8), 0, *range(8, 16)],
        [*range(8), 0, 1, *range(8, 16)],
    ],
    ids=["forward", "backward", "twice", "two thirds", "frozen", "one frame", "two frames"],
)
def test_motion_in_one_direction_duplicates_and_single_returns_do_not_repeat(order: Any) -> None:
    assert measured(FRAMES[list(order)]).value == 0


@pytest.mark.parametrize("clip", [clips.noisy(12), clips.jittered(2, frames=24), clips.fade(5), clips.duplicated()])
def test_noise_shake_and_fades_do_not_repeat(clip: Clip) -> None:
    assert measured(clip.frames).value == 0
    only_noise = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    assert measured(only_noise).value == 0


def test_slow_motion_does_not_repeat() -> None:
    position = np.arange(24) / 3
    first, share = position.astype(int), (position % 1)[:, None, None, None]
    slow = (FRAMES[first] * (1 - share) + FRAMES[first + 1] * share).round().astype(np.uint8)
    assert measured(slow).value == 0


def test_small_object_of_the_world_repeats_and_a_pendulum_counts() -> None:
    frames = render(SCENES[3], np.random.default_rng(0))
    assert measured(frames).value == 0
    assert measured(frames[np.arange(13) % 4]).value == pytest.approx(9 / 13)
    swing = np.round(12 * np.sin(2 * np.pi * np.arange(24) / 12)).astype(int) + 12
    assert float(measured(FRAMES[np.clip(swing, 0, 23)]).value or 0) > 0.4


def test_value_does_not_depend_on_contrast_or_size() -> None:
    frames = FRAMES[np.arange(24) % 7]
    for changed in (frames // 2 + 60, frames.repeat(3, 1).repeat(3, 2), frames[:, :, ::-1]):
        assert measured(changed).value == measured(frames).value


def test_still_clip_has_no_value() -> None:
    result = measured(clips.constant().frames)
    assert result.value is None
    assert "nothing can repeat" in str(result.reason)
    with pytest.raises(UndefinedError, match="0 levels squared"):
        find_repetitions(np.zeros((8, 8)))
    assert "needs 6" in str(measured(FRAMES[:5]).reason)


@pytest.mark.parametrize("shape", [(9, 40, 52), (7, 64, 90)])
def test_distances_equal_the_plain_loop(shape: tuple[int, int, int]) -> None:
    frames = np.random.default_rng().integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = [[((a.astype(float) - b.astype(float)) ** 2).mean() for b in frames] for a in frames]
    np.testing.assert_allclose(frame_distances(frames), expected, rtol=1e-12, atol=1e-9)


def test_runs_equal_a_plain_search() -> None:
    """Compare with a loop over all periods and turning points, on random sequences of few different pictures."""
    random = np.random.default_rng()
    for _ in range(40):
        order = random.integers(0, 5, random.integers(8, 20))
        distances = (order[:, None] != order[None]) * 4.0
        if np.percentile(np.diag(distances, 1), 75) == 0:
            continue
        _, repeated = find_repetitions(distances)
        assert repeated.tolist() == plainly_repeated(order.tolist())


def plainly_repeated(order: list[int]) -> list[bool]:
    count = len(order)
    repeated = [False] * count
    lines = [[(t - period, t) for t in range(period, count)] for period in range(2, count)]
    lines += [[(turn - t, t) for t in range(count) if 0 <= turn - t < t] for turn in range(2, 2 * count - 3)]
    for line in lines:
        run: list[tuple[int, int]] = []
        for i, j in [*line, (-1, -1)]:
            if i >= 0 and order[i] == order[j]:
                run.append((i, j))
                continue
            returns = [any(order[s] != order[a] for s in range(a + 1, b)) for a, b in run]
            if sum(returns) >= 3:
                for _, b in run:
                    repeated[b] = True
            run = []
    return repeated


def test_repetitions_are_described_with_both_ends() -> None:
    loop, turn = repetition("loop", 5, 15, period=5), repetition("boomerang", 8, 15, turn=15)
    assert describe_repetition(loop) == "loop: frames 5 to 15 repeat 0 to 10"
    assert describe_repetition(turn) == "boomerang: frames 8 to 15 repeat 7 to 0"
