"""Every pair of a self-guidance and a CFG rule is the plain formula: run by us, in two calls, and in one batch.

The scheduler leaves the latents as they are, so that every step sees the same ones under every guidance, and what the
pipeline hands to it can be compared step by step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from tests.helpers.tiny_pipelines import CASES, Case
from vidguide import APG, CFG, EMAG, MAMBOG, NAG, PAG, SEG, STG, TCFG, TPG, CFGZeroStar, S2Guidance, guide
from vidguide.functional.cfg import cfg, cfg_zero_star, mambo_g, tcfg
from vidguide.guidances.base import Guidance

STEPS = 3
NAMES = {
    "WanPipeline": "two calls",
    "HunyuanVideoPipeline": "two calls",
    "HunyuanVideo15Pipeline": "a guider",
    "LTXPipeline": "one batch",
    "MochiPipeline": "one batch",
    "CogVideoXPipeline": "one batch, at a scale that changes",
}
USED = {case.pipeline: case for case in CASES if case.pipeline in NAMES}  # of two CogVideoX, the one with dynamic CFG
IN_FLOAT64 = {"WanPipeline", "HunyuanVideoPipeline", "HunyuanVideo15Pipeline"}  # the others combine in float32
PIPELINES = list(USED.values())
LTX2 = next(case for case in CASES if case.pipeline == "LTX2Pipeline")
BY_US = ["WanPipeline", "HunyuanVideoPipeline", "LTXPipeline", "MochiPipeline"]
pipelines = pytest.mark.parametrize("case", PIPELINES, ids=lambda case: f"{case.pipeline}, {NAMES[case.pipeline]}")

SELF_GUIDANCES: dict[str, Callable[[], Guidance]] = {
    "EMAG": lambda: EMAG(scale=4.0, decay=0.5, select=(1,), start=0.0, stop=1.0),
    "PAG": lambda: PAG(scale=2.0, layers=(1,)),
    "SEG": lambda: SEG(scale=2.0, layers=(1,)),
    "TPG": lambda: TPG(scale=0.5, layers=(1,)),
    "S2": lambda: S2Guidance(scale=1.5, layers=(1,)),
    "STG, blocks": lambda: STG(scale=1.5, layers=(1,)),
    "STG, attention": lambda: STG(scale=1.5, mode="attention", layers=(1,)),
}
self_guidances = pytest.mark.parametrize("name", SELF_GUIDANCES)
RULES: dict[str, tuple[type[CFG], Callable[[Tensor, Tensor], Tensor]]] = {
    "CFG": (CFG, lambda cond, uncond: cfg(cond, uncond, 3.0)),
    "CFG-Zero*": (CFGZeroStar, lambda cond, uncond: cfg_zero_star(cond, uncond, 3.0)),
    "TCFG": (TCFG, lambda cond, uncond: tcfg(cond, uncond, 3.0)),
    "MAMBO-G": (MAMBOG, lambda cond, uncond: mambo_g(cond, uncond, 3.0, 8.0)),
}


def still(original: Any, outputs: list[Tensor]) -> Any:
    """A scheduler's class that stores what it is given and returns the sample as it was."""

    def step(self: Any, output: Tensor, *args: Any, **kwargs: Any) -> Any:
        outputs.append(output.double())
        previous = original.step(self, output, *args, **{**kwargs, "return_dict": False})
        sample = kwargs.get("sample", args[1] if len(args) > 1 else None)
        return (sample, *previous[1:])

    return type(original.__name__, (original,), {"step": step, "__module__": original.__module__})


def predictions(case: Case, on: bool, *guidances: Guidance, prompt: int = 2, **call: Any) -> list[Tensor]:
    """What reaches the scheduler at each step."""
    torch.manual_seed(0)
    pipe = case.pipe(on)
    outputs: list[Tensor] = []
    pipe.transformer.to(case.model.dtype)
    pipe.scheduler.__class__ = still(type(pipe.scheduler), outputs)
    texts = case.text(case.words(prompt)) | (case.text(case.words(6), "negative_") if on else {})
    texts = {name: value.to(case.model.dtype) if value.is_floating_point() else value for name, value in texts.items()}
    settings = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    with guide(pipe, *guidances):
        pipe(**texts, **{**case.call, **({} if on else case.off), **settings, **call})
    assert len(outputs) == STEPS * (2 if case is LTX2 else 1)  # another scheduler steps its audio
    return outputs


@functools.cache
def plain(pipeline: str, on: bool, prompt: int = 2) -> list[Tensor]:
    """The unguided predictions of a pipeline."""
    return predictions(USED[pipeline], on, prompt=prompt)


@functools.cache
def corrections(pipeline: str, name: str) -> list[Tensor]:
    """What a self-guidance adds to the conditional prediction at each step, without classifier-free guidance."""
    guided = predictions(USED[pipeline], False, SELF_GUIDANCES[name]())
    differences = [one - cond for one, cond in zip(guided, plain(pipeline, False), strict=True)]
    assert max(difference.abs().max() for difference in differences) > 1e-3
    return differences


def close(case: Case, outputs: list[Tensor], expected: list[Tensor]) -> None:
    """Compare in the precision in which the pipeline combines predictions."""
    atol = 1e-10 if case.pipeline in IN_FLOAT64 else 1e-5
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other, atol=atol, rtol=0)


@self_guidances
@pipelines
def test_beside_the_pipelines_own_guidance(case: Case, name: str) -> None:
    """`u + w (c - u) + d` at the scale w that the pipeline has at each step; EMAG's `u + w (c + d - u)`."""
    guided = predictions(case, True, SELF_GUIDANCES[name]())
    terms = zip(
        plain(case.pipeline, True),
        corrections(case.pipeline, name),
        plain(case.pipeline, False),
        plain(case.pipeline, False, prompt=6),
        strict=True,
    )
    expected, scales = [], []
    for combined, correction, cond, uncond in terms:
        scales.append(((combined - uncond) * (cond - uncond)).sum() / (cond - uncond).pow(2).sum())
        expected.append(combined + (scales[-1] if name == "EMAG" else 1) * correction)
    assert max(scales) > 1.5
    close(case, guided, expected)


@pytest.mark.parametrize("rule", RULES)
@self_guidances
@pytest.mark.parametrize("case", [USED[name] for name in BY_US], ids=BY_US)
def test_beside_a_rule_run_by_us(case: Case, name: str, rule: str) -> None:
    """`rule(c, u) + d`; EMAG's `rule(c + d, u)`."""
    make, formula = RULES[rule]
    text = {key: value.double() if value.is_floating_point() else value for key, value in case.words(6).items()}
    settings: dict[str, Any] = {"zero_steps": 0} if make is CFGZeroStar else {}
    outputs = predictions(case, False, make(scale=3.0, negative_prompt_embeds=text, **settings), SELF_GUIDANCES[name]())
    terms = zip(
        plain(case.pipeline, False),
        plain(case.pipeline, False, prompt=6),
        corrections(case.pipeline, name),
        strict=True,
    )
    expected = [
        formula(cond + correction, uncond) if name == "EMAG" else formula(cond, uncond) + correction
        for cond, uncond, correction in terms
    ]
    close(case, outputs, expected)


@self_guidances
def test_beside_apg(name: str) -> None:
    """APG sees the conditional prediction without what stands beside it."""
    case, apg = USED["WanPipeline"], APG(scale=3.0, negative_prompt_embeds=USED["WanPipeline"].words(6))
    alone, together = predictions(case, False, apg), predictions(case, False, apg, SELF_GUIDANCES[name]())
    differences = [one - other for one, other in zip(together, alone, strict=True)]
    added = corrections(case.pipeline, name)
    if name == "EMAG":
        assert not torch.allclose(differences[-1], added[-1], atol=1e-4)
    else:
        close(case, differences, added)


@pipelines
def test_two_self_guidances_and_nag_add_up(case: Case) -> None:
    """Each correction is computed from the prediction that NAG guides, and none from another's."""
    nag = NAG(negative_prompt_embeds=case.words(5))
    pag, stg = SELF_GUIDANCES["PAG"](), SELF_GUIDANCES["STG, blocks"]()
    base = predictions(case, True, nag)
    parts = [predictions(case, True, nag, one) for one in (pag, stg)]
    together = predictions(case, True, stg, nag, pag)
    expected = [b + (p - b) + (s - b) for b, p, s in zip(base, *parts, strict=True)]
    close(case, together, expected)


@pytest.mark.parametrize("on", [True, False], ids=["with CFG", "without CFG"])
def test_ltx2s_weaker_calls_do_not_scale_a_correction(on: bool) -> None:
    """Beside CFG, LTX-2 adds `s (c - p)` for a call with skipped blocks and one without audio: all move."""
    weaker = {"stg_scale": 1.0, "modality_scale": 2.0, "guidance_rescale": 0.0, "audio_guidance_rescale": 0.0}
    pag = SELF_GUIDANCES["PAG"]
    alone = [predictions(LTX2, False, *guidances, **LTX2.alone) for guidances in ((pag(),), ())]
    together = [predictions(LTX2, on, *guidances, **weaker) for guidances in ((pag(),), ())]
    moved, expected = ([one - other for one, other in zip(*pair, strict=True)] for pair in (together, alone))
    assert max(difference.abs().max() for difference in expected) > 0.1
    close(LTX2, moved, expected)
    with pytest.raises(ValueError, match=r"PAG with guidance_rescale=0\.7"):
        predictions(LTX2, on, pag(), **weaker | {"guidance_rescale": 0.7})


def test_what_the_pipelines_rule_would_change_is_refused() -> None:
    """Rescaling, and rules of guiders other than CFG, do not move by a correction as both predictions do."""
    ltx = USED["LTXPipeline"]
    with pytest.raises(ValueError, match=r"PAG with guidance_rescale=0\.7: .*list CFG"):
        predictions(ltx, True, PAG(), guidance_rescale=0.7)
    predictions(ltx, True, EMAG(decay=0.5, select=(1,)), guidance_rescale=0.7)
    assert len(predictions(ltx, False, PAG(), guidance_rescale=0.7)) == STEPS
    case = USED["HunyuanVideo15Pipeline"]
    pipe = case.pipe(True)
    pipe.guider = diffusers.AdaptiveProjectedGuidance(guidance_scale=3.0)
    texts = case.text(case.words(2)) | case.text(case.words(6), "negative_")
    with (
        pytest.raises(ValueError, match="STG with the pipeline's guider AdaptiveProjectedGuidance"),
        guide(pipe, STG()),
    ):
        pipe(**texts, **case.call, num_inference_steps=2, output_type="latent")


@pytest.mark.parametrize("name", [name for name in SELF_GUIDANCES if name != "EMAG"])
def test_rescale_is_of_the_sum_as_in_diffusers_guiders(name: str) -> None:
    """`rescale` of a self-guidance comes after everything is added, with the conditional prediction's deviation."""
    case, share = USED["HunyuanVideoPipeline"], 0.7
    text = {key: value.double() if value.is_floating_point() else value for key, value in case.words(6).items()}
    guidance = dataclasses.replace(SELF_GUIDANCES[name](), rescale=share)
    outputs = predictions(case, False, CFG(scale=3.0, negative_prompt_embeds=text), guidance)
    conds, unconds = plain(case.pipeline, False), plain(case.pipeline, False, prompt=6)
    terms = zip(conds, unconds, corrections(case.pipeline, name), strict=True)
    expected = []
    for cond, uncond, correction in terms:
        total = cfg(cond, uncond, 3.0) + correction
        expected.append(rescale_noise_cfg(total, cond, share))
    close(case, outputs, expected)


def test_emags_rescale_is_of_the_conditional_prediction() -> None:
    case = USED["HunyuanVideoPipeline"]
    emag = dataclasses.replace(SELF_GUIDANCES["EMAG"](), rescale=0.5)
    conds, added = plain(case.pipeline, False), corrections(case.pipeline, "EMAG")
    expected = [rescale_noise_cfg(cond + d, cond, 0.5) for cond, d in zip(conds, added, strict=True)]
    close(case, predictions(case, False, emag), expected)
    combined = predictions(case, True, emag)
    unconds = plain(case.pipeline, False, prompt=6)
    close(case, combined, [cfg(cond, uncond, 3.0) for cond, uncond in zip(expected, unconds, strict=True)])


def test_rescaling_that_cannot_be_is_refused() -> None:
    case = USED["WanPipeline"]
    with pytest.raises(ValueError, match=r"PAG\(rescale=0\.7\), STG\(rescale=0\.0\): .*give all the same"):
        predictions(case, False, PAG(rescale=0.7), STG())
    with pytest.raises(ValueError, match=r"PAG\(rescale=0\.7\): .*list CFG"):
        predictions(case, True, PAG(rescale=0.7))
    with pytest.raises(ValueError, match=r"SEG\(rescale=2\)"):
        SEG(rescale=2)
