"""Guidances that depend on the step raise without a scheduler, before the model runs."""

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import APG, CADS, CFG, EMAG, NAG, PAG, SEG, STG, VSF, CFGZeroStar, guide
from vidguide.guidances.base import Guidance

NEGATIVE = negative_text()
STEP_DEPENDENT: list[Guidance] = [
    EMAG(start=0.0, stop=1.0),
    EMAG(),
    CADS(),
    CFGZeroStar(negative_prompt_embeds=NEGATIVE),
    APG(momentum=-0.5, negative_prompt_embeds=NEGATIVE),
    CFG(scale=lambda progress: 5 - 4 * progress, negative_prompt_embeds=NEGATIVE),
    NAG(negative_prompt_embeds=NEGATIVE, stop=0.5),
    VSF(negative_prompt_embeds=NEGATIVE, start=0.5),
    PAG(start=0.2),
    SEG(stop=0.9),
    STG(start=0.1),
]
STEP_INDEPENDENT: list[Guidance] = [
    NAG(negative_prompt_embeds=NEGATIVE),
    VSF(negative_prompt_embeds=NEGATIVE),
    CFG(negative_prompt_embeds=NEGATIVE),
    APG(negative_prompt_embeds=NEGATIVE),
    CFGZeroStar(negative_prompt_embeds=NEGATIVE, zero_steps=0),
    PAG(),
    SEG(),
    STG(),
    EMAG(scale=1),
    CADS(scale=0),
]


@pytest.mark.parametrize("guidance", STEP_DEPENDENT, ids=lambda guidance: type(guidance).__name__)
def test_step_dependent_guidances_require_a_scheduler(guidance: Guidance) -> None:
    model = tiny_wan()
    with pytest.raises(ValueError, match=rf"{type(guidance).__name__}.*depends on the step.*scheduler="):
        guide(model, guidance).__enter__()
    scheduler = FlowMatchEulerDiscreteScheduler()
    plain, changed = model(**wan_inputs())[0], False
    with guide(model, guidance, scheduler=scheduler):
        scheduler.set_timesteps(10)
        for step, timestep in enumerate(scheduler.timesteps):
            inputs = wan_inputs(seed=step)
            output = model(**inputs)[0]
            scheduler.step(output, timestep, inputs["hidden_states"])
            changed |= not output.equal(tiny_wan()(**inputs)[0])
    assert changed
    assert plain.equal(model(**wan_inputs())[0])


@pytest.mark.parametrize("guidance", STEP_INDEPENDENT, ids=lambda guidance: type(guidance).__name__)
def test_other_guidances_work_without_a_scheduler(guidance: Guidance) -> None:
    model = tiny_wan()
    plain = model(**wan_inputs())[0]
    with guide(model, guidance):
        assert model(**wan_inputs())[0].equal(plain) == guidance.neutral
