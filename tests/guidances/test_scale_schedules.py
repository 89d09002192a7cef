"""Scales of self-guidances that change over a run: each step is that of the constant scale it has."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.sampling import ALWAYS, sampled, videos
from tests.helpers.tiny_wan import negative_text, tiny_wan
from vidguide import CFG, EMAG, PAG, SEG, STG, TPG, S2Guidance, guide

SCALES = (0, 2.5, 0.0, 1.0)
KINDS: dict[str, Any] = {
    "PAG": lambda scale: PAG(scale=scale, layers=(1,)),
    "STG": lambda scale: STG(scale=scale, layers=(1,)),
    "STG, attention": lambda scale: STG(scale=scale, mode="attention", layers=(1,)),
    "SEG": lambda scale: SEG(scale=scale, layers=(2,), sigma=1.0),
    "TPG": lambda scale: TPG(scale=scale, layers=(1,)),
    "S2Guidance": lambda scale: S2Guidance(scale=scale),
    "EMAG": lambda scale: EMAG(scale=scale, decay=0.5, select=(1,), **ALWAYS),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def expected(kind: str, scales: tuple[float, ...], off: float) -> list[torch.Tensor]:
    """Each step of a run at that step's scale throughout; of the unguided run where that is off."""
    runs = {}
    for scale in set(scales):
        guidances = () if scale == off else (KINDS[kind](scale),)
        runs[scale] = sampled(tiny_wan(), videos(len(scales)), *guidances)[0]
    return [runs[scale][step] for step, scale in enumerate(scales)]


@pytest.mark.parametrize("as_callable", [False, True], ids=["list", "callable"])
@kinds
def test_each_step_has_its_scale_and_steps_that_are_off_make_no_second_pass(kind: str, as_callable: bool) -> None:
    off = 1.0 if kind == "EMAG" else 0.0
    scales = tuple(scale + off for scale in SCALES)
    schedule = (lambda progress: scales[round(progress * len(scales))]) if as_callable else list(scales)
    guided, run = sampled(tiny_wan(), videos(len(scales)), KINDS[kind](schedule))
    assert all(torch.equal(a, b) for a, b in zip(guided, expected(kind, scales, off), strict=True))
    assert [choice.step for choice in run.trace.choices] == [1, 3]


@kinds
def test_a_schedule_that_is_off_throughout_is_neutral(kind: str) -> None:
    off = 1.0 if kind == "EMAG" else 0.0
    assert KINDS[kind]([off, off]).neutral
    assert not KINDS[kind]([off, 2.0]).neutral


@kinds
def test_lengths_and_values_are_checked_before_the_first_step(kind: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="has 2 values for a run of 4 steps"):
        sampled(tiny_wan(), videos(4), KINDS[kind]([1.5, 2.0]))
    with pytest.raises(ValueError, match="must be at least 0"):
        KINDS[kind]([1.5, -2.0])
    with pytest.raises(ValueError, match=r"scale=-3\.0 at step 0: must be at least 0"):
        sampled(tiny_wan(), videos(2), KINDS[kind](lambda progress: -3.0))
    later = KINDS[kind](lambda progress: 2.0 if progress < 0.5 else -3.0)
    with guide(model := tiny_wan(), later, scheduler=scheduler):
        scheduler.set_timesteps(6)
        with pytest.raises(ValueError, match=r"scale=-3\.0 at step 3: must be at least 0"):
            model(**videos(1)[0])
    with pytest.raises(ValueError, match="depends on the step"), guide(tiny_wan(), KINDS[kind]([1.5, 2.0])):
        pass


def test_heads_are_measured_in_a_first_step_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    mass = torch.tensor([[0.9, 0.0], [0.3, 0.3]])  # the first head attends within its frame
    monkeypatch.setattr("vidguide.edits.head_selection.attention_mass", lambda query, *args: mass)
    constant, changing = PAG(scale=2, layers=(1,), extent="spatial"), PAG(scale=[0, 2], layers=(1,), extent="spatial")
    throughout, later = (sampled(tiny_wan(), videos(2), one)[0] for one in (constant, changing))
    assert torch.equal(later[1], throughout[1])
    assert torch.equal(later[0], tiny_wan()(**videos(2)[0])[0])


def test_schedules_beside_a_schedule_of_cfg() -> None:
    calls, negative = videos(3), negative_text()
    cfg = CFG(scale=[1, 3, 5], negative_prompt_embeds=negative)
    pag = PAG(scale=[2, 0, 1], layers=(1,))
    together, ruled, corrected, plain = (
        sampled(tiny_wan(), calls, *listed)[0] for listed in ((pag, cfg), (cfg,), (pag,), ())
    )
    for both, rule, one, c in zip(together, ruled, corrected, plain, strict=True):
        torch.testing.assert_close(both, rule + (one - c), atol=1e-5, rtol=0)
