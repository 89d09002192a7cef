"""Spatial and temporal heads: attention whose extent is known by hand, and guidances that act on one extent only."""

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
from tests.helpers.sampling import ALWAYS, sampled, videos
from tests.helpers.tiny_families import BY_NAME, row
from tests.helpers.tiny_wan import tiny_wan, wan_inputs
from vidguide import EMAG, NAG, PAG, STG, guide
from vidguide.functional.head_mass import LIFT, attention_mass, has_extent, lift
from vidguide.guidances.head_probe import HeadMass, HeadProbe, ProbedError
from vidguide.pipelines.cli.head_map import count_extents, head_table

GRID = (3, 2, 4)
GRIDS = [GRID, (2, 4, 4), (8, 3, 3), (16, 2, 2), (5, 6, 10)]


def hand_made(grid: tuple[int, int, int], strength: float, *kinds: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys `(1, L, H, L)`: heads with scores of `strength` in their frame, in their column, at their own
    token, or nowhere, and 0 elsewhere."""
    tokens, pixels = grid[0] * grid[1] * grid[2], grid[1] * grid[2]
    index = torch.arange(tokens)
    codes = {"frame": index // pixels, "pixel": index % pixels, "own": index}
    one_hot = {kind: torch.nn.functional.one_hot(code, tokens).float() for kind, code in codes.items()}
    keys = torch.stack([one_hot.get(kind, torch.zeros(tokens, tokens)) for kind in kinds], 1).unsqueeze(0)
    return strength * tokens**0.5 * keys, keys


def plain_mass(grid: tuple[int, int, int], strength: float, kind: str) -> tuple[float, float]:
    """Shares within frame and column of the other tokens' mass, by counting."""
    frames, pixels = grid[0], grid[1] * grid[2]
    near, far = {"frame": (pixels - 1, frames - 1), "pixel": (frames - 1, pixels - 1)}.get(kind, (0, 0))
    total = near * math.exp(strength) + (frames * pixels - 1 - near)
    if not near:
        return (pixels - 1) / total, (frames - 1) / total
    shares = near * math.exp(strength) / total, far / total
    return shares if kind == "frame" else shares[::-1]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 3.0, 50.0])
def test_hand_made_attention_is_measured_as_it_was_made(grid: tuple[int, int, int], strength: float) -> None:
    kinds = ("frame", "pixel", "own", "all")
    mass = attention_mass(*hand_made(grid, strength, *kinds), grid, torch.arange(grid[0] * grid[1] * grid[2]))
    expected = torch.tensor([plain_mass(grid, strength, kind) for kind in kinds])
    torch.testing.assert_close(mass, expected, rtol=1e-4, atol=1e-6)
    lifts = lift(mass, grid)
    torch.testing.assert_close(lifts[2:], torch.ones(2, 2), rtol=1e-4, atol=1e-4)  # also of a head on its own token
    for head, kind in enumerate(("spatial", "temporal", "neither", "neither")):
        above = lifts[head].max() > LIFT
        assert has_extent(lifts, kind if above else "neither")[head]
        assert sum(has_extent(lifts, extent)[head] for extent in ("spatial", "temporal", "neither")) == 1
    if strength == 50:
        assert lifts.amax(1)[:2].tolist() == pytest.approx(
            [1 / mass_of_chance for mass_of_chance in chance(grid)], rel=1e-3
        )


def chance(grid: tuple[int, int, int]) -> tuple[float, float]:
    frames, pixels = grid[0], grid[1] * grid[2]
    return (pixels - 1) / (frames * pixels - 1), (frames - 1) / (frames * pixels - 1)


def test_a_head_with_52_times_chance_on_its_column_is_temporal_at_480p() -> None:
    """Though most of its mass is in the frame: a frame of 21 has 74 times the tokens of a column."""
    grid = (21, 30, 52)
    within, along = chance(grid)
    mass = torch.tensor([[0.06, 52 * along], [within, along], [1.6 * within, 1.55 * along], [1.4 * within, 0.0]])
    assert mass[0, 0] > mass[0, 1]
    lifts = lift(mass, grid)
    assert lifts[0].tolist() == pytest.approx([0.06 * 21, 52], rel=1e-3)
    assert has_extent(lifts, "temporal").tolist() == [True, False, False, False]
    assert has_extent(lifts, "spatial").tolist() == [False, False, True, False]
    assert has_extent(lifts, "neither").tolist() == [False, True, False, True]


@pytest.mark.parametrize("grid", [(1, 4, 4), (6, 1, 1), (1, 1, 1)])
def test_without_frames_or_pixels_no_head_has_an_extent(grid: tuple[int, int, int]) -> None:
    mass = attention_mass(*hand_made(grid, 50.0, "frame", "pixel"), grid, torch.arange(grid[0] * grid[1] * grid[2]))
    assert has_extent(lift(mass, grid), "neither").all()


def test_sampled_queries_text_keys_and_masks_are_accounted_for() -> None:
    query, key = hand_made(GRID, 2.0, "frame", "pixel", "all")
    text, some = torch.randn(1, 8, 3, 24), torch.tensor([3, 11, 20])
    expected = torch.tensor([plain_mass(GRID, 2.0, kind) for kind in ("frame", "pixel", "all")])
    mass = attention_mass(query[:, some], torch.cat([text, key], 1), GRID, some, first=8)
    torch.testing.assert_close(mass, expected)  # attention to text does not count
    open_keys = (torch.arange(32) < 8) | (torch.arange(32) >= 16)  # the first frame is masked
    mask = open_keys.view(1, 1, 1, -1)
    mass = attention_mass(query[:, some[1:]], torch.cat([text, key], 1), GRID, some[1:], mask=mask, first=8)
    torch.testing.assert_close(mass[2], torch.tensor([7 / 15, 1 / 15]))


class PlainHeads:
    """Wan's self-attention with the values of some heads passed through."""

    def __init__(self, heads: torch.Tensor) -> None:
        self.heads = heads

    def __call__(self, attn: Any, hidden: Any, text: Any, mask: Any, rotary: Any) -> torch.Tensor:
        plain = PlainSelfAttention("query")
        query, key = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden))
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, attn.to_v(hidden)))
        output = plain.attend(plain.rotate(query, *rotary), plain.rotate(key, *rotary), value, slice(None))
        output[:, :, self.heads] = value[:, :, self.heads]
        return attn.to_out[0](output.flatten(2))


def masses(model: Any, layer: int, inputs: dict[str, Any]) -> torch.Tensor:
    """Share within the frame and within the column of every head `(H, 2)`, from whole maps, query by query."""
    kept = {}

    def keep(attn: Any, hidden: Any, text: Any, mask: Any, rotary: Any) -> torch.Tensor:
        plain = PlainSelfAttention("map")
        result = plain(attn, hidden, text, mask, rotary)
        kept["map"] = plain.live
        return result

    own, model.blocks[layer].attn1.processor = model.blocks[layer].attn1.processor, keep
    model(**inputs)
    model.blocks[layer].attn1.processor = own
    weights = kept["map"]
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
    """A Wan whose self-attentions have a head that sees positions in time only, so attends within its frame, and one
    that sees positions within the frame only, so attends along time."""
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
def test_pag_passes_the_values_of_the_heads_of_one_extent(extent: str) -> None:
    model, inputs = spatial_and_temporal_wan().double(), wan_inputs(dtype=torch.float64)
    mass = masses(model, 1, inputs)
    heads = has_extent(lift(mass, (2, 4, 4)), extent)
    assert heads.tolist() == [extent == "spatial", extent == "temporal"]
    cond = model(**inputs)[0]
    with guide(model, PAG(layers=(1,), extent=extent, scale=2)):
        guided = model(**inputs)[0]
    model.blocks[1].attn1.processor = PlainHeads(heads)
    weak = model(**inputs)[0]
    torch.testing.assert_close(guided, cond + 2 * (cond - weak), atol=1e-9, rtol=0)
    assert (guided - cond).abs().max() > 1e-3


def test_emag_measures_and_perturbs_the_heads_of_one_extent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every head of one extent, EMAG of that extent is EMAG, and of the other it is refused."""
    emag: dict[str, Any] = dict(decay=0.5, layers=(0, 1), **ALWAYS)
    gradients = [
        sampled(spatial_and_temporal_wan(), videos(3), EMAG(extent=extent, **emag))[1].trace.choices[1].gradients[0]
        for extent in (None, "spatial", "temporal")
    ]
    assert gradients[1] != gradients[2]
    assert gradients[0] == pytest.approx((gradients[1] + gradients[2]) / 2)  # one head of each
    all_heads_have_mass(monkeypatch, 1.0, 0.0)
    everything, _ = sampled(tiny_wan(), videos(3), EMAG(**emag))
    spatial, _ = sampled(tiny_wan(), videos(3), EMAG(extent="spatial", **emag))
    for one, other in zip(everything, spatial, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="have no temporal head"):
        sampled(tiny_wan(), videos(3), EMAG(extent="temporal", **emag))


def all_heads_have_mass(monkeypatch: pytest.MonkeyPatch, within: float, along: float) -> None:
    """Let every head be measured so."""

    def mass(query: torch.Tensor, *args: Any) -> torch.Tensor:
        return torch.tensor([within, along]).expand(query.shape[2], 2)

    monkeypatch.setattr("vidguide.edits.head_selection.attention_mass", mass)


@pytest.mark.parametrize("name", ["CogVideoXTransformer3DModel/rotary", "MochiTransformer3DModel"])
def test_in_joint_attention_heads_are_selected_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME[name]
    model, inputs = tiny.make(), tiny.inputs(2)
    nag = NAG(negative_prompt_embeds=tiny.negative())
    for extent in ("spatial", "temporal"):  # the attention of random weights is spread evenly
        with pytest.raises(ValueError, match=f"no {extent} head"), guide(model, PAG(layers=(1,), extent=extent), nag):
            model(**inputs)
    with guide(model, PAG(layers=(1,)), nag):
        every = model(**inputs)[0]
    all_heads_have_mass(monkeypatch, 0.1, 0.9)
    with guide(model, PAG(layers=(1,), extent="temporal"), nag):
        torch.testing.assert_close(model(**inputs)[0], every, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weak", [PAG(layers=(1,)), STG(layers=(1,), mode="residual"), EMAG(select=(1,), **ALWAYS)])
def test_where_space_and_time_have_modules_of_their_own_one_of_them_is_perturbed(weak: Any) -> None:
    tiny = BY_NAME["LatteTransformer3DModel"]
    model, inputs = tiny.make(), tiny.inputs(1)
    found = {}
    for extent in (None, "spatial", "temporal"):
        scheduler = FlowMatchEulerDiscreteScheduler()
        with guide(model, dataclasses.replace(weak, extent=extent), scheduler=scheduler):
            scheduler.set_timesteps(20)
            model(**inputs)
            found[extent] = model(**{**inputs, "hidden_states": inputs["hidden_states"].flip(2)})[0]
    assert torch.equal(found[None], found["spatial"])
    assert not torch.allclose(found["spatial"], found["temporal"], atol=1e-5)
    if isinstance(weak, STG):
        del model.temporal_transformer_blocks[1]
        model.temporal_transformer_blocks.append(Through())
        moved = {**inputs, "hidden_states": inputs["hidden_states"].flip(2)}
        cond = tiny.make()(**moved)[0]
        expected = cond + weak.scale * (cond - model(**moved)[0])
        torch.testing.assert_close(found["temporal"], expected, atol=1e-5, rtol=0)


class Through(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, *args: Any) -> torch.Tensor:
        return hidden_states


def test_extents_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="extent='time'"):
        PAG(extent="time")
    with (
        pytest.raises(ValueError, match="Wan has no temporal blocks"),
        guide(tiny_wan(), STG(mode="residual", extent="temporal")),
    ):
        pass


def test_a_probe_measures_every_head_in_one_pass_and_ends_the_run() -> None:
    model, calls = spatial_and_temporal_wan(), videos(4)
    probe, runs = HeadProbe(start=0.5), []
    handle = model.register_forward_hook(lambda *args: runs.append(1))
    with pytest.raises(ProbedError):
        sampled(model, calls, probe)
    handle.remove()
    assert len(runs) == 3  # it ends within the third of four steps
    assert [(head.layer, head.head) for head in probe.heads] == [(layer, head) for layer in range(3) for head in (0, 1)]
    for layer in range(3):
        expected = masses(model, layer, calls[2])
        found = [(head.within_frame, head.within_column) for head in probe.heads if head.layer == layer]
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-5, rtol=0)  # all 32 tokens are sampled
    assert [head.extent for head in probe.heads] == ["spatial", "temporal"] * 3
    Console(width=80, file=(drawn := io.StringIO())).print(
        head_table([*probe.heads, HeadMass(3, 0, 0.5, 0.03, (2, 4, 4))])
    )
    lines = [line for line in drawn.getvalue().splitlines()[1:] if line.strip()]
    assert [(line.count("T"), line.count("S")) for line in lines] == [(1, 1)] * 3 + [(0, 0)]
    assert count_extents(probe.heads) == "temporal 3, spatial 3, neither 0"


def test_the_heads_of_a_doubled_batch_are_those_of_its_conditional_half() -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
    model, inputs = tiny.make(), tiny.inputs(2)
    found = []
    for guided, call in (
        (SimpleNamespace(transformer=model, do_classifier_free_guidance=True), inputs),
        (model, row(inputs, 1, 2)),
    ):
        probe = HeadProbe()
        with pytest.raises(ProbedError), guide(guided, probe):
            model(**call)
        found.append(torch.tensor([(head.within_frame, head.within_column) for head in probe.heads]))
    torch.testing.assert_close(*found)


def test_modules_of_their_own_are_not_profiled() -> None:
    model = BY_NAME["LatteTransformer3DModel"].make()
    with pytest.raises(ValueError, match="separate modules for space and time"), guide(model, HeadProbe()):
        pass
