"""EMAG-Q's average and D, of queries before their rotary embedding, against hooks on the modules that make them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.sampling import sampled, videos
from tests.helpers.tiny_families import BY_NAME, Tiny, noise
from tests.helpers.tiny_wan import tiny_wan
from vidguide import EMAG
from vidguide.attention.site import AttentionSite, KernelCall
from vidguide.edits.emag_average import AverageQuery

EMAG_Q: dict[str, Any] = dict(decay=0.6, scale=3, start=0.0, stop=1.0)
SOFTMAX = [name for name in BY_NAME if "Sana" not in name]
WITHOUT_ROTARY = ("LatteTransformer3DModel", "CogVideoXTransformer3DModel", "ConsisIDTransformer3DModel")


def calls_of(tiny: Tiny, steps: int = 3) -> list[dict[str, Any]]:
    """A call per step in which the video differs."""
    inputs = tiny.exact(tiny.inputs(2))
    shape = inputs["hidden_states"].shape
    moved = [inputs["hidden_states"] + noise(*shape, seed=60 + step).to(tiny.dtype) for step in range(steps)]
    return [{**inputs, "hidden_states": video} for video in moved]


def model_of(tiny: Tiny) -> Any:
    return tiny.make().to(tiny.dtype)


@pytest.mark.parametrize("name", SOFTMAX)
def test_the_models_rotation_of_the_observed_query_is_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, seen, live = BY_NAME[name], [], AverageQuery.live

    def compare(average: AverageQuery, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        rotary, video = kernel.rotary, average.video
        seen.append(rotary is not None)
        if rotary is not None:
            unrotated, expected = rotary.unrotated(query.shape[-1]), video.take(query, kernel.batch, kernel.index)
            rotated = video.take(rotary(unrotated), kernel.batch, kernel.index)
            torch.testing.assert_close(rotated.to(expected.dtype), expected, atol=0, rtol=0)
            assert not torch.allclose(video.take(unrotated, kernel.batch, kernel.index), expected, atol=1e-2)
        return live(average, kernel, query, key)

    monkeypatch.setattr(AverageQuery, "live", compare)
    sampled(model_of(tiny), calls_of(tiny, 1), EMAG(**EMAG_Q))
    assert set(seen) == {name not in WITHOUT_ROTARY}


@pytest.mark.parametrize("name", SOFTMAX)
def test_predictions_are_those_of_averages_after_the_rotation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME[name]
    emag = EMAG(**EMAG_Q, strength=0.7, select=(1,))
    before = sampled(model_of(tiny), calls_of(tiny), emag)[0]
    monkeypatch.setattr(AttentionSite, "take_rotary", lambda site, kernel: None)
    after = sampled(model_of(tiny), calls_of(tiny), emag)[0]
    for one, other in zip(before, after, strict=True):
        tiny.agree(one, other)
    assert not torch.equal(before[-1], model_of(tiny)(**calls_of(tiny)[-1])[0])


def test_in_float64_the_two_agree_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    emag, calls = EMAG(**EMAG_Q, select=(0, 1)), videos(5, torch.float64)
    before = sampled(tiny_wan().double(), calls, emag)[0]
    monkeypatch.setattr(AttentionSite, "take_rotary", lambda site, kernel: None)
    after = sampled(tiny_wan().double(), calls, emag)[0]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


TEXT = 7  # tokens of the prompt of the tiny models
# Where each attention's query comes from, and its video tokens there: (B, L, C), (B, L, H, D) or (B, H, L, D).
QUERIES: dict[str, dict[str, Any]] = {
    "WanTransformer3DModel": {"blocks.*.attn1.norm_q": lambda q: q},
    "LTXVideoTransformer3DModel": {"transformer_blocks.*.attn1.norm_q": lambda q: q},
    "CogVideoXTransformer3DModel/rotary": {"transformer_blocks.*.attn1.norm_q": lambda q: q[:, :, TEXT:]},
    "HunyuanVideoTransformer3DModel": {
        "transformer_blocks.*.attn.norm_q": lambda q: q,
        "single_transformer_blocks.*.attn.norm_q": lambda q: q[:, :-TEXT],
    },
    "MochiTransformer3DModel": {"transformer_blocks.*.attn1.norm_q": lambda q: q},
    "CosmosTransformer3DModel": {"transformer_blocks.*.attn1.norm_q": lambda q: q},
    "Kandinsky5Transformer3DModel": {"visual_transformer_blocks.*.self_attention.query_norm": lambda q: q},
    "LatteTransformer3DModel": {"transformer_blocks.*.attn1.to_q": lambda q: q},
}


class PlainQueries:
    """The queries of every block in the passes that are not perturbed, in the order in which blocks run."""

    def __init__(self, model: Any, places: dict[str, Any]) -> None:
        self.steps: list[list[Tensor]] = []
        for place, video in places.items():
            blocks, path = place.split(".*.")
            for block in model.get_submodule(blocks):
                block.get_submodule(path).register_forward_hook(self.hook(video))

    def hook(self, video: Any) -> Any:
        return lambda module, args, query: self.steps[-1].append(video(query).double().clone())

    def gradients(self, decay: float) -> list[list[float]]:
        """D of each block in each step, by the paper's equations."""
        averages, found = list(self.steps[0]), []
        for step in self.steps:
            averages = [decay * e + (1 - decay) * a for e, a in zip(averages, step, strict=True)]
            found.append([float((e - a).abs().mean()) for e, a in zip(averages, step, strict=True)])
        return found


@pytest.mark.parametrize("name", QUERIES)
def test_d_and_the_chosen_layer_are_those_of_queries_before_the_rotation(name: str) -> None:
    tiny = BY_NAME[name]
    model, calls = model_of(tiny), calls_of(tiny, 4)
    plain = PlainQueries(model, QUERIES[name])
    for inputs in calls:
        plain.steps.append([])
        model(**inputs)
    depth = len(plain.steps[0])
    assert depth >= 2
    run = sampled(model_of(tiny), calls, EMAG(**EMAG_Q, layers=tuple(range(depth))))[1]
    for choice, expected in zip(run.trace.choices, plain.gradients(0.6), strict=True):
        found = [choice.gradients[layer] for layer in range(depth)]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-7, rtol=1e-6)
        assert choice.layers == (max(range(depth), key=found.__getitem__),)


def chosen(model: Any, calls: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    return [choice.layers for choice in sampled(model, calls, EMAG(**EMAG_Q, layers=(0, 1, 2)))[1].trace.choices]


def test_queries_after_the_rotation_would_choose_other_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = videos(8, torch.float64)
    before = chosen(tiny_wan().double(), calls)
    monkeypatch.setattr(AttentionSite, "take_rotary", lambda site, kernel: None)
    assert chosen(tiny_wan().double(), calls) != before
