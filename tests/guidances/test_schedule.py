"""Windows of steps, against exact fractions."""

import math
from fractions import Fraction

import pytest

from tests.helpers.sampling import sample
from tests.helpers.tiny_wan import tiny_wan, wan_inputs
from vidguide import EMAG, NAG
from vidguide.guidances.schedule import in_window


@pytest.mark.parametrize(("steps", "first", "last"), [(28, 5, 22), (250, 50, 199)])
def test_emags_default_window_equals_the_published_one(steps: int, first: int, last: int) -> None:
    emag = EMAG()
    assert [step for step in range(steps) if in_window(step, steps, emag.start, emag.stop)] == list(
        range(first, last + 1)
    )


def test_a_window_contains_the_steps_that_overlap_it() -> None:
    for steps in (1, 3, 7, 28, 100):
        for start in range(0, 100, 3):
            for stop in range(start + 1, 101, 7):
                exact = Fraction(start, 100), Fraction(stop, 100)
                within = range(math.floor(exact[0] * steps), math.ceil(exact[1] * steps))
                steps_in_window = [step for step in range(steps) if in_window(step, steps, start / 100, stop / 100)]
                assert steps_in_window == list(within), (steps, start, stop)


def test_adjacent_windows_cover_every_step() -> None:
    for steps in range(1, 60):
        for edge in (0.1, 0.2, 0.29, 1 / 3, 0.7):
            before, after = NAG(negative_prompt="red", stop=edge), NAG(negative_prompt="red", start=edge)
            assert all(before.active(step, steps) or after.active(step, steps) for step in range(steps))


def test_perturbed_passes_of_28_steps_are_in_the_published_window() -> None:
    inputs = [wan_inputs()] * 28
    run = sample(tiny_wan(), inputs, EMAG())[1]
    assert [choice.step for choice in run.trace.choices] == list(range(5, 23))
