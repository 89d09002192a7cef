"""Families through their own pipelines, with their own classifier-free guidance on and off."""

import pytest
import torch

from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_pipelines import CASES, Case, name_of
from vidguide import CFG, NAG


@pytest.mark.parametrize("on", [True, False], ids=["cfg", "no cfg"])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_conditional_branch_alone_is_guided(case: Case, on: bool) -> None:
    """With the prompt for a negative nothing changes, though it is another text than the unconditional branch's."""
    pipe = case.pipe(on)
    plain = case.sample(pipe, on)
    same = case.sample(pipe, on, NAG(negative_prompt_embeds=case.words(2)))
    other = case.sample(pipe, on, NAG(negative_prompt_embeds=case.words(5)))
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-3)
    assert other.isfinite().all()
    assert (other - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["HunyuanVideoPipeline", "Kandinsky5T2VPipeline", "CogVideoXPipeline"])
def test_two_classifier_free_guidances_at_once_are_refused(name: str) -> None:
    """Also where the pipeline does not say whether it guides: by its second call, or by the scale it begins with."""
    case = next(case for case in CASES if case.pipeline == name)
    own = CFG(negative_prompt_embeds=BY_NAME[case.tiny].text(1, 7, 5))
    with pytest.raises(ValueError, match="CFG is in the list"):
        case.sample(case.pipe(True), True, own)
    assert case.sample(case.pipe(False), False, own).isfinite().all()


PLAIN = [case for case in CASES if "use_dynamic_cfg" not in case.call]


@pytest.mark.parametrize("case", PLAIN, ids=name_of)
def test_our_classifier_free_guidance_is_the_pipelines_own(case: Case) -> None:
    """In the dtype of comparisons, but for the latents, up to 20 here, which most pipelines keep in float32. Dynamic
    scales are the pipeline's affair."""
    own = case.exact(True, **case.alone)
    ours = case.exact(False, CFG(scale=3.0, negative_prompt_embeds=case.words(6)))
    plain = case.exact(False)
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=0)
    assert (own - plain).abs().max() > 1e-3
