"""Calibration: planted directions, no leak, agreement with plain float64, every supported family, and bad input."""

import copy
import itertools
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.calibration_runs import STEPS, Setup, setup
from tests.helpers.plain_emag import plain_emag
from tests.helpers.tiny_families import cast
from tests.helpers.tiny_pipelines import ALL_CASES, Case
from vidguide import CFG, EMAG, NAG, PAG, SEG, STG, TPG, S2Guidance
from vidguide.functional.direction import bootstrap_scales, inner_products, least_squares_scale, percentile_interval
from vidguide.guidances.base import Guidance
from vidguide.guidances.direction_probe import probed
from vidguide.pipelines.calibration.candidates import candidates
from vidguide.pipelines.calibration.measure import measure, observe
from vidguide.pipelines.calibration.playback import add_noise, conversion_of, invert, renoise
from vidguide.transformer.prediction_space import levels_at

CASES = {case.pipeline: case for case in reversed(ALL_CASES)}
WAN = CASES["WanPipeline"]
SUPPORTED = ["WanPipeline", "SkyReelsV2Pipeline", "LTXPipeline", "MochiPipeline", "CogVideoXPipeline"]
SUPPORTED += ["HunyuanVideoPipeline"]
STEP = 4


def clip_of(model: Setup, noisy: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the x_0 and the noise whose true prediction at x_t is the given one."""
    level = model.levels[STEP]
    clean = conversion_of(level, noisy).to_x0(prediction)
    return clean, (noisy - level[0] * clean) / level[1].abs()


def unconditional(case: Case) -> CFG:
    return CFG(negative_prompt_embeds=case.text_inputs(6)["encoder_hidden_states"])


@pytest.mark.parametrize("pipeline", SUPPORTED)
@pytest.mark.parametrize("weight", [pytest.param(0.7, marks=pytest.mark.slow), -2.0])
def test_an_error_along_the_direction_of_one_layer_is_recovered(pipeline: str, weight: float) -> None:
    model = setup(CASES[pipeline], exact=False)
    noisy = model.noise(1)
    for guidance in (EMAG(decay=0.5, select=(0, 1)), EMAG(decay=0.5, select=(1,)), PAG(layers=(1,)), STG(layers=(0,))):
        arguments: Any = (model.levels, STEP)
        probe = observe(model.pipe, model.call, noisy, (guidance,), *arguments)
        clean, noise = clip_of(model, noisy, probe.prediction[0] + weight * probe.directions[0])
        torch.testing.assert_close(add_noise(clean, noise, model.levels[STEP]), noisy, atol=1e-5, rtol=0)
        (products,) = measure(model.pipe, model.call, clean, noise, (guidance,), *arguments)
        assert least_squares_scale(products.sum(0)).item() == pytest.approx(weight, rel=0.02), guidance
        assert products[:, 1].min() > 0


def test_a_model_without_error_has_scale_zero_within_its_interval_for_every_guidance() -> None:
    # The truth is the prediction plus noise that no guidance can know: a past that sees the clip at other noise levels
    # would contain it.
    model = setup(WAN, clips=12)
    noisy, arguments = model.noise(2), (model.levels, STEP)
    layers = (0, 1)
    guidances: tuple[Guidance, ...] = (EMAG(decay=0.5, select=layers), EMAG(decay=0.5, select=layers, variant="map"))
    guidances += (EMAG(decay=0.9, select=(1,)), PAG(layers=(1,)), SEG(layers=(1,)), STG(layers=(1,)))
    guidances += (TPG(layers=(1,)), S2Guidance(), unconditional(WAN))
    prediction = observe(model.pipe, model.call, noisy, guidances, *arguments).prediction[0]
    clean, noise = clip_of(model, noisy, prediction + 0.5 * model.noise(3))
    products = measure(model.pipe, model.call, clean, noise, guidances, *arguments)
    for guidance, sums in zip(guidances, products, strict=True):
        scales = bootstrap_scales(sums, 2000, torch.Generator().manual_seed(0))
        low, high = percentile_interval(scales, 0.998)
        assert low < 0 < high, guidance


def test_what_is_observed_depends_on_the_noisy_clip_alone() -> None:
    # Two clips that agree at x_t, and at no other noise level.
    model = setup(WAN, clips=2)
    guidances = (EMAG(decay=0.5, select=(0, 1)), PAG(layers=(0,)))
    noisy = model.noise(4)
    first, second = (clip_of(model, noisy, model.noise(seed)) for seed in (5, 6))
    assert (first[0] - second[0]).abs().mean() > 0.1
    results = [measure(model.pipe, model.call, *clip, guidances, model.levels, STEP) for clip in (first, second)]
    torch.testing.assert_close(results[0][..., 1], results[1][..., 1], rtol=1e-4, atol=0)  # <d, d>
    assert not torch.allclose(results[0][..., 0], results[1][..., 0], rtol=0.1)  # <e, d>


class Identity(nn.Module):
    """A skipped block."""

    def forward(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return hidden_states


def plain_calls(model: Setup, noisy: Tensor) -> list[dict[str, Any]]:
    """Return the transformer's calls at steps 0 to STEP, with the past by the plain ODE: `x + (sigma' - sigma) v`."""
    transformer, scheduler = model.pipe.transformer, model.pipe.scheduler
    text = {"encoder_hidden_states": model.call["prompt_embeds"], "return_dict": False}
    calls, latents = [], noisy
    for step in range(STEP, -1, -1):
        timestep = scheduler.timesteps[step].expand(len(noisy))
        calls.append({"hidden_states": latents.double(), "timestep": timestep, **text})
        change = (scheduler.sigmas[step - 1] - scheduler.sigmas[step]).double()
        latents = (latents.double() + change * transformer(**calls[-1])[0]).float()  # as the pipeline stores them
    return calls[::-1]


def test_products_agree_with_a_plain_implementation() -> None:
    model = setup(WAN)
    clean, noise = model.noise(7), model.noise(8)
    emags = [EMAG(decay=0.6, select=(1,), variant=variant) for variant in ("query", "map")]
    emags.append(EMAG(decay=0.6, select=(0, 1)))
    guidances = (*emags, STG(layers=(1,)), unconditional(WAN))
    measured = measure(model.pipe, model.call, clean, noise, guidances, model.levels, STEP)

    sigma = model.pipe.scheduler.sigmas[STEP].double()
    calls = plain_calls(model, ((1 - sigma) * clean + sigma * noise).float())
    transformer = model.pipe.transformer
    prediction = transformer(**calls[-1])[0]
    padded = [*calls, *[calls[-1]] * (STEPS - len(calls))]  # EMAG's window is in fractions of all steps
    directions = []
    for emag in emags:
        assert isinstance(emag.select, tuple)
        values = {name: getattr(emag, name) for name in ("decay", "select", "variant")}
        guided, _ = plain_emag(
            transformer, padded, EMAG(scale=2, start=STEP / STEPS, stop=(STEP + 1) / STEPS, **values), emag.select
        )
        directions.append(guided[STEP] - prediction)
    skipped = copy.deepcopy(transformer)
    skipped.blocks[1] = Identity()
    directions.append(prediction - skipped(**calls[-1])[0])
    negative = cast(WAN.text_inputs(6)["encoder_hidden_states"], torch.float64).repeat(len(clean), 1, 1)
    directions.append(prediction - transformer(**{**calls[-1], "encoder_hidden_states": negative})[0])
    error = noise.double() - clean.double() - prediction
    for guidance, sums, direction in zip(guidances, measured, directions, strict=True):
        expected = inner_products(error, direction, prediction)
        torch.testing.assert_close(sums, expected, rtol=2e-5, atol=1e-6), guidance


@pytest.mark.parametrize("pipeline", SUPPORTED)
def test_the_inverted_path_leads_back_to_its_clip(pipeline: str) -> None:
    # Of a model that predicts the same whatever the noise level, Euler's steps backwards and forwards are exact: so
    # every point of the path implies the same x_0 and noise when the predictions are those of the last one.
    model = setup(CASES[pipeline], exact=False)
    noisy = model.noise(9)
    path = invert(model.pipe, model.call, noisy, model.levels, 2)
    assert len(path) == 3
    assert torch.equal(path[-1], noisy)
    probe = observe(model.pipe, model.call, noisy, (PAG(layers=(0,)),), model.levels, 2)
    clean = conversion_of(model.levels[2], noisy).to_x0(probe.prediction[0])
    noise = (noisy - model.levels[2][0] * clean) / model.levels[2][1].abs()
    torch.testing.assert_close(path[1], add_noise(clean, noise, model.levels[1]), atol=2e-4, rtol=1e-4)


def test_settings_that_differ_in_layers_share_averages_and_agree_with_separate_ones() -> None:
    model = setup(WAN)
    noisy = model.noise(10)
    together = (EMAG(decay=0.6, select=(0,)), EMAG(decay=0.6, select=(0, 1)), EMAG(decay=0.6, select=(1,)))
    units = probed(together, STEP, STEPS)
    assert [getattr(unit, "source", None) is units[1] for unit in units] == [True, False, True]
    probe = observe(model.pipe, model.call, noisy, together, model.levels, STEP)
    for index, guidance in enumerate(together):
        alone = observe(model.pipe, model.call, noisy, (guidance,), model.levels, STEP)
        torch.testing.assert_close(probe.directions[index], alone.directions[0], rtol=1e-9, atol=1e-12)


def test_the_pipeline_and_its_scheduler_are_restored() -> None:
    model = setup(WAN)
    scheduler = type(model.pipe.scheduler)
    values = dict(vars(model.pipe.scheduler))
    observe(model.pipe, model.call, model.noise(11), (PAG(layers=(0,)),), model.levels, STEP)
    assert type(model.pipe.scheduler) is scheduler
    assert vars(model.pipe.scheduler).keys() == values.keys()
    sampled = WAN.sample(model.pipe, False)
    assert torch.equal(sampled, WAN.exact(False))


def test_a_guidance_without_a_direction_is_refused() -> None:
    with pytest.raises(TypeError, match=r"NAG: is no scale times a difference .* must be EMAG, CFG"):
        probed((NAG(negative_prompt="blur"),), 0, 4)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        diffusers.DDIMScheduler(prediction_type="epsilon", clip_sample=False),
        diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    ],
    ids=["flow", "flow, inverted", "noise", "v", "CogVideoX"],
)
def test_a_step_between_noise_levels_is_that_of_the_scheduler_and_reverses(scheduler: Any) -> None:
    scheduler.set_timesteps(10)
    levels = [levels_at(scheduler, index) for index in range(10)]
    sample, prediction = torch.randn(2, 4, 3, 5, 5), torch.randn(2, 4, 3, 5, 5)
    for index, (level, target) in enumerate(itertools.pairwise(levels[1:]), 1):
        assert level is not None
        assert target is not None
        if hasattr(scheduler, "set_begin_index"):
            scheduler._step_index = index
        (stepped, *_) = scheduler.step(prediction, scheduler.timesteps[index], sample, return_dict=False)
        moved = renoise(sample, prediction, level, target)
        torch.testing.assert_close(moved, stepped, atol=3e-5, rtol=3e-5)
        clean = conversion_of(level, sample).to_x0(prediction)
        again = conversion_of(target, moved).to_prediction(clean)  # what the model predicts if it implies the same clip
        torch.testing.assert_close(renoise(moved, again, target, level), sample, atol=1e-4, rtol=1e-4)


def test_one_layer_is_compared_once() -> None:
    assert [one.layers for one in candidates([EMAG(decay=0.5)], 4, [2])] == ["2"]
    assert [one.layers for one in candidates([EMAG(decay=0.5)], 4, [1, 2])] == ["1", "2", "all"]
