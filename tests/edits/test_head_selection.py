"""Spatial and temporal heads: attention whose extent is known by hand, and guidances that act on one extent only."""

import dataclasses
import io
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
from vidguide.edits.head_selection import attention_mass
from vidguide.guidances.head_probe import HeadProbe, ProbedError
from vidguide.pipelines.cli.head_map import head_table

GRID = (3, 2, 4)
TOKENS = 24


def hand_made(*kinds: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys `(1, L, H, D)`: heads that look at their frame, at their pixel, or at everything alike."""
    frames = torch.arange(TOKENS) // 8
    pixels = torch.arange(TOKENS) % 8
    codes = {
        "frame": torch.nn.functional.one_hot(frames, TOKENS),
        "pixel": torch.nn.functional.one_hot(pixels, TOKENS),
        "all": torch.zeros(TOKENS, TOKENS),
    }
    keys = torch.stack([codes[kind].float() for kind in kinds], 1).unsqueeze(0)
    return 1000 * keys, keys


def test_hand_made_attention_is_measured_as_it_was_made() -> None:
    query, key = hand_made("frame", "pixel", "all")
    mass = attention_mass(query, key, GRID, torch.arange(TOKENS))
    # All in the frame: of the column, only the token itself. All in the column: of the frame, only itself.
    expected = torch.tensor([[1, 1 / 8], [1 / 3, 1], [1 / 3, 1 / 8]])
    torch.testing.assert_close(mass, expected)


def test_sampled_queries_text_keys_and_masks_are_accounted_for() -> None:
    query, key = hand_made("frame", "pixel", "all")
    text = torch.zeros(1, 8, 3, TOKENS)
    some = torch.tensor([3, 11, 20])
    masked = torch.arange(8 + TOKENS) >= 8
    mass = attention_mass(query[:, some], torch.cat([text, key], 1), GRID, some, mask=masked.view(1, 1, 1, -1), first=8)
    torch.testing.assert_close(mass, torch.tensor([[1, 1 / 8], [1 / 3, 1], [1 / 3, 1 / 8]]))
    mass = attention_mass(query[:, some], torch.cat([text, key], 1), GRID, some, first=8)
    torch.testing.assert_close(mass[2], torch.tensor([8 / 32, 3 / 32]))  # the text takes its share


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
    """Share within the frame and within the pixel column of every head `(H, 2)`, from whole maps, query by query."""
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
        rows = weights[:, :, query].mean(0)
        result[:, 0] += rows[:, frame == frame[query]].sum(-1) / 32
        result[:, 1] += rows[:, pixel == pixel[query]].sum(-1) / 32
    return result


def temporal_wan() -> Any:
    """A Wan whose second head of each self-attention looks along time: it knows positions within the frame only."""
    model = tiny_wan()
    for block in model.blocks:
        attention = block.attn1
        for project, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)):
            project.weight.data[12:] = 0
            project.bias.data[12:] = (torch.arange(12) >= 4).float()  # the first four turn with the frame
            norm.weight.data[16:] = 10
    return model


@pytest.mark.parametrize("extent", ["spatial", "temporal"])
def test_pag_passes_the_values_of_the_heads_of_one_extent(extent: str) -> None:
    model, inputs = temporal_wan(), wan_inputs()
    mass = masses(model, 1, inputs)
    heads = (mass[:, 1] > mass[:, 0]) == (extent == "temporal")
    assert heads.tolist() == [extent == "spatial", extent == "temporal"]
    cond = model(**inputs)[0]
    with guide(model, PAG(layers=(1,), extent=extent, scale=2)):
        guided = model(**inputs)[0]
    model.blocks[1].attn1.processor = PlainHeads(heads)
    weak = model(**inputs)[0]
    torch.testing.assert_close(guided, cond + 2 * (cond - weak), atol=1e-5, rtol=0)
    assert (guided - cond).abs().max() > 1e-3


def test_emag_measures_and_perturbs_the_heads_of_one_extent() -> None:
    """With every head of one extent, EMAG of that extent is EMAG, and of the other it is refused."""
    emag = dict(decay=0.5, layers=(0, 1), **ALWAYS)
    everything, _ = sampled(tiny_wan(), videos(3), EMAG(**emag))
    spatial, _ = sampled(tiny_wan(), videos(3), EMAG(extent="spatial", **emag))
    for one, other in zip(everything, spatial, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="have no temporal head"):
        sampled(tiny_wan(), videos(3), EMAG(extent="temporal", **emag))
    gradients = [
        sampled(temporal_wan(), videos(3), EMAG(extent=extent, **emag))[1].trace.choices[1].gradients[0]
        for extent in (None, "spatial", "temporal")
    ]
    assert gradients[1] != gradients[2]
    assert gradients[0] == pytest.approx((gradients[1] + gradients[2]) / 2)  # one head of each


@pytest.mark.parametrize("name", ["CogVideoXTransformer3DModel/rotary", "MochiTransformer3DModel"])
def test_in_joint_attention_heads_are_told_too(name: str) -> None:
    tiny = BY_NAME[name]
    model, inputs = tiny.make(), tiny.inputs(2)
    nag = NAG(negative_prompt_embeds=tiny.negative())
    with guide(model, PAG(layers=(1,)), nag):
        every = model(**inputs)[0]
    with guide(model, PAG(layers=(1,), extent="spatial"), nag):
        spatial = model(**inputs)[0]
    torch.testing.assert_close(spatial, every, atol=1e-5, rtol=0)  # random attention is even, and frames are larger
    with pytest.raises(ValueError, match="no temporal head"), guide(model, PAG(layers=(1,), extent="temporal"), nag):
        model(**inputs)


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
    model, calls = temporal_wan(), videos(4)
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
    drawn = Console(width=80, file=io.StringIO())
    drawn.print(head_table(probe.heads))
    lines = drawn.file.getvalue().splitlines()
    assert len([line for line in lines if line.count("*") == 1 and line.strip()[0].isdigit()]) == 3


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
