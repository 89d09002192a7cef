"""every=k: an extra pass at every k-th guided step, whose difference the steps in between use again."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.helpers.sampling import sample, videos
from tests.helpers.tiny_wan import negative_text, tiny_wan
from vidguide import CFG, EMAG, PAG, SEG, STG, TPG, CFGZeroStar, S2Guidance, guide
from vidguide.functional.cfg import cfg, cfg_zero_star

STEPS = 10
SCALES = [1.0, 2.0, 0.5, 1.5, 0.0, 3.0, 1.0, 0.0, 2.0, 1.0]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def calls() -> list[dict[str, Any]]:
    return videos(STEPS, torch.float64)


def latest(passes: Sequence[int], step: int) -> int:
    """Return the latest step with a pass."""
    return max(one for one in passes if one <= step)


@pytest.mark.parametrize("every", [2, 3, 20])
@pytest.mark.parametrize("kind", [STG, PAG, SEG, TPG, S2Guidance])
def test_steps_in_between_reuse_the_last_difference(kind: Any, every: int) -> None:
    """Against a plain loop over the differences that a pass at every step gives; steps at scale 0 do not count."""
    model, window = tiny_wan().double(), dict(start=0.1, stop=0.9)
    plain = [model(**inputs)[0] for inputs in calls()]
    every_step, _ = sample(model, calls(), kind(scale=1.0, **window))
    differences = [guided - cond for guided, cond in zip(every_step, plain, strict=True)]
    guided, run = sample(model, calls(), kind(scale=SCALES, every=every, **window))
    acting = [step for step in range(1, 9) if SCALES[step]]
    passes = acting[::every]
    assert [choice.step for choice in run.trace.choices] == passes
    assert f"a pass at every {every} guided steps" in " ".join(run.trace.notes)
    for step in range(STEPS):
        expected = plain[step]
        if step in acting:
            expected = expected + SCALES[step] * differences[latest(passes, step)]
        torch.testing.assert_close(guided[step], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("select", "every"),
    [("largest", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("previous", 4), ("all", 3)))],
)
def test_emag_averages_at_every_step_and_reuses_the_last_difference(select: str, every: int) -> None:
    model = tiny_wan().double()
    settings: dict[str, Any] = dict(decay=0.6, layers=(0, 1, 2), select=select, start=0.2, stop=0.9)
    plain = [model(**inputs)[0] for inputs in calls()]
    every_step, _ = sample(model, calls(), EMAG(scale=2.0, **settings))
    differences = [guided - cond for guided, cond in zip(every_step, plain, strict=True)]
    guided, run = sample(model, calls(), EMAG(scale=3.0, every=every, **settings))
    acting = list(range(2, 9))
    passes = acting[::every]
    assert [choice.step for choice in run.trace.choices] == passes
    for step in range(STEPS):
        expected = plain[step] + (2.0 * differences[latest(passes, step)] if step in acting else 0)
        torch.testing.assert_close(guided[step], expected, rtol=0, atol=1e-9)


def rule_of(guidance: CFG, cond: Tensor, uncond: Tensor) -> Tensor:
    """Return the formula of a rule."""
    scale = float(guidance.scale)  # type: ignore[arg-type]
    return (cfg_zero_star if isinstance(guidance, CFGZeroStar) else cfg)(cond, uncond, scale)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("kind", [CFG, CFGZeroStar])
def test_cfg_reuses_the_last_difference(kind: Any, every: int) -> None:
    """A plain loop: u = c - (c' - u') of the latest step with an unconditional call."""
    model, negative = tiny_wan().double(), negative_text(dtype=torch.float64)
    guidance = kind(scale=4.0, every=every, negative_prompt_embeds=negative, start=0.1, stop=0.8)
    guided, run = sample(model, calls(), guidance)
    acting, difference = list(range(1, 8)), torch.zeros(())
    for step, inputs in enumerate(calls()):
        expected = cond = model(**inputs)[0]
        if step in acting:
            if acting.index(step) % every == 0:
                difference = cond - model(**{**inputs, "encoder_hidden_states": negative})[0]
            expected = rule_of(guidance, cond, cond - difference)
        torch.testing.assert_close(guided[step], expected, rtol=0, atol=1e-9)
    assert bool(run.trace.notes) == (every > 1)


class Calls:
    """Number of calls of a model."""

    def __init__(self, model: Any) -> None:
        self.number = 0
        model.blocks[0].register_forward_pre_hook(self.count)

    def count(self, *_: Any) -> None:
        self.number += 1


def test_unconditional_calls_are_left_out() -> None:
    model = tiny_wan()
    counter = Calls(model)
    sample(model, videos(6), CFG(every=3, negative_prompt_embeds=negative_text()))
    assert counter.number == 6 + 2


def test_another_shape_and_another_run_begin_with_a_pass() -> None:
    model, scheduler = tiny_wan(), FlowMatchEulerDiscreteScheduler()
    counter, (first, second) = Calls(model), videos(2)
    longer = {**second, "hidden_states": torch.cat([second["hidden_states"]] * 2, 2)}
    with guide(model, CFG(every=4, negative_prompt_embeds=negative_text()), scheduler=scheduler):
        for _ in range(2):
            scheduler.set_timesteps(8)
            for timestep, inputs, passes in zip(scheduler.timesteps, (first, second, longer), (2, 1, 2), strict=False):
                before = counter.number
                prediction = model(**inputs)[0]
                assert counter.number == before + passes
                scheduler.step(prediction, timestep, prediction)


def test_half_precision_reuses_the_difference_without_loss() -> None:
    """bfloat16 predictions minus a small difference would be the predictions."""
    model = tiny_wan().bfloat16()
    inputs = videos(1, torch.bfloat16) * 2
    text = inputs[0]["encoder_hidden_states"]
    near = text + 0.02 * torch.randn_like(text)
    guidance = CFG(scale=3.0, every=2, negative_prompt_embeds=near)
    (_, second), _ = sample(model, inputs, guidance)
    cond, uncond = model(**inputs[0])[0], model(**{**inputs[0], "encoder_hidden_states": near})[0]
    expected = cond.float() + 2.0 * (cond - uncond).float()
    assert second.dtype == torch.bfloat16
    assert (second.float() - expected).abs().max() <= expected.abs().max() * 2**-7
    assert not torch.equal(second, cond)


@pytest.mark.parametrize("kind", [STG, PAG, SEG, EMAG, CFG])
def test_an_interval_is_a_whole_number_of_at_least_one(kind: Any) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(every=0\): must be at least 1"):
        kind(every=0)
    with pytest.raises(TypeError, match=rf"{kind.__name__}\(every=1.5\): must be a whole number"):
        kind(every=1.5)
    with (
        pytest.raises(ValueError, match="scheduler"),
        guide(tiny_wan(), kind(every=2, **({"negative_prompt_embeds": negative_text()} if kind is CFG else {}))),
    ):
        pass
