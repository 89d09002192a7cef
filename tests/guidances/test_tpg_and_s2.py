"""TPG and S²-Guidance against full passes of a model with wrapped or removed blocks, in float64."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from tests.helpers.sampling import clips, cogvideox, sample, videos
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import CFG, TPG, S2Guidance, guide
from vidguide.calls.outputs import prediction_of

MODELS = pytest.mark.parametrize(
    ("make", "each", "grid"), [(tiny_wan, videos, (2, 4, 4)), (cogvideox, clips, (2, 4, 3))], ids=["Wan", "CogVideoX"]
)


def blocks_name(model: Any) -> str:
    return "blocks" if hasattr(model, "blocks") else "transformer_blocks"


def shuffle(block: Any, order: Tensor) -> None:
    """Replace a block `x + f(x)` by `x + f(P x)`."""
    forward = block.forward

    def shuffled(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        permuted = hidden_states[:, order]
        output = forward(permuted, *args, **kwargs)
        if isinstance(output, tuple):
            return hidden_states + (output[0] - permuted), *output[1:]
        return hidden_states + (output - permuted)

    block.forward = shuffled


def plain_order(grid: tuple[int, int, int], extent: str | None, generator: torch.Generator) -> Tensor:
    frames, places = grid[0], grid[1] * grid[2]
    if extent == "temporal":
        moved = torch.randperm(frames, generator=generator).tolist()
        return torch.tensor([frame * places + place for frame in moved for place in range(places)])
    if extent == "spatial":
        inside = torch.randperm(places, generator=generator).tolist()
        return torch.tensor([frame * places + place for frame in range(frames) for place in inside])
    return torch.randperm(frames * places, generator=generator)


@pytest.mark.parametrize("extent", [None, "spatial", "temporal"])
@MODELS
def test_tpg_equals_its_plain_equation(make: Any, each: Any, grid: tuple[int, int, int], extent: str | None) -> None:
    calls = each(4, dtype=torch.float64)
    guided, run = sample(make().double(), calls, TPG(scale=2.0, seed=3, layers=(0, 2), extent=extent))
    for step, (inputs, ours) in enumerate(zip(calls, guided, strict=True)):
        model, generator = make().double(), torch.Generator().manual_seed(3 * 1_000_003 + step)
        cond = model(**inputs)[0]
        for layer in (0, 2):
            shuffle(getattr(model, blocks_name(model))[layer], plain_order(grid, extent, generator))
        torch.testing.assert_close(ours, cond + 2 * (cond - model(**inputs)[0]), atol=1e-9, rtol=0)
        assert (ours - cond).abs().max() > 1e-3 or extent == "temporal"  # two frames may keep their order
    assert [(choice.step, choice.layers) for choice in run.trace.choices] == [(step, (0, 2)) for step in range(4)]


def test_tpgs_default_layers_are_the_authors_share_of_the_depth() -> None:
    depths = {70: (6, 23), 30: (3, 9), 3: (0, 0), 1: (0, 0)}
    for depth, (first, last) in depths.items():
        assert TPG().chosen_layers(type("Model", (), {"depth": depth})) == tuple(range(first, last + 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("extent", ["spatial", "temporal"])
def test_tpg_with_an_extent_shuffles_blocks_of_that_extent(extent: str) -> None:
    tiny = BY_NAME["LatteTransformer3DModel"]
    model, inputs = tiny.make().double(), tiny.exact(tiny.inputs(2))
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, TPG(layers=(1,), extent=extent), scheduler=scheduler):
        scheduler.set_timesteps(1)
        guided = prediction_of(model(**inputs))
    unguided = prediction_of(model(**inputs))
    frames, height, width = 3, 4, 4
    order = torch.randperm(
        frames if extent == "temporal" else height * width, generator=torch.Generator().manual_seed(0)
    )
    path = "temporal_transformer_blocks" if extent == "temporal" else "transformer_blocks"
    shuffle(getattr(model, path)[1], order)
    torch.testing.assert_close(guided, unguided + 3 * (unguided - prediction_of(model(**inputs))), atol=1e-9, rtol=0)
    assert (guided - unguided).abs().max() > 1e-3


def test_tpg_does_not_shuffle_history_frames() -> None:
    tiny = BY_NAME["HunyuanVideoFramepackTransformer3DModel"]
    model, inputs, block_inputs = tiny.make(), tiny.inputs(1), []
    block = model.transformer_blocks[1]
    forward = block.forward

    def record(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        block_inputs.append(hidden_states)
        return forward(hidden_states, *args, **kwargs)

    block.forward = record
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, TPG(layers=(1,)), scheduler=scheduler):
        scheduler.set_timesteps(1)
        model(**inputs)
    (ordered, shuffled), history = block_inputs, 73 - 48
    assert torch.equal(ordered[:, :history], shuffled[:, :history])
    assert not torch.equal(ordered[:, history:], shuffled[:, history:])
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ordered[:, history:][:, order], shuffled[:, history:])


@MODELS
def test_s2_equals_the_model_without_the_drawn_blocks(make: Any, each: Any, grid: Any) -> None:
    calls = each(6, dtype=torch.float64)
    guided, run = sample(make().double(), calls, S2Guidance(scale=0.7, share=0.5, seed=1, layers=(0, 1, 2)))
    drawn = [choice.layers for choice in run.trace.choices]
    assert all(len(layers) == 2 for layers in drawn)
    assert len(set(drawn)) > 1
    for inputs, layers, ours in zip(calls, drawn, guided, strict=True):
        model = make().double()
        cond, name = model(**inputs)[0], blocks_name(model)
        remaining = [block for layer, block in enumerate(getattr(model, name)) if layer not in layers]
        setattr(model, name, nn.ModuleList(remaining))
        torch.testing.assert_close(ours, cond + 0.7 * (cond - model(**inputs)[0]), atol=1e-9, rtol=0)


def test_s2_draws_blocks_by_seed_and_step_except_the_first() -> None:
    model, calls = tiny_wan(num_layers=8), videos(12)
    draws = [[c.layers for c in sample(model, calls, S2Guidance(seed=seed))[1].trace.choices] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(layers) == 1 and layers[0] > 0 for layers in draws[0])
    assert len(set(draws[0])) > 3
    choices = sample(model, calls[:1], S2Guidance(share=0.4))[1].trace.choices
    assert len(choices[0].layers) == 3  # of seven candidates


@pytest.mark.parametrize("guidance", [TPG(scale=2.0, layers=(0,)), S2Guidance(layers=(1, 2))], ids=["TPG", "S2"])
def test_corrections_are_added_to_the_cfg_prediction(guidance: Any) -> None:
    negative, calls = negative_text(dtype=torch.float64), videos(3, dtype=torch.float64)
    cfg = CFG(scale=4.0, negative_prompt_embeds=negative)
    plain, alone, together, ruled = (
        sample(tiny_wan().double(), calls, *listed)[0] for listed in ((), (guidance,), (guidance, cfg), (cfg,))
    )
    for c, corrected, both, rule in zip(plain, alone, together, ruled, strict=True):
        torch.testing.assert_close(both, rule + (corrected - c), atol=1e-9, rtol=0)
        assert (corrected - c).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [TPG(scale=0), TPG(scale=[0, 0]), S2Guidance(scale=0)], ids=repr)
def test_neutral_settings_do_not_change_the_output_bitwise(guidance: Any) -> None:
    unguided = [tiny_wan()(**inputs)[0] for inputs in videos(2)]
    guided, run = sample(tiny_wan(), videos(2), guidance)
    assert all(torch.equal(a, b) for a, b in zip(guided, unguided, strict=True))
    assert not run.trace.choices


def test_invalid_values_raise() -> None:
    with pytest.raises(TypeError, match=r"TPG\(seed=0\.5\): must be a whole number"):
        TPG(seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"S2Guidance\(share=0\): no block is skipped"):
        S2Guidance(share=0)
    with pytest.raises(ValueError, match=r"S2Guidance\(share=1\.5\)"):
        S2Guidance(share=1.5)
    with pytest.raises(ValueError, match=r"S2Guidance\(extent='temporal'\): Wan has no temporal blocks"):
        guide(tiny_wan(), S2Guidance(extent="temporal"), scheduler=FlowMatchEulerDiscreteScheduler()).__enter__()


@pytest.mark.parametrize("guidance", [TPG(), S2Guidance()], ids=["TPG", "S2"])
def test_random_guidances_require_a_scheduler(guidance: Any) -> None:
    with pytest.raises(ValueError, match="depends on the step"), guide(tiny_wan(), guidance):
        tiny_wan()(**wan_inputs())
