"""Families in their pipelines, with the pipeline's classifier-free guidance on and off."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers.more_pipelines import BROKEN, MORE_CASES, REFUSED, in_release
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_pipelines import CASES, Case, name_of
from vidguide import CFG, NAG, attach, guide
from vidguide.transformer.family import families

BRANCHES = [
    pytest.param(case, cfg_on, id=f"{name_of(case)}-{'cfg' if cfg_on else 'no cfg'}")
    for case in CASES + MORE_CASES
    for cfg_on in ((True, False) if case.has_cfg else (False,))
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("case", "cfg_on"), BRANCHES)
def test_only_the_conditional_branch_is_guided(case: Case, cfg_on: bool) -> None:
    """The prompt as negative prompt has no effect, though the unconditional branch has another text."""
    pipe = case.pipe(cfg_on)
    unguided = case.sample(pipe, cfg_on)
    prompt_as_negative = case.sample(pipe, cfg_on, NAG(negative_prompt_embeds=case.text_inputs(2)))
    guided = case.sample(pipe, cfg_on, NAG(negative_prompt_embeds=case.text_inputs(5)))
    torch.testing.assert_close(prompt_as_negative, unguided, atol=1e-4, rtol=1e-3)
    assert guided.isfinite().all()
    assert (guided - unguided).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["HunyuanVideoPipeline", "Kandinsky5T2VPipeline", "CogVideoXPipeline"])
def test_cfg_of_pipeline_and_vidguide_at_once_raises(name: str) -> None:
    """Also for pipelines without a flag for CFG: detected by the second call of a step, or by guidance_scale."""
    case = next(case for case in CASES if case.pipeline == name)
    cfg = CFG(negative_prompt_embeds=BY_NAME[case.tiny].text(1, 7, 5))
    with pytest.raises(ValueError, match="CFG is in the list"):
        case.sample(case.pipe(True), True, cfg)
    assert case.sample(case.pipe(False), False, cfg).isfinite().all()


OTHER_CFG = {"CosmosVideoToWorldPipeline"}  # draws other noise for the conditioning frames of its unconditional call
SAME_CFG = [
    pytest.param(case, id=name_of(case), marks=() if case in CASES else pytest.mark.slow)
    for case in CASES + MORE_CASES
    if case.has_cfg
    and "use_dynamic_cfg" not in case.call
    and case.pipeline not in OTHER_CFG
    and families()[case.model.key].reads_cache is None  # others have no CFG of ours
]


@pytest.mark.parametrize("case", SAME_CFG)
def test_cfg_equals_the_pipelines_cfg(case: Case) -> None:
    """Computed in float64, except the latents (magnitude up to 80), which most pipelines keep in float32.

    Pipelines with dynamic scales, and those with a key-value cache, are excluded.
    """
    pipeline_cfg = case.exact(True, **case.cfg_only)
    vidguide_cfg = case.exact(False, CFG(scale=3.0, negative_prompt_embeds=case.text_inputs(6)))
    unguided = case.exact(False)
    torch.testing.assert_close(vidguide_cfg, pipeline_cfg, atol=2e-5, rtol=0)
    assert (pipeline_cfg - unguided).abs().max() > 1e-3


@pytest.mark.skipif(not in_release(REFUSED), reason="not in this release")
@pytest.mark.parametrize("start", [attach, lambda pipe, guidance: guide(pipe, guidance).__enter__()])
def test_cosmos_transfer_is_refused(start: Callable[..., Any]) -> None:
    pipe = REFUSED.pipe(False)
    with pytest.raises(LookupError, match="a pair of text and image context"):
        start(pipe, NAG())
    assert type(pipe) is REFUSED.pipeline_class


def test_a_pipeline_that_fails_without_guidances_too() -> None:
    """EasyAnimate's control pipeline calls its `encode_prompt` with an argument that it lacks (diffusers 0.42)."""
    with pytest.raises(TypeError, match="text_encoder_index"):
        BROKEN.pipe(False)(**BROKEN.call, **BROKEN.text(BROKEN.text_inputs(2)))
