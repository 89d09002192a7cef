"""Rules of classifier-free guidance, against the papers' equations in float64 and diffusers' guiders."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from tests.helpers.common_pipelines import case_of
from tests.helpers.plain_cfg import plain_apg, plain_mambo_g, plain_tcfg, plain_zero_star
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import APG, CFG, MAMBOG, STG, TCFG, CFGZeroStar, guide
from vidguide.functional.cfg import apg, apg_radius, cfg, cfg_zero_star, mambo_g, rescale_std, tcfg
from vidguide.guidances.schedule import scale_at
from vidguide.pipelines.request.guidance_spec import parse

SHAPE = (3, 4, 2, 5, 6)


def predictions(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return random correlated predictions of three samples of different magnitudes."""
    shared, size = torch.randn(SHAPE, dtype=dtype), torch.tensor([0.1, 1, 30], dtype=dtype).view(3, 1, 1, 1, 1)
    return size * (shared + torch.randn_like(shared)), size * (shared + torch.randn_like(shared))


@pytest.mark.parametrize("scale", [1.5, 5.0])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("radius", [0.0, 2.0, 15.0])
@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_apg_equals_the_paper_and_diffusers(scale: float, eta: float, radius: float, momentum: float) -> None:
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    average, buffer = None, MomentumBuffer(momentum)
    for _ in range(3):
        cond, uncond = predictions()
        expected = plain_apg(cond, uncond, scale, eta, radius, average, momentum)
        theirs = normalized_guidance(cond, uncond, scale - 1, buffer, eta, radius, use_original_formulation=True)
        ours, average = apg(cond, uncond, scale, eta, radius, average, momentum)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert not torch.allclose(ours, cfg(cond, uncond, scale)) or (eta, radius, momentum) == (1.0, 0.0, 0.0)


def test_apgs_radius_scales_with_the_latent_size() -> None:
    assert apg_radius(15, 4 * 128 * 128) == 15
    assert apg_radius(15, 16 * 21 * 60 * 104) == pytest.approx(15 * (2096640 / 65536) ** 0.5)
    noise = torch.randn(1, 16, 8, 64, 64, dtype=torch.float64)  # clipped by the same factor at every size
    for values in (noise, noise[..., ::2, ::2]):
        update, _ = apg(torch.zeros_like(values), values, 2, 1, apg_radius(15, values.numel()), None, 0)
        assert (update.norm() / values.norm()).item() == pytest.approx(15 / 256, rel=0.02)


Rule = Callable[[Tensor, Tensor, float], Tensor]
RULES: dict[str, tuple[Rule, Rule]] = {
    "cfg": (cfg, lambda c, u, w: w * c - (w - 1) * u),
    "zero_star": (cfg_zero_star, plain_zero_star),
    "tcfg": (tcfg, plain_tcfg),
    "mambo_g": (lambda c, u, w: mambo_g(c, u, w, 8.0), plain_mambo_g),
    "mambo_g, alpha 0.5": (lambda c, u, w: mambo_g(c, u, w, 0.5), lambda c, u, w: plain_mambo_g(c, u, w, 0.5)),
    "apg": (
        lambda c, u, w: apg(c, u, w, 0.2, 3.0, None, -0.5)[0],
        lambda c, u, w: plain_apg(c, u, w, 0.2, 3.0, None, 0),
    ),
}
each_rule = pytest.mark.parametrize("name", RULES)


@each_rule
@pytest.mark.parametrize("scale", [1.0, 2.0, 7.5])
def test_rules_equal_the_papers_equations(name: str, scale: float) -> None:
    ours, plain = RULES[name]
    cond, uncond = predictions()
    torch.testing.assert_close(ours(cond, uncond, scale), plain(cond, uncond, scale), rtol=0, atol=1e-7)


@each_rule
def test_scale_towards_one_gives_the_conditional_prediction(name: str) -> None:
    cond, uncond = predictions()
    for excess in (0, 1e-6):
        error = (RULES[name][0](cond, uncond, 1 + excess) - cond).abs().max()
        assert error <= 1e-12 + 1000 * excess


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("radius", [0.0, 0.1, 15.0])
@pytest.mark.parametrize("momentum", [-0.75, 0.0, 0.9])
def test_apg_at_scale_one_gives_the_conditional_prediction(eta: float, radius: float, momentum: float) -> None:
    (cond, uncond), average = predictions(), torch.randn(SHAPE, dtype=torch.float64)
    assert torch.equal(apg(cond, uncond, 1.0, eta, radius, average, momentum)[0], cond)


@each_rule
def test_rules_act_per_sample_and_preserve_the_dtype(name: str) -> None:
    cond, uncond = predictions()
    batch = RULES[name][0](cond, uncond, 3.0)
    for row in range(len(cond)):
        single = RULES[name][0](cond[row : row + 1], uncond[row : row + 1], 3.0)
        torch.testing.assert_close(single, batch[row : row + 1])
    bfloat16 = RULES[name][0](cond.bfloat16(), uncond.bfloat16(), 3.0)
    assert bfloat16.dtype == torch.bfloat16
    torch.testing.assert_close(bfloat16.double(), batch, rtol=0.1, atol=2.0)


@each_rule
def test_equal_and_zero_predictions_give_finite_values(name: str) -> None:
    cond, _ = predictions()
    torch.testing.assert_close(RULES[name][0](cond, cond.clone(), 5.0), cond, rtol=1e-6, atol=1e-6)
    for first, second in ((torch.zeros_like(cond), cond), (cond, torch.zeros_like(cond))):
        assert RULES[name][0](first, second, 5.0).isfinite().all()


def guider(kind: str, **settings: Any) -> Any:
    guider_class = getattr(diffusers.guiders, kind, None)
    return pytest.skip(f"diffusers has no {kind}") if guider_class is None else guider_class(**settings)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("cfg", "ClassifierFreeGuidance", {}),
        ("tcfg", "TangentialClassifierFreeGuidance", {}),
        ("mambo_g", "MagnitudeAwareGuidance", {"alpha": 8.0}),
        ("zero_star", "ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0}),
    ],
)
def test_rules_equal_diffusers_guiders(name: str, kind: str, settings: dict[str, Any], rescale: float) -> None:
    cond, uncond = predictions(torch.float32)
    theirs = guider(kind, guidance_scale=4.0, guidance_rescale=rescale, **settings)
    theirs.set_state(step=1, num_inference_steps=4, timestep=torch.tensor(500))
    # In packed layout: the norm in diffusers' magnitude-aware guider fails on more than two dimensions per sample.
    expected = theirs.forward(cond.flatten(2), uncond.flatten(2)).pred.view_as(cond)
    ours = rescale_std(RULES[name][0](cond, uncond, 4.0), cond, rescale)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rescaling_equals_its_equations_and_diffusers(share: float) -> None:
    cond, uncond = predictions()
    guided = cfg(cond, uncond, 6.0)
    expected = torch.stack(
        [share * g * c.std() / g.std() + (1 - share) * g for g, c in zip(guided, cond, strict=True)]
    )  # arXiv 2305.08891, eq. 15 and 16
    ours = rescale_std(guided, cond, share)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(ours, rescale_noise_cfg(guided, cond, share), rtol=0, atol=1e-11)
    assert torch.equal(rescale_std(torch.zeros_like(cond), cond, share), torch.zeros_like(cond))


# Guidances on a model.


def sample_predictions(guidance: Any, steps: int = 4, scheduler: Any = None) -> list[Tensor]:
    """Return the predictions of a guided Wan in float64; the inputs of a step do not depend on the predictions."""
    model, scheduler = tiny_wan().double(), scheduler or FlowMatchEulerDiscreteScheduler()
    with guide(model, guidance, scheduler=scheduler):
        scheduler.set_timesteps(steps)
        results = []
        for step, timestep in enumerate(scheduler.timesteps):
            results.append(model(**step_inputs(step, timestep))[0])
            scheduler.step(results[-1], timestep, step_inputs(step, timestep)["hidden_states"])
    return results


def step_inputs(step: int, timestep: Tensor) -> dict[str, Any]:
    return {**wan_inputs(seed=step, dtype=torch.float64), "timestep": timestep.expand(2)}


def plain_predictions(step: int, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return conditional and unconditional predictions of the unguided model."""
    model, inputs = tiny_wan().double(), step_inputs(step, timestep)
    text = negative_text(dtype=torch.float64).expand(2, -1, -1)
    return model(**inputs)[0], model(**{**inputs, "encoder_hidden_states": text})[0]


def negative_arguments() -> dict[str, Any]:
    return {"negative_prompt_embeds": negative_text(dtype=torch.float64)}


@pytest.mark.parametrize("rescale", [0.0, 0.6])
@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        (CFG, "cfg", {}),
        (CFGZeroStar, "zero_star", {"zero_steps": 0}),
        (TCFG, "tcfg", {}),
        (MAMBOG, "mambo_g, alpha 0.5", {"alpha": 0.5}),
    ],
)
def test_guidances_apply_their_rule_and_rescaling(kind: Any, name: str, settings: Any, rescale: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    guided = sample_predictions(
        kind(scale=4.0, rescale=rescale, **settings, **negative_arguments()), scheduler=scheduler
    )
    for step, (ours, timestep) in enumerate(zip(guided, scheduler.timesteps, strict=True)):
        cond, uncond = plain_predictions(step, timestep)
        expected = RULES[name][1](cond, uncond, 4.0)
        torch.testing.assert_close(ours, rescale_noise_cfg(expected, cond, rescale), rtol=0, atol=1e-6)


def levels(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha_t and sigma_t of DDIM."""
    alpha = scheduler.alphas_cumprod[timestep].double() ** 0.5
    return alpha, (1 - alpha**2) ** 0.5


@pytest.mark.parametrize("space", ["flow", "epsilon", "v_prediction"])
def test_apg_equals_the_plain_rule_on_x0(space: str) -> None:
    flow = space == "flow"
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler(prediction_type=space)
    settings: dict[str, Any] = dict(eta=0.3, momentum=-0.5)
    guided = sample_predictions(APG(scale=4.0, radius=20.0, **settings, **negative_arguments()), scheduler=scheduler)
    average = None
    for step, (ours, timestep) in enumerate(zip(guided, scheduler.timesteps, strict=True)):
        x, predicted = step_inputs(step, timestep)["hidden_states"], plain_predictions(step, timestep)
        a, b = (1.0, scheduler.sigmas[step].double()) if flow else levels(scheduler, timestep)
        c, u = (a * x - b * v if space == "v_prediction" else (x - b * v) / a for v in predicted)
        radius = 20.0 * (4 * 2 * 8 * 8 / 65536) ** 0.5
        x0 = plain_apg(c, u, 4.0, 0.3, radius, average, -0.5)
        expected = (a * x - x0) / b if space == "v_prediction" else (x - a * x0) / b
        average = c - u + (0 if average is None else -0.5 * average)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)  # noise levels are in float32
        on_predictions = plain_apg(*predicted, 4.0, 0.3, radius, None, 0)
        assert not torch.allclose(expected, on_predictions, atol=1e-3)


def test_apg_without_a_scheduler_works_on_the_predictions() -> None:
    model = tiny_wan().double()
    with guide(model, APG(scale=4.0, **negative_arguments())):
        ours = model(**step_inputs(0, torch.tensor(500)))[0]
    radius = 15.0 * (4 * 2 * 8 * 8 / 65536) ** 0.5
    expected = plain_apg(*plain_predictions(0, torch.tensor(500)), 4.0, 0.0, radius, None, 0)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


def test_apgs_average_goes_on_where_another_transformer_takes_its_turn() -> None:
    """Two of the same weights, as Wan 2.2 has two, sample what one does."""
    case = case_of("WanPipeline")
    samples: list[torch.Tensor] = []
    for _ in range(2):
        pipe = case.pipe(False)
        if samples:
            pipe.register_modules(transformer_2=copy.deepcopy(pipe.transformer))
            pipe.register_to_config(boundary_ratio=0.5)
        guidance = APG(scale=4.0, momentum=-0.5, radius=0, negative_prompt_embeds=case.text_inputs(6))
        samples.append(case.sample(pipe, False, guidance))
    assert torch.equal(*samples)


SCALES = (6.0, 1.0, 3.0, 1.0)


@pytest.mark.parametrize("scale", [SCALES, list(SCALES), lambda progress: SCALES[round(4 * progress)]])
def test_a_scale_schedule_sets_the_scale_of_each_step(scale: Any) -> None:
    guidance, scheduler = CFG(scale=scale, **negative_arguments()), FlowMatchEulerDiscreteScheduler()
    assert not guidance.neutral
    assert guidance.extra_pass
    json.dumps(guidance.describe())
    for step, (ours, timestep) in enumerate(
        zip(sample_predictions(guidance, scheduler=scheduler), scheduler.timesteps, strict=True)
    ):
        cond, uncond = plain_predictions(step, timestep)
        torch.testing.assert_close(ours, uncond + SCALES[step] * (cond - uncond), rtol=0, atol=1e-9)


def test_steps_at_scale_one_make_no_unconditional_call() -> None:
    model, scheduler, calls = tiny_wan().double(), FlowMatchEulerDiscreteScheduler(), []
    handle = model.register_forward_hook(lambda *args: calls.append(1))
    with guide(model, CFG(scale=SCALES, **negative_arguments()), scheduler=scheduler):
        scheduler.set_timesteps(4)
        for step, timestep in enumerate(scheduler.timesteps):
            out = model(**step_inputs(step, timestep))[0]
            scheduler.step(out, timestep, out)
    handle.remove()
    assert len(calls) == 4 + 2
    assert CFG(scale=(1, 1.0)).neutral


def no_value(progress: float) -> Any:
    return None


def test_invalid_scale_schedules_raise() -> None:
    with pytest.raises(ValueError, match=r"CFG\(scale=\(5.0, 0.5\)\): must be at least 1"):
        CFG(scale=(5.0, 0.5))
    with pytest.raises(ValueError, match=r"scale=\[\]\): must have a value per step"):
        CFG(scale=[])
    with pytest.raises(TypeError, match="must be a number, a list"):
        CFG(scale="5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a number, a list"):
        TCFG(scale=(2.0, None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 2 values for a run of 4 steps"):
        sample_predictions(CFG(scale=(2.0, 3.0), **negative_arguments()))
    with pytest.raises(ValueError, match=r"CFG: scale=0\.5 at step 2: must be at least 1"):
        sample_predictions(CFG(scale=lambda progress: 2.0 if progress < 0.5 else 0.5, **negative_arguments()))
    with pytest.raises(TypeError, match=r"CFG: scale\(progress=0/4\) = None: must be a number"):
        sample_predictions(CFG(scale=no_value, **negative_arguments()))
    with pytest.raises(ValueError, match=r"CFG: scale\(progress=3/4\) = nan: must be a finite number"):
        sample_predictions(CFG(scale=lambda progress: 2.0 if progress < 0.75 else math.nan, **negative_arguments()))
    model = tiny_wan().double()
    with pytest.raises(ValueError, match="needs scheduler="), guide(model, CFG(scale=(2.0,), **negative_arguments())):
        pass
    with pytest.raises(ValueError, match="has 2 values and none for step 2"):
        scale_at((2.0, 3.0), 2, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CFG(rescale=1.5), "rescale=1.5"),
        (lambda: APG(radius=-1), "radius=-1"),
        (lambda: MAMBOG(alpha=-1), "alpha=-1"),
        (lambda: CFGZeroStar(zero_steps=-1), "zero_steps=-1"),
        (lambda: CFGZeroStar(zero_steps=1.5), "zero_steps=1.5"),  # type: ignore[arg-type]
    ],
)
def test_invalid_parameters_raise(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_the_command_line_parses_every_rule() -> None:
    projected: Any
    tangential: Any
    mambo: Any
    scheduled: Any
    projected, tangential = parse("apg:4,radius=10,rescale=0.5"), parse("tcfg:3")
    mambo, scheduled = parse("mambog:10,alpha=4"), parse("cfg:7/5/1")
    assert [vars(projected[0])[name] for name in ("scale", "radius", "rescale")] == [4.0, 10.0, 0.5]
    assert [(type(guidance), guidance.scale) for guidance in tangential] == [(TCFG, 3.0)]
    assert [(type(guidance), guidance.scale, guidance.alpha) for guidance in mambo] == [(MAMBOG, 10.0, 4.0)]
    assert scheduled[0].scale == (7.0, 5.0, 1.0)
    (stg,) = parse("stg:1/2")
    assert isinstance(stg, STG)
    assert stg.scale == (1.0, 2.0)
