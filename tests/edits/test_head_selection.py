"""Spatial and temporal heads: synthetic attention of known extent, and guidances that select heads by extent."""

import dataclasses
import io
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from rich.console import Console

from tests.helpers.plain_emag import PlainSelfAttention
from tests.helpers.sampling import ALWAYS, sample, videos
from tests.helpers.tiny_families import BY_NAME, row
from tests.helpers.tiny_wan import tiny_wan, wan_inputs
from vidguide import EMAG, NAG, PAG, STG, guide
from vidguide.functional.head_mass import LIFT, attention_mass, has_extent, lift
from vidguide.guidances.head_probe import HeadMass, HeadProbe, ProbedError
from vidguide.pipelines.cli.head_map import count_extents, head_table

GRID = (3, 2, 4)
GRIDS = [GRID, (2, 4, 4), (8, 3, 3), (16, 2, 2), (5, 6, 10)]


def synthetic_attention(grid: tuple[int, int, int], strength: float, *kinds: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries and keys `(1, L, H, L)` with scores of `strength` within the frame, within the column, at the
    token itself, or nowhere, and 0 elsewhere."""
    tokens, pixels = grid[0] * grid[1] * grid[2], grid[1] * grid[2]
    index = torch.arange(tokens)
    codes = {"frame": index // pixels, "pixel": index % pixels, "token": index}
    one_hot = {kind: torch.nn.functional.one_hot(code, tokens).float() for kind, code in codes.items()}
    keys = torch.stack([one_hot.get(kind, torch.zeros(tokens, tokens)) for kind in kinds], 1).unsqueeze(0)
    return strength * tokens**0.5 * keys, keys


def plain_mass(grid: tuple[int, int, int], strength: float, kind: str) -> tuple[float, float]:
    """Return the shares of frame and column in the mass of all other tokens, by counting."""
    frames, pixels = grid[0], grid[1] * grid[2]
    near, far = {"frame": (pixels - 1, frames - 1), "pixel": (frames - 1, pixels - 1)}.get(kind, (0, 0))
    total = near * math.exp(strength) + (frames * pixels - 1 - near)
    if not near:
        return (pixels - 1) / total, (frames - 1) / total
    shares = near * math.exp(strength) / total, far / total
    return shares if kind == "frame" else shares[::-1]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 3.0, 50.0])
def test_mass_of_synthetic_attention_equals_the_counted_mass(grid: tuple[int, int, int], strength: float) -> None:
    kinds = ("frame", "pixel", "token", "all")
    attention = synthetic_attention(grid, strength, *kinds)
    (mass,) = attention_mass(*attention, grid, torch.arange(grid[0] * grid[1] * grid[2]))
    expected = torch.tensor([plain_mass(grid, strength, kind) for kind in kinds])
    torch.testing.assert_close(mass, expected, rtol=1e-4, atol=1e-6)
    lifts = lift(mass, grid)
    # Also for a head that attends to its own token only.
    torch.testing.assert_close(lifts[2:], torch.ones(2, 2), rtol=1e-4, atol=1e-4)
    for head, kind in enumerate(("spatial", "temporal", "neither", "neither")):
        above = lifts[head].max() > LIFT
        assert has_extent(lifts, kind if above else "neither")[head]
        assert sum(has_extent(lifts, extent)[head] for extent in ("spatial", "temporal", "neither")) == 1
    if strength == 50:
        assert lifts.amax(1)[:2].tolist() == pytest.approx([1 / share for share in uniform_mass(grid)], rel=1e-3)


def uniform_mass(grid: tuple[int, int, int]) -> tuple[float, float]:
    """Return the shares within frame and column under uniform attention."""
    frames, pixels = grid[0], grid[1] * grid[2]
    return (pixels - 1) / (frames * pixels - 1), (frames - 1) / (frames * pixels - 1)


def test_a_head_with_52_times_the_uniform_mass_on_its_column_is_temporal_at_480p() -> None:
    """Most of its mass is within the frame, as the frame has 74 times the tokens of a column of 21 frames."""
    grid = (21, 30, 52)
    within, along = uniform_mass(grid)
    mass = torch.tensor([[0.06, 52 * along], [within, along], [1.6 * within, 1.55 * along], [1.4 * within, 0.0]])
    assert mass[0, 0] > mass[0, 1]
    lifts = lift(mass, grid)
    assert lifts[0].tolist() == pytest.approx([0.06 * 21, 52], rel=1e-3)
    assert has_extent(lifts, "temporal").tolist() == [True, False, False, False]
    assert has_extent(lifts, "spatial").tolist() == [False, False, True, False]
    assert has_extent(lifts, "neither").tolist() == [False, True, False, True]


@pytest.mark.parametrize("grid", [(1, 4, 4), (6, 1, 1), (1, 1, 1)])
def test_heads_have_no_extent_on_grids_of_one_frame_or_one_pixel(grid: tuple[int, int, int]) -> None:
    mass = attention_mass(
        *synthetic_attention(grid, 50.0, "frame", "pixel"), grid, torch.arange(grid[0] * grid[1] * grid[2])
    )
    assert has_extent(lift(mass, grid), "neither").all()


def test_mass_with_sampled_queries_text_keys_and_masks() -> None:
    query, key = synthetic_attention(GRID, 2.0, "frame", "pixel", "all")
    text, sampled_queries = torch.randn(1, 8, 3, 24), torch.tensor([3, 11, 20])
    expected = torch.tensor([plain_mass(GRID, 2.0, kind) for kind in ("frame", "pixel", "all")])
    (mass,) = attention_mass(query[:, sampled_queries], torch.cat([text, key], 1), GRID, sampled_queries, first=8)
    torch.testing.assert_close(mass, expected)  # attention to text does not count
    open_keys = (torch.arange(32) < 8) | (torch.arange(32) >= 16)  # the first frame is masked
    mask = open_keys.view(1, 1, 1, -1)
    (mass,) = attention_mass(
        query[:, sampled_queries[1:]], torch.cat([text, key], 1), GRID, sampled_queries[1:], mask=mask, first=8
    )
    torch.testing.assert_close(mass[2], torch.tensor([7 / 15, 1 / 15]))


class PlainHeads:
    """Wan's self-attention in which the output of some heads is their value."""

    def __init__(self, heads: torch.Tensor) -> None:
        self.heads = heads

    def __call__(self, attn: Any, hidden: Any, text: Any, mask: Any, rotary: Any) -> torch.Tensor:
        plain = PlainSelfAttention("query")
        query, key = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden))
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, attn.to_v(hidden)))
        output = plain.attend(plain.rotate(query, *rotary), plain.rotate(key, *rotary), value, slice(None))
        output[:, :, self.heads] = value[:, :, self.heads]
        return attn.to_out[0](output.flatten(2))


def plain_head_mass(model: Any, layer: int, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the shares within frame and column of every head `(H, 2)`, from full maps, query by query."""
    maps = {}

    def record(attn: Any, hidden: Any, text: Any, mask: Any, rotary: Any) -> torch.Tensor:
        plain = PlainSelfAttention("map")
        result = plain(attn, hidden, text, mask, rotary)
        maps["map"] = plain.live
        return result

    original, model.blocks[layer].attn1.processor = model.blocks[layer].attn1.processor, record
    model(**inputs)
    model.blocks[layer].attn1.processor = original
    weights = maps["map"]
    frame, pixel = torch.arange(32) // 16, torch.arange(32) % 16
    result = torch.zeros(weights.shape[1], 2)
    for query in range(32):
        rows = weights[:, :, query].clone()
        rows[..., query] = 0
        rows = (rows / rows.sum(-1, keepdim=True)).mean(0)
        result[:, 0] += rows[:, frame == frame[query]].sum(-1) / 32
        result[:, 1] += rows[:, pixel == pixel[query]].sum(-1) / 32
    return result


def spatial_and_temporal_wan() -> Any:
    """Return a Wan whose self-attentions have one head that attends within its frame and one that attends along
    time."""
    model = tiny_wan()
    for block in model.blocks:
        attention = block.attn1
        for project, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)):
            project.weight.data *= torch.cat([torch.full((12, 1), 0.2), torch.zeros(12, 1)])
            turns_with_frame = torch.arange(12) < 4
            project.bias.data = torch.cat([turns_with_frame, ~turns_with_frame]).float()
            norm.weight.data = 1 + 9 * project.bias.data
    return model


@pytest.mark.parametrize("extent", ["spatial", "temporal"])
def test_pag_with_an_extent_perturbs_only_heads_of_that_extent(extent: str) -> None:
    model, inputs = spatial_and_temporal_wan().double(), wan_inputs(dtype=torch.float64)
    mass = plain_head_mass(model, 1, inputs)
    heads = has_extent(lift(mass, (2, 4, 4)), extent)
    assert heads.tolist() == [extent == "spatial", extent == "temporal"]
    cond = model(**inputs)[0]
    with guide(model, PAG(layers=(1,), extent=extent, scale=2)):
        guided = model(**inputs)[0]
    model.blocks[1].attn1.processor = PlainHeads(heads)
    perturbed = model(**inputs)[0]
    torch.testing.assert_close(guided, cond + 2 * (cond - perturbed), atol=1e-9, rtol=0)
    assert (guided - cond).abs().max() > 1e-3


def test_emag_with_an_extent_averages_only_heads_of_that_extent(monkeypatch: pytest.MonkeyPatch) -> None:
    """If every head has one extent, EMAG of that extent equals EMAG without one, and the other extent raises."""
    emag: dict[str, Any] = dict(decay=0.5, layers=(0, 1), **ALWAYS)
    gradients = [
        sample(spatial_and_temporal_wan(), videos(3), EMAG(extent=extent, **emag))[1].trace.choices[1].gradients[0]
        for extent in (None, "spatial", "temporal")
    ]
    assert gradients[1] != gradients[2]
    assert gradients[0] == pytest.approx((gradients[1] + gradients[2]) / 2)  # one head of each
    patch_head_mass(monkeypatch, 1.0, 0.0)
    all_heads, _ = sample(tiny_wan(), videos(3), EMAG(**emag))
    spatial, _ = sample(tiny_wan(), videos(3), EMAG(extent="spatial", **emag))
    for expected, result in zip(all_heads, spatial, strict=True):
        torch.testing.assert_close(expected, result, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="have no temporal head"):
        sample(tiny_wan(), videos(3), EMAG(extent="temporal", **emag))


def patch_head_mass(monkeypatch: pytest.MonkeyPatch, within: float, along: float) -> None:
    """Let the measurement return these shares for every head."""

    def mass(query: torch.Tensor, *args: Any) -> torch.Tensor:
        return torch.tensor([within, along]).expand(query.shape[0], query.shape[2], 2)

    monkeypatch.setattr("vidguide.edits.head_selection.attention_mass", mass)


def test_a_sample_without_heads_of_the_extent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mass = torch.tensor([[0.9, 0.0], [0.1, 0.9]]).unsqueeze(1).expand(2, 2, 2)  # the second sample has no spatial head
    monkeypatch.setattr("vidguide.edits.head_selection.attention_mass", lambda query, *args: mass)
    with pytest.raises(ValueError, match=r"layers \(1,\) have no spatial head in this model for samples \[1\] of the"):
        sample(tiny_wan(), videos(1), PAG(layers=(1,), extent="spatial"))


@pytest.mark.parametrize("name", ["CogVideoXTransformer3DModel/rotary", "MochiTransformer3DModel"])
def test_heads_are_selected_in_joint_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME[name]
    model, inputs = tiny.make(), tiny.inputs(2)
    nag = NAG(negative_prompt_embeds=tiny.negative())
    for extent in ("spatial", "temporal"):  # random weights give uniform attention
        with pytest.raises(ValueError, match=f"no {extent} head"), guide(model, PAG(layers=(1,), extent=extent), nag):
            model(**inputs)
    with guide(model, PAG(layers=(1,)), nag):
        every = model(**inputs)[0]
    patch_head_mass(monkeypatch, 0.1, 0.9)
    with guide(model, PAG(layers=(1,), extent="temporal"), nag):
        torch.testing.assert_close(model(**inputs)[0], every, atol=1e-5, rtol=0)


@pytest.mark.parametrize("guidance", [PAG(layers=(1,)), STG(layers=(1,), mode="residual"), EMAG(select=(1,), **ALWAYS)])
def test_an_extent_selects_the_module_in_models_with_separate_space_and_time_attention(guidance: Any) -> None:
    tiny = BY_NAME["LatteTransformer3DModel"]
    model, inputs = tiny.make(), tiny.inputs(1)
    guided = {}
    for extent in (None, "spatial", "temporal"):
        scheduler = FlowMatchEulerDiscreteScheduler()
        with guide(model, dataclasses.replace(guidance, extent=extent), scheduler=scheduler):
            scheduler.set_timesteps(20)
            model(**inputs)
            guided[extent] = model(**{**inputs, "hidden_states": inputs["hidden_states"].flip(2)})[0]
    assert torch.equal(guided[None], guided["spatial"])
    assert not torch.allclose(guided["spatial"], guided["temporal"], atol=1e-5)
    if isinstance(guidance, STG):
        del model.temporal_transformer_blocks[1]
        model.temporal_transformer_blocks.append(Identity())
        moved = {**inputs, "hidden_states": inputs["hidden_states"].flip(2)}
        cond = tiny.make()(**moved)[0]
        expected = cond + guidance.scale * (cond - model(**moved)[0])
        torch.testing.assert_close(guided["temporal"], expected, atol=1e-5, rtol=0)


class Identity(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, *args: Any) -> torch.Tensor:
        return hidden_states


def test_invalid_extents_raise() -> None:
    with pytest.raises(ValueError, match="extent='time'"):
        PAG(extent="time")
    with (
        pytest.raises(ValueError, match="Wan has no temporal blocks"),
        guide(tiny_wan(), STG(mode="residual", extent="temporal")),
    ):
        pass


def test_the_probe_measures_every_head_in_one_pass_and_ends_the_run() -> None:
    model, calls = spatial_and_temporal_wan(), videos(4)
    probe, runs = HeadProbe(start=0.5), []
    handle = model.register_forward_hook(lambda *args: runs.append(1))
    with pytest.raises(ProbedError):
        sample(model, calls, probe)
    handle.remove()
    assert len(runs) == 3  # the probe ends the run in the third of four steps
    assert [(head.layer, head.head) for head in probe.heads] == [(layer, head) for layer in range(3) for head in (0, 1)]
    for layer in range(3):
        expected = plain_head_mass(model, layer, calls[2])
        shares = [(head.within_frame, head.within_column) for head in probe.heads if head.layer == layer]
        torch.testing.assert_close(torch.tensor(shares), expected, atol=1e-5, rtol=0)  # all 32 tokens are sampled
    assert [head.extent for head in probe.heads] == ["spatial", "temporal"] * 3
    Console(width=80, file=(drawn := io.StringIO())).print(
        head_table([*probe.heads, HeadMass(3, 0, 0.5, 0.03, (2, 4, 4))])
    )
    lines = [line for line in drawn.getvalue().splitlines()[1:] if line.strip()]
    assert [(line.count("T"), line.count("S")) for line in lines] == [(1, 1)] * 3 + [(0, 0)]
    assert count_extents(probe.heads) == "temporal 3, spatial 3, neither 0"


def test_the_probe_measures_the_cond_samples_of_a_cfg_batch_only() -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
    model, inputs = tiny.make(), tiny.inputs(2)
    shares = []
    for guided, call in (
        (SimpleNamespace(transformer=model, do_classifier_free_guidance=True), inputs),
        (model, row(inputs, 1, 2)),
    ):
        probe = HeadProbe()
        with pytest.raises(ProbedError), guide(guided, probe):
            model(**call)
        shares.append(torch.tensor([(head.within_frame, head.within_column) for head in probe.heads]))
    torch.testing.assert_close(*shares)


def test_the_probe_raises_for_models_with_separate_space_and_time_attention() -> None:
    model = BY_NAME["LatteTransformer3DModel"].make()
    with pytest.raises(ValueError, match="separate modules for space and time"), guide(model, HeadProbe()):
        pass
