"""Every pair of a self-guidance and a CFG rule equals the plain formula, for every way to run CFG.

CFG runs in vidguide or in the pipeline, in two calls or in one batch. The scheduler of these tests returns the sample
unchanged, so that every step has the same input under every guidance and the predictions can be compared by step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import diffusers
import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from tests.helpers.tiny_pipelines import CASES, Case
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import APG, CFG, EMAG, MAMBOG, NAG, PAG, SEG, STG, TCFG, TPG, CFGZeroStar, S2Guidance, guide
from vidguide.functional.cfg import cfg, cfg_zero_star, mambo_g, tcfg
from vidguide.guidances.base import Guidance

STEPS = 3
CFG_FORMS = {
    "WanPipeline": "two calls",
    "HunyuanVideoPipeline": "two calls",
    "HunyuanVideo15Pipeline": "a guider",
    "LTXPipeline": "one batch",
    "MochiPipeline": "one batch",
    "CogVideoXPipeline": "one batch, dynamic scale",
}
# The last case of a pipeline: for CogVideoX the one with dynamic CFG.
PIPELINE_CASES = {case.pipeline: case for case in CASES if case.pipeline in CFG_FORMS}
# These pipelines combine predictions in float64, the others in float32.
IN_FLOAT64 = {"WanPipeline", "HunyuanVideoPipeline", "HunyuanVideo15Pipeline"}
PIPELINES = list(PIPELINE_CASES.values())
LTX2 = next((case for case in CASES if case.pipeline == "LTX2Pipeline"), None)  # not in diffusers 0.36
CFG_BY_VIDGUIDE = ["WanPipeline", "HunyuanVideoPipeline", "LTXPipeline", "MochiPipeline"]
pipelines = pytest.mark.parametrize("case", PIPELINES, ids=lambda case: f"{case.pipeline}, {CFG_FORMS[case.pipeline]}")

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


def recording_scheduler(original: Any, outputs: list[Tensor]) -> Any:
    """Return a scheduler class that records the model outputs and returns the sample unchanged."""

    def step(self: Any, output: Tensor, *args: Any, **kwargs: Any) -> Any:
        outputs.append(output.double())
        previous = original.step(self, output, *args, **{**kwargs, "return_dict": False})
        sample = kwargs.get("sample", args[1] if len(args) > 1 else None)
        return (sample, *previous[1:])

    return type(original.__name__, (original,), {"step": step, "__module__": original.__module__})


def predictions(case: Case, cfg_on: bool, *guidances: Guidance, prompt: int = 2, **call: Any) -> list[Tensor]:
    """Return the model output that reaches the scheduler at each step."""
    torch.manual_seed(0)
    pipe = case.pipe(cfg_on)
    outputs: list[Tensor] = []
    pipe.transformer.to(case.model.dtype)
    pipe.scheduler.__class__ = recording_scheduler(type(pipe.scheduler), outputs)
    texts = case.text(case.text_inputs(prompt)) | (case.text(case.text_inputs(6), "negative_") if cfg_on else {})
    texts = {name: value.to(case.model.dtype) if value.is_floating_point() else value for name, value in texts.items()}
    settings = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    with guide(pipe, *guidances):
        pipe(**texts, **{**case.call, **({} if cfg_on else case.off), **settings, **call})
    assert len(outputs) == STEPS * (2 if case is LTX2 else 1)  # another scheduler steps its audio
    return outputs


@functools.cache
def unguided_predictions(pipeline: str, cfg_on: bool, prompt: int = 2) -> list[Tensor]:
    """Return the unguided predictions of a pipeline."""
    return predictions(PIPELINE_CASES[pipeline], cfg_on, prompt=prompt)


@functools.cache
def corrections(pipeline: str, name: str) -> list[Tensor]:
    """Return what a self-guidance adds to the conditional prediction at each step, without CFG."""
    guided = predictions(PIPELINE_CASES[pipeline], False, SELF_GUIDANCES[name]())
    differences = [
        prediction - cond for prediction, cond in zip(guided, unguided_predictions(pipeline, False), strict=True)
    ]
    assert max(difference.abs().max() for difference in differences) > 1e-3
    return differences


def assert_equal(case: Case, outputs: list[Tensor], expected: list[Tensor]) -> None:
    """Compare with the tolerance of the dtype in which the pipeline combines predictions."""
    atol = 1e-10 if case.pipeline in IN_FLOAT64 else 1e-5
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, atol=atol, rtol=0)


@pytest.mark.sampled(3)
@self_guidances
@pipelines
def test_self_guidance_with_the_pipelines_cfg_equals_the_formula(case: Case, name: str) -> None:
    """`u + w (c - u) + d` with the pipeline's scale w of each step; for EMAG `u + w (c + d - u)`."""
    guided = predictions(case, True, SELF_GUIDANCES[name]())
    terms = zip(
        unguided_predictions(case.pipeline, True),
        corrections(case.pipeline, name),
        unguided_predictions(case.pipeline, False),
        unguided_predictions(case.pipeline, False, prompt=6),
        strict=True,
    )
    expected, scales = [], []
    for combined, correction, cond, uncond in terms:
        scales.append(((combined - uncond) * (cond - uncond)).sum() / (cond - uncond).pow(2).sum())
        expected.append(combined + (scales[-1] if name == "EMAG" else 1) * correction)
    assert max(scales) > 1.5
    assert_equal(case, guided, expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rule", RULES)
@self_guidances
@pytest.mark.parametrize("case", [PIPELINE_CASES[name] for name in CFG_BY_VIDGUIDE], ids=CFG_BY_VIDGUIDE)
def test_self_guidance_with_a_cfg_rule_equals_the_formula(case: Case, name: str, rule: str) -> None:
    """`rule(c, u) + d`; for EMAG `rule(c + d, u)`."""
    make, formula = RULES[rule]
    text = {key: value.double() if value.is_floating_point() else value for key, value in case.text_inputs(6).items()}
    settings: dict[str, Any] = {"zero_steps": 0} if make is CFGZeroStar else {}
    outputs = predictions(case, False, make(scale=3.0, negative_prompt_embeds=text, **settings), SELF_GUIDANCES[name]())
    terms = zip(
        unguided_predictions(case.pipeline, False),
        unguided_predictions(case.pipeline, False, prompt=6),
        corrections(case.pipeline, name),
        strict=True,
    )
    expected = [
        formula(cond + correction, uncond) if name == "EMAG" else formula(cond, uncond) + correction
        for cond, uncond, correction in terms
    ]
    assert_equal(case, outputs, expected)


@self_guidances
def test_apg_is_computed_from_the_uncorrected_prediction(name: str) -> None:
    """The correction is added after APG, except EMAG's, which changes the prediction that APG projects."""
    case = PIPELINE_CASES["WanPipeline"]
    apg = APG(scale=3.0, negative_prompt_embeds=case.text_inputs(6))
    apg_only, together = predictions(case, False, apg), predictions(case, False, apg, SELF_GUIDANCES[name]())
    differences = [both - single for both, single in zip(together, apg_only, strict=True)]
    expected = corrections(case.pipeline, name)
    if name == "EMAG":
        assert not torch.allclose(differences[-1], expected[-1], atol=1e-4)
    else:
        assert_equal(case, differences, expected)


@pipelines
def test_corrections_of_two_self_guidances_add_up_under_nag(case: Case) -> None:
    """Each correction is computed from the prediction under NAG, independently of the other."""
    nag = NAG(negative_prompt_embeds=case.text_inputs(5))
    pag, stg = SELF_GUIDANCES["PAG"](), SELF_GUIDANCES["STG, blocks"]()
    base = predictions(case, True, nag)
    singly = [predictions(case, True, nag, guidance) for guidance in (pag, stg)]
    together = predictions(case, True, stg, nag, pag)
    expected = [b + (p - b) + (s - b) for b, p, s in zip(base, *singly, strict=True)]
    assert_equal(case, together, expected)


WEAKER: dict[str, Any] = {
    "stg_scale": 1.0,
    "modality_scale": 2.0,
    "guidance_rescale": 0.0,
    "audio_guidance_rescale": 0.0,
}
needs_ltx2 = pytest.mark.skipif(LTX2 is None, reason="this diffusers has no LTX-2")


def cfg_of_vidguide() -> Guidance:
    assert LTX2 is not None
    text = LTX2.text_inputs(6)
    doubles = {name: value.double() if value.is_floating_point() else value for name, value in text.items()}
    return CFG(scale=3.0, negative_prompt_embeds=doubles)


@needs_ltx2
@pytest.mark.parametrize(
    ("make", "on"),
    [(SELF_GUIDANCES[name], on) for name in ("PAG", "EMAG") for on in (True, False)] + [(cfg_of_vidguide, False)],
    ids=["PAG with CFG", "PAG", "EMAG with CFG", "EMAG", "CFG of vidguide"],
)
def test_ltx2s_weaker_calls_do_not_scale_a_guidance(make: Callable[[], Guidance], on: bool) -> None:
    """Beside CFG, LTX-2 adds `s (c - p)` for a call with skipped blocks and one without audio.

    A guidance of the conditional prediction is no part of these differences: `u + w (c + d - u) + s (c - p)` for EMAG,
    `u + w (c - u) + s (c - p) + d` for others. The video's and the audio's scheduler take turns.
    """
    assert LTX2 is not None
    alone = [predictions(LTX2, False, *guidances, **LTX2.cfg_only) for guidances in ((make(),), ())]
    together = [predictions(LTX2, on, *guidances, **WEAKER) for guidances in ((make(),), ())]
    moved, expected = ([one - other for one, other in zip(*pair, strict=True)] for pair in (together, alone))
    assert max(difference.abs().max() for difference in expected) > 1e-3
    scale = 3.0 if on and isinstance(make(), EMAG) else 1.0
    assert_equal(LTX2, moved, [scale * difference for difference in expected])


@needs_ltx2
@pytest.mark.parametrize("on", [True, False])
def test_ltx2s_weaker_calls_are_not_rescaled_with_a_correction(on: bool) -> None:
    assert LTX2 is not None
    with pytest.raises(ValueError, match=r"PAG with guidance_rescale=0\.7"):
        predictions(LTX2, on, SELF_GUIDANCES["PAG"](), **WEAKER | {"guidance_rescale": 0.7})
    with pytest.raises(ValueError, match=r"PAG\(rescale=0\.5\): the pipeline's own guidance"):
        predictions(LTX2, on, PAG(rescale=0.5), **WEAKER)


@needs_ltx2
@pytest.mark.parametrize("on", [True, False], ids=["with CFG", "without CFG"])
def test_nag_acts_on_ltx2s_weaker_calls(on: bool) -> None:
    """Their text attention is that of the same call of a bare transformer under NAG; the trace has one pass a step."""
    assert LTX2 is not None
    pipe = LTX2.pipe(on)
    pipe.transformer.to(LTX2.model.dtype)
    calls: list[tuple[dict[str, Any], Any]] = []

    def record(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        weaker = kwargs["isolate_modalities"] or kwargs["spatio_temporal_guidance_blocks"]
        if weaker and kwargs["hidden_states"].shape[1] > 1:  # not the auxiliary forward of one token
            calls.append((kwargs, output))

    handle = pipe.transformer.register_forward_hook(record, with_kwargs=True)
    negative = {
        name: value.double() if value.is_floating_point() else value for name, value in LTX2.text_inputs(5).items()
    }
    nag = NAG(scale=5, negative_prompt_embeds=negative)
    texts = LTX2.text(LTX2.text_inputs(2)) | LTX2.text(LTX2.text_inputs(6), "negative_")
    texts = {name: value.double() if value.is_floating_point() else value for name, value in texts.items()}
    with guide(pipe, nag) as run:
        call = {**LTX2.call, **({} if on else LTX2.off), **WEAKER, "num_inference_steps": 2}
        pipe(**texts, **call, generator=torch.Generator().manual_seed(0), output_type="latent")
    handle.remove()
    assert len(calls) == 2 * 2
    for kwargs, output in calls:
        with guide(pipe.transformer, nag):
            torch.testing.assert_close(pipe.transformer(**kwargs)[0], output[0], rtol=0, atol=1e-12)
        assert (pipe.transformer(**kwargs)[0] - output[0]).abs().max() > 1e-3
    layers = len(pipe.transformer.transformer_blocks)
    assert len(run.trace) == 2 * 2 * layers  # steps, texts of video and audio


def test_pipeline_rules_that_would_rescale_the_correction_raise() -> None:
    """Rescaling, and guiders other than CFG, are not linear in the prediction.

    EMAG is allowed, as its equation corrects the conditional prediction before CFG.
    """
    ltx = PIPELINE_CASES["LTXPipeline"]
    with pytest.raises(ValueError, match=r"PAG with guidance_rescale=0\.7: .*list CFG"):
        predictions(ltx, True, PAG(), guidance_rescale=0.7)
    predictions(ltx, True, EMAG(decay=0.5, select=(1,)), guidance_rescale=0.7)
    assert len(predictions(ltx, False, PAG(), guidance_rescale=0.7)) == STEPS
    case = PIPELINE_CASES["HunyuanVideo15Pipeline"]
    pipe = case.pipe(True)
    pipe.guider = diffusers.AdaptiveProjectedGuidance(guidance_scale=3.0)
    texts = case.text(case.text_inputs(2)) | case.text(case.text_inputs(6), "negative_")
    with (
        pytest.raises(ValueError, match="STG with the pipeline's guider AdaptiveProjectedGuidance"),
        guide(pipe, STG()),
    ):
        pipe(**texts, **case.call, num_inference_steps=2, output_type="latent")


@pytest.mark.parametrize("name", [name for name in SELF_GUIDANCES if name != "EMAG"])
def test_rescale_is_of_the_sum_as_in_diffusers_guiders(name: str) -> None:
    """`rescale` of a self-guidance comes after everything is added, with the conditional prediction's deviation."""
    case, share = PIPELINE_CASES["HunyuanVideoPipeline"], 0.7
    text = {key: value.double() if value.is_floating_point() else value for key, value in case.text_inputs(6).items()}
    guidance: Any = dataclasses.replace(cast(Any, SELF_GUIDANCES[name]()), rescale=share)
    outputs = predictions(case, False, CFG(scale=3.0, negative_prompt_embeds=text), guidance)
    conds, unconds = unguided_predictions(case.pipeline, False), unguided_predictions(case.pipeline, False, prompt=6)
    terms = zip(conds, unconds, corrections(case.pipeline, name), strict=True)
    expected = []
    for cond, uncond, correction in terms:
        total = cfg(cond, uncond, 3.0) + correction
        expected.append(rescale_noise_cfg(total, cond, share))
    assert_equal(case, outputs, expected)


def test_emags_rescale_is_of_the_conditional_prediction() -> None:
    case = PIPELINE_CASES["HunyuanVideoPipeline"]
    emag: Any = dataclasses.replace(cast(Any, SELF_GUIDANCES["EMAG"]()), rescale=0.5)
    conds, added = unguided_predictions(case.pipeline, False), corrections(case.pipeline, "EMAG")
    expected = [rescale_noise_cfg(cond + d, cond, 0.5) for cond, d in zip(conds, added, strict=True)]
    assert_equal(case, predictions(case, False, emag), expected)
    combined = predictions(case, True, emag)
    unconds = unguided_predictions(case.pipeline, False, prompt=6)
    assert_equal(case, combined, [cfg(cond, uncond, 3.0) for cond, uncond in zip(expected, unconds, strict=True)])


def test_a_loop_of_ones_own_gets_the_correction_in_both_calls_or_is_refused() -> None:
    """On a bare transformer the cache context names the unconditional call, and the scheduler the step."""
    model, scheduler, cond = tiny_wan().double(), diffusers.FlowMatchEulerDiscreteScheduler(), wan_inputs()
    cond = {
        name: value.double() if name != "timestep" and isinstance(value, Tensor) else value
        for name, value in cond.items()
    }
    uncond = {**cond, "encoder_hidden_states": negative_text().double().expand(2, -1, -1)}
    c, u = model(**cond)[0], model(**uncond)[0]
    with guide(model, PAG(layers=(1,)), scheduler=scheduler):
        scheduler.set_timesteps(3)
        for timestep in scheduler.timesteps[:2]:
            guided = model(**cond)[0]
            with model.cache_context("uncond"):
                moved = model(**uncond)[0]
            scheduler.step(guided, timestep, cond["hidden_states"])
        torch.testing.assert_close(moved - u, guided - c, atol=1e-12, rtol=0)
        assert (guided - c).abs().max() > 0.1
        with model.cache_context("uncond"), pytest.raises(ValueError, match="make the conditional call first"):
            model(**uncond)
    with guide(model, PAG(layers=(1,))):
        model(**cond)
        with model.cache_context("uncond"), pytest.raises(ValueError, match="needs scheduler="):
            model(**uncond)


def test_rescaling_that_cannot_be_is_refused() -> None:
    case = PIPELINE_CASES["WanPipeline"]
    with pytest.raises(ValueError, match=r"PAG\(rescale=0\.7\), STG\(rescale=0\.0\): .*give all the same"):
        predictions(case, False, PAG(rescale=0.7), STG())
    with pytest.raises(ValueError, match=r"PAG\(rescale=0\.7\): .*list CFG"):
        predictions(case, True, PAG(rescale=0.7))
    with pytest.raises(ValueError, match=r"SEG\(rescale=2\)"):
        SEG(rescale=2)
