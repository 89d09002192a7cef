"""Scale schedules of self-guidances: each step equals the step at that constant scale."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.sampling import ALWAYS, sample, videos
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


def constant_scale_predictions(kind: str, scales: tuple[float, ...], neutral: float) -> list[torch.Tensor]:
    """Return each step of a run at that step's constant scale; of the unguided run if the scale is neutral."""
    runs = {}
    for scale in set(scales):
        guidances = () if scale == neutral else (KINDS[kind](scale),)
        runs[scale] = sample(tiny_wan(), videos(len(scales)), *guidances)[0]
    return [runs[scale][step] for step, scale in enumerate(scales)]


@pytest.mark.parametrize("as_callable", [False, True], ids=["list", "callable"])
@kinds
def test_each_step_has_its_scale_and_neutral_steps_run_no_perturbed_pass(kind: str, as_callable: bool) -> None:
    neutral = 1.0 if kind == "EMAG" else 0.0
    scales = tuple(scale + neutral for scale in SCALES)
    schedule = (lambda progress: scales[round(progress * len(scales))]) if as_callable else list(scales)
    guided, run = sample(tiny_wan(), videos(len(scales)), KINDS[kind](schedule))
    assert all(
        torch.equal(a, b) for a, b in zip(guided, constant_scale_predictions(kind, scales, neutral), strict=True)
    )
    assert [choice.step for choice in run.trace.choices] == [1, 3]


@kinds
def test_a_schedule_of_neutral_scales_is_neutral(kind: str) -> None:
    neutral_scale = 1.0 if kind == "EMAG" else 0.0
    assert KINDS[kind]([neutral_scale, neutral_scale]).neutral
    assert not KINDS[kind]([neutral_scale, 2.0]).neutral


@kinds
def test_invalid_schedules_raise_before_the_first_step(kind: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="has 2 values for a run of 4 steps"):
        sample(tiny_wan(), videos(4), KINDS[kind]([1.5, 2.0]))
    with pytest.raises(ValueError, match="must be at least 0"):
        KINDS[kind]([1.5, -2.0])
    with pytest.raises(ValueError, match=r"scale=-3\.0 at step 0: must be at least 0"):
        sample(tiny_wan(), videos(2), KINDS[kind](lambda progress: -3.0))
    later = KINDS[kind](lambda progress: 2.0 if progress < 0.5 else -3.0)
    with guide(model := tiny_wan(), later, scheduler=scheduler):
        scheduler.set_timesteps(6)
        with pytest.raises(ValueError, match=r"scale=-3\.0 at step 3: must be at least 0"):
            model(**videos(1)[0])
    with pytest.raises(ValueError, match="depends on the step"), guide(tiny_wan(), KINDS[kind]([1.5, 2.0])):
        pass


def test_heads_are_measured_in_a_neutral_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    mass = torch.tensor([[0.9, 0.0], [0.3, 0.3]])  # the first head attends within its frame
    monkeypatch.setattr("vidguide.edits.head_selection.attention_mass", lambda query, *args: mass.expand(2, 2, 2))
    constant, changing = PAG(scale=2, layers=(1,), extent="spatial"), PAG(scale=[0, 2], layers=(1,), extent="spatial")
    constant_scale_predictions, result = (sample(tiny_wan(), videos(2), pag)[0] for pag in (constant, changing))
    assert torch.equal(result[1], constant_scale_predictions[1])
    assert torch.equal(result[0], tiny_wan()(**videos(2)[0])[0])


def test_schedules_of_cfg_and_pag_combine() -> None:
    calls, negative = videos(3), negative_text()
    cfg = CFG(scale=[1, 3, 5], negative_prompt_embeds=negative)
    pag = PAG(scale=[2, 0, 1], layers=(1,))
    together, ruled, corrected, plain = (
        sample(tiny_wan(), calls, *listed)[0] for listed in ((pag, cfg), (cfg,), (pag,), ())
    )
    for both, rule, pag_prediction, c in zip(together, ruled, corrected, plain, strict=True):
        torch.testing.assert_close(both, rule + (pag_prediction - c), atol=1e-5, rtol=0)
