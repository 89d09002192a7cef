"""EMAG, STG and PAG against their plain equations, and block replay against full passes."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.plain_emag import plain_emag
from tests.helpers.sampling import ALWAYS, clips, cogvideox, sample, videos
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import APG, CFG, EMAG, NAG, PAG, SEG, STG, TPG, CFGZeroStar, S2Guidance, guide
from vidguide.guidances.base import Guidance
from vidguide.transformer.block_replay import BlockReplay
from vidguide.transformer.cfg_batch import Batch


def test_run_cache_survives_a_timestep_dtype_change() -> None:
    """HunyuanVideo's pipeline passes the first timestep in the dtype of its noise, the others in the model's."""
    nag = NAG(negative_prompt_embeds=negative_text(), scale=5)
    emag, calls = EMAG(decay=0.5, select=(1,), start=0.25, stop=1.0, scale=3), videos(4)
    other_dtype = [{**calls[0], "timestep": calls[0]["timestep"].float()}, *calls[1:]]
    expected, result = (sample(tiny_wan(), inputs, nag, emag)[0] for inputs in (calls, other_dtype))
    assert all(torch.equal(a, b) for a, b in zip(expected, result, strict=True))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variant", ["query", "map", "map-video"])
@pytest.mark.parametrize(
    ("select", "measure"),
    [
        *(("largest", measure) for measure in ("absolute", "relative")),
        *((select, "absolute") for select in ("previous", "all", (1,), (0, 2))),
    ],
)
@pytest.mark.parametrize(("make", "each"), [(tiny_wan, videos), (cogvideox, clips)], ids=["Wan", "CogVideoX"])
def test_emag_equals_the_papers_equations(make: Any, each: Any, select: Any, measure: str, variant: str) -> None:
    model, calls = make().double(), each(12, dtype=torch.float64)
    window: dict[str, Any] = dict(start=0.3, stop=0.9, layers=(0, 1, 2))
    emag = EMAG(scale=2.5, decay=0.7, select=select, measure=measure, variant=variant, **window)
    guided, run = sample(model, calls, emag)
    layers = select if isinstance(select, tuple) else (0, 1, 2)
    plain, choices = plain_emag(model, calls, emag, layers)
    for ours, expected in zip(guided, plain, strict=True):
        assert torch.allclose(ours, expected, rtol=0, atol=1e-9)
    assert [[sample.layers for sample in choice.samples] for choice in run.trace.choices] == choices
    assert [choice.step for choice in run.trace.choices] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert all(choice.seconds > 0 for choice in run.trace.choices)
    assert run.trace.summary()["weak_passes"] == len(str(run.trace).splitlines()) - 1 == 8
    assert not torch.allclose(guided[-2], model(**calls[-2])[0], atol=1e-3)


@pytest.mark.parametrize("variant", ["query", "map", "map-video"])
@pytest.mark.parametrize(("make", "each"), [(tiny_wan, videos), (cogvideox, clips)], ids=["Wan", "CogVideoX"])
def test_strength_mixes_average_and_live_attention(make: Any, each: Any, variant: str) -> None:
    model, calls = make().double(), each(10, dtype=torch.float64)
    emag = EMAG(scale=2.5, decay=0.7, strength=0.6, average_from=0.1, start=0.5, stop=1.0, layers=(1, 2))
    emag = dataclasses.replace(emag, variant=variant)
    for ours, expected in zip(sample(model, calls, emag)[0], plain_emag(model, calls, emag, (1, 2))[0], strict=True):
        assert torch.allclose(ours, expected, rtol=0, atol=1e-9)


def test_decay_one_keeps_the_first_query_and_equal_steps_have_zero_gradient() -> None:
    model, calls = tiny_wan(), videos(3)
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, EMAG(decay=1.0, select=(1,), **ALWAYS), scheduler=scheduler) as run:
        scheduler.set_timesteps(12)
        model(**calls[0])
        first = averages_of(model)[1].averages[0].clone()
        model(**calls[1])
        assert torch.equal(averages_of(model)[1].averages[0], first)
        assert run.trace.choices[-1].gradients[1] > 0
        scheduler.set_timesteps(12)
        for _ in range(3):
            model(**calls[2])
        assert run.trace.choices[-1].gradients == {1: 0.0}


def averages_of(model: Any) -> dict[int, Any]:
    ((_, state),) = vars(model)["_vidguide_forward"]._run_caches["cond"]._values.values()
    averages: dict[int, Any] = state.averages
    return averages


SELF_GUIDANCES = [
    EMAG(decay=0.5, select=(2,), **ALWAYS),
    EMAG(decay=0.5, select=(1,), variant="map", **ALWAYS),
    EMAG(decay=0.5, select=(1,), variant="map-video", **ALWAYS),
    PAG(layers=(2,)),
    STG(mode="attention", layers=(1, 2)),
    STG(layers=(2,), mode="residual"),
    TPG(layers=(2,)),
    S2Guidance(layers=(1,)),
]


@pytest.mark.parametrize("guidance", SELF_GUIDANCES, ids=repr)
def test_a_perturbed_pass_with_block_replay_equals_the_full_pass_bitwise(
    guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = sample(tiny_wan(), videos(), guidance)[0]

    @contextmanager
    def run_all_blocks(self: BlockReplay, first: int, batch: Batch) -> Iterator[None]:
        yield

    monkeypatch.setattr(BlockReplay, "starting_at", run_all_blocks)
    full = sample(tiny_wan(), videos(), guidance)[0]
    assert all(torch.equal(a, b) for a, b in zip(shared, full, strict=True))
    assert not torch.allclose(shared[-1], tiny_wan()(**videos()[-1])[0], atol=1e-4)


def test_unchanged_blocks_are_not_run_again(wan: Any) -> None:
    runs: list[int] = []
    for layer, block in enumerate(wan.blocks):
        block.register_forward_hook(lambda *args, layer=layer: runs.append(layer))
    sample(wan, videos(5), EMAG(select=(2,), start=0.2, stop=0.8), CFG(negative_prompt_embeds=negative_text()))
    cfg_step, emag_step = [0, 1, 2] * 2, [0, 1, 2, 2, 0, 1, 2]
    assert runs == cfg_step + 3 * emag_step + cfg_step


def test_stg_residual_equals_the_model_without_the_block(wan: Any) -> None:
    inputs = wan_inputs()
    cond = wan(**inputs)[0]
    with guide(wan, STG(scale=1.5, mode="residual", layers=(1,))):
        guided = wan(**inputs)[0]
    del wan.blocks[1]
    assert torch.allclose(guided, cond + 1.5 * (cond - wan(**inputs)[0]), atol=1e-6)


@pytest.mark.parametrize("make", [PAG, partial(STG, mode="attention")], ids=["PAG", "STG"])
def test_skipped_attention_returns_its_values(wan: Any, make: Any) -> None:
    inputs = wan_inputs()
    cond = wan(**inputs)[0]
    with guide(wan, make(scale=1.5, layers=(0, 2))):
        guided = wan(**inputs)[0]
    for layer in (0, 2):
        attention = wan.blocks[layer].attn1
        attention.forward = lambda x, *_, attention=attention: attention.to_out[0](attention.to_v(x))
    assert torch.allclose(guided, cond + 1.5 * (cond - wan(**inputs)[0]), atol=1e-6)


@pytest.mark.parametrize("guidance", [EMAG(scale=1), EMAG(strength=0), PAG(scale=0), STG(scale=0)], ids=repr)
def test_neutral_settings_do_not_change_the_output_bitwise(guidance: Guidance) -> None:
    unguided = [tiny_wan()(**inputs)[0] for inputs in videos()]
    assert all(torch.equal(a, b) for a, b in zip(sample(tiny_wan(), videos(), guidance)[0], unguided, strict=True))


def test_averages_are_reset_by_a_new_run_or_shape(wan: Any) -> None:
    emag, scheduler, inputs = EMAG(decay=0.5, **ALWAYS), FlowMatchEulerDiscreteScheduler(), wan_inputs()
    with guide(wan, emag, scheduler=scheduler) as run:
        for _ in range(2):
            scheduler.set_timesteps(12)
            first = wan(**inputs)[0]
            # The first average is the live query itself, so nothing is perturbed.
            assert torch.allclose(first, tiny_wan()(**inputs)[0], atol=1e-6)
            assert all(value == 0 for value in run.trace.choices[-1].gradients.values())
            wan(**wan_inputs(seed=5))
            assert any(value > 0 for value in run.trace.choices[-1].gradients.values())
        shorter = {**inputs, "hidden_states": inputs["hidden_states"][:, :, :1]}
        wan(**shorter)
        assert all(value == 0 for value in run.trace.choices[-1].gradients.values())


def test_bfloat16_models_are_averaged_in_float32() -> None:
    """At decay 0.988 most values of a bfloat16 average would never change."""
    model, emag = tiny_wan().bfloat16(), EMAG(select=(1,), **ALWAYS)
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, emag, scheduler=scheduler):
        scheduler.set_timesteps(20)
        for step in range(3):
            model(**wan_inputs(seed=step, dtype=torch.bfloat16))
        averages = averages_of(model)
    assert averages[1].averages[0].dtype == torch.float32


def test_corrections_do_not_depend_on_their_order() -> None:
    negative = negative_text()
    listed: list[Guidance] = [
        EMAG(decay=0.5, select=(2,), **ALWAYS),
        STG(mode="attention", layers=(1,)),
        NAG(negative_prompt_embeds=negative),
        CFG(scale=3, negative_prompt_embeds=negative),
    ]
    forward_order = sample(tiny_wan(), videos(), *listed)[0]
    reverse_order = sample(tiny_wan(), videos(), *listed[::-1])[0]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(forward_order, reverse_order, strict=True))


def test_cfg_combines_the_emag_prediction() -> None:
    """Eq. 15: `u + w (c' - u)`; the unconditional branch is not perturbed."""
    emag, negative = EMAG(decay=0.5, select=(2,), **ALWAYS), negative_text()
    calls = videos()
    corrected = sample(tiny_wan(), calls, emag)[0]
    guided = sample(tiny_wan(), calls, emag, CFG(scale=3, negative_prompt_embeds=negative))[0]
    for inputs, c, result in zip(calls, corrected, guided, strict=True):
        u = tiny_wan()(**{**inputs, "encoder_hidden_states": negative.expand(2, -1, -1)})[0]
        assert torch.allclose(result, u + 3 * (c - u), atol=1e-5)


def test_nag_acts_in_both_passes_of_emag() -> None:
    """EMAG corrects the model under NAG, not the unguided model."""
    nag = NAG(negative_prompt_embeds=negative_text(length=7))
    emag = EMAG(decay=0.5, select=(2,), scale=3, **ALWAYS)
    together = sample(tiny_wan(), videos(), nag, emag)[0]
    emag_only = sample(tiny_wan(), videos(), emag)[0]
    nag_only = sample(tiny_wan(), videos(), nag)[0]
    unguided = [tiny_wan()(**inputs)[0] for inputs in videos()]
    difference = (together[-1] - nag_only[-1]) - (emag_only[-1] - unguided[-1])
    assert difference.abs().max() > 1e-4


def test_apg_without_projection_equals_cfg_and_zero_star_starts_at_zero() -> None:
    negative = negative_text()
    cfg = sample(tiny_wan(), videos(), CFG(scale=3, negative_prompt_embeds=negative))[0]
    apg = sample(tiny_wan(), videos(), APG(scale=3, eta=1, radius=0, negative_prompt_embeds=negative))[0]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(cfg, apg, strict=True))
    star = sample(tiny_wan(), videos(), CFGZeroStar(scale=3, negative_prompt_embeds=negative))[0]
    assert star[0].abs().max() == 0
    assert not torch.allclose(star[1], cfg[1], atol=1e-4)


def test_zero_star_scales_the_unconditional_prediction_by_its_projection() -> None:
    model, inputs, negative = tiny_wan(), wan_inputs(), negative_text()
    cond, uncond = model(**inputs)[0], model(**{**inputs, "encoder_hidden_states": negative.expand(2, -1, -1)})[0]
    scaled = torch.stack(
        [(c.flatten() @ u.flatten()) / u.square().sum() * u for c, u in zip(cond, uncond, strict=True)]
    )
    with guide(model, CFGZeroStar(scale=3, zero_steps=0, negative_prompt_embeds=negative)):
        assert torch.allclose(model(**inputs)[0], scaled + 3 * (cond - scaled), atol=1e-4)


@pytest.mark.parametrize("guidance", SELF_GUIDANCES, ids=repr)
def test_exit_restores_the_model(wan: Any, snapshot: Callable[..., Any], guidance: Guidance) -> None:
    before, scheduler = snapshot(wan), FlowMatchEulerDiscreteScheduler()
    context = guide(wan, guidance, scheduler=scheduler)
    context.__enter__()
    scheduler.set_timesteps(3)
    wan(**wan_inputs())
    assert context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    assert snapshots_equal(before, snapshot(wan))


@pytest.mark.parametrize("guidance", [*SELF_GUIDANCES, SEG(layers=(1,))], ids=repr)
@pytest.mark.parametrize(("make", "each"), [(tiny_wan, videos), (cogvideox, clips)], ids=["Wan", "CogVideoX"])
def test_an_error_in_a_perturbed_pass_restores_the_model(
    make: Any, each: Any, guidance: Guidance, snapshot: Callable[..., Any]
) -> None:
    model, calls, passes = make(), each(2), iter(range(9))
    before, unguided = snapshot(model), model(**calls[1])[0]

    def fail(*args: Any) -> None:
        if (
            next(passes) == 3
        ):  # passes of step 0: unperturbed, perturbed; of step 1: unperturbed; fail in the perturbed pass
            raise ZeroDivisionError

    last = (model.blocks if hasattr(model, "blocks") else model.transformer_blocks)[-1]
    attention = getattr(last, "ffn", None) or last.ff
    handle = attention.register_forward_hook(fail)
    if isinstance(guidance, STG) and guidance.layers and 2 in guidance.layers and guidance.mode == "residual":
        handle.remove()  # the last block is skipped
        handle = model.proj_out.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        sample(model, calls, guidance)
    handle.remove()
    assert snapshots_equal(before, snapshot(model))
    assert torch.equal(model(**calls[1])[0], unguided)


def test_few_steps_warn_and_auto_decay_has_the_papers_total() -> None:
    with pytest.warns(UserWarning, match=r"over 6 steps.*93%.*decay=0\.945 and decay='auto'"):
        sample(tiny_wan(), videos(), EMAG())
    assert EMAG().decay_for(28) == EMAG(decay="auto").decay_for(250) == 0.988
    assert EMAG(decay="auto").decay_for(4) ** 4 == pytest.approx(0.988**250)


def test_maps_larger_than_memory_raise_with_their_size(wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidguide.edits.emag_maps.free_memory", lambda device: 1 << 20)
    large = {**wan_inputs(), "hidden_states": torch.randn(2, 4, 8, 32, 32)}
    message = r"2048 x 2048 tokens, 2 heads and 3 layers take 0\.3 GiB"
    guided = guide(wan, EMAG(variant="map", **ALWAYS), scheduler=FlowMatchEulerDiscreteScheduler())
    with guided, pytest.raises(ValueError, match=message):
        wan(**large)


@pytest.mark.parametrize(
    ("depth", "layers"), [(24, (6, 7, 8)), (30, (8, 9, 10)), (12, (3, 4, 5)), (11, tuple(range(11))), (1, (0,))]
)
def test_candidates_are_at_a_quarter_of_the_depth_and_in_shallow_models_all_blocks(
    depth: int, layers: tuple[int, ...]
) -> None:
    assert EMAG().candidates(depth) == EMAG(select="previous").candidates(depth) == layers
    assert EMAG(select="all").candidates(depth) == tuple(range(depth))
    assert EMAG(select="all", layers=(0,)).candidates(depth) == (0,)


@pytest.mark.parametrize(
    ("depths", "depth", "layers"),
    [
        ((0.25, 0.35), 24, (6, 7, 8)),
        ((0.25, 0.35), 5, (1, 2, 3)),
        ((0.25, 0.35), 1, (0,)),
        ((0.43, 0.54), 28, (12, 13, 14, 15)),
        ((0.43, 0.54), 40, (17, 18, 19, 20, 21, 22)),
        ((0.9, 1.0), 10, (7, 8, 9)),
        ((0.0, 1.0), 4, (0, 1, 2, 3)),
    ],
)
def test_candidates_at_shares_of_the_depth(depths: tuple[float, float], depth: int, layers: tuple[int, ...]) -> None:
    assert EMAG(depths=depths).candidates(depth) == EMAG(depths=depths, select="all").candidates(depth) == layers


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(decay=1.5), "decay=1.5"),
        (dict(strength=-0.1), "strength=-0.1"),
        (dict(average_from=0.5), "average_from=0.5"),
        (dict(select="best"), "largest, previous, all or a tuple"),
        (dict(select=()), "largest, previous, all or a tuple"),
        (dict(measure="ratio"), "measure='ratio'"),
        (dict(depths=(0.5, 0.2)), "two numbers, 0 to 1, the lower one first"),
        (dict(depths=(0.5,)), "two numbers"),
        (dict(depths=(0.1, 0.2), layers=(1,)), r"layers=\(1,\)\): both name the candidates"),
        (dict(depths=(0.1, 0.2), select=(1,)), r"select=\(1,\)\): both name the candidates"),
        (dict(select=(1,), layers=(2, 3)), "must be among layers"),
        (dict(variant="video"), "variant='video'"),
    ],
)
def test_invalid_values_raise_in_the_constructor(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMAG(**parameters)
    with pytest.raises(ValueError, match="mode='blocks'"):
        STG(mode="blocks")


def test_two_cfg_rules_raise(wan: Any) -> None:
    with pytest.raises(ValueError, match="CFG and APG both combine"):
        guide(wan, CFG(negative_prompt_embeds=negative_text()), APG(negative_prompt_embeds=negative_text())).__enter__()
