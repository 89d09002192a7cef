"""EMAG-Q's average and D of queries before the rotary embedding, compared with hooks on the query modules."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.sampling import sample, videos
from tests.helpers.tiny_families import BY_NAME, Tiny, noise
from tests.helpers.tiny_wan import tiny_wan
from vidguide import EMAG
from vidguide.attention.site import AttentionSite, KernelCall
from vidguide.attention.sites import fixed_self_attention
from vidguide.edits.emag_average import AverageQuery
from vidguide.transformer.family import families

EMAG_Q: dict[str, Any] = dict(decay=0.6, scale=3, start=0.0, stop=1.0)
SOFTMAX = [name for name, tiny in BY_NAME.items() if not fixed_self_attention(families()[tiny.key])]
WITHOUT_ROTARY = ("LatteTransformer3DModel", "CogVideoXTransformer3DModel", "ConsisIDTransformer3DModel")


def calls_of(tiny: Tiny, steps: int = 3) -> list[dict[str, Any]]:
    """Return a call per step, each with another video."""
    inputs = tiny.exact(tiny.inputs(2))
    shape = inputs["hidden_states"].shape
    videos = [inputs["hidden_states"] + noise(*shape, seed=60 + step).to(tiny.dtype) for step in range(steps)]
    return [{**inputs, "hidden_states": video} for video in videos]


def model_of(tiny: Tiny) -> Any:
    return tiny.make().to(tiny.dtype)


@pytest.mark.parametrize("name", SOFTMAX)
def test_the_observed_rotation_gives_the_query_of_the_kernel_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, has_rotary, live = BY_NAME[name], [], AverageQuery.live

    def compare(average: AverageQuery, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        rotary, video = kernel.rotary, average.video
        has_rotary.append(rotary is not None)
        if rotary is not None:
            unrotated, expected = rotary.unrotated(query.shape[-1]), video.take(query, kernel.batch, kernel.index)
            rotated = video.take(rotary(unrotated), kernel.batch, kernel.index)
            torch.testing.assert_close(rotated.to(expected.dtype), expected, atol=0, rtol=0)
            assert not torch.allclose(video.take(unrotated, kernel.batch, kernel.index), expected, atol=1e-2)
        return live(average, kernel, query, key)

    monkeypatch.setattr(AverageQuery, "live", compare)
    sample(model_of(tiny), calls_of(tiny, 1), EMAG(**EMAG_Q))
    assert set(has_rotary) == {name not in WITHOUT_ROTARY}


@pytest.mark.parametrize("name", SOFTMAX)
def test_averages_before_and_after_the_rotation_give_equal_predictions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = BY_NAME[name]
    emag = EMAG(**EMAG_Q, strength=0.7, select=(1,))
    before = sample(model_of(tiny), calls_of(tiny), emag)[0]
    monkeypatch.setattr(AttentionSite, "take_rotary", lambda site, kernel: None)
    after = sample(model_of(tiny), calls_of(tiny), emag)[0]
    for unrotated, rotated in zip(before, after, strict=True):
        tiny.assert_equal(unrotated, rotated)
    assert not torch.equal(before[-1], model_of(tiny)(**calls_of(tiny)[-1])[0])


def test_averages_before_and_after_the_rotation_agree_to_rounding_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    emag, calls = EMAG(**EMAG_Q, select=(0, 1)), videos(5, torch.float64)
    before = sample(tiny_wan().double(), calls, emag)[0]
    monkeypatch.setattr(AttentionSite, "take_rotary", lambda site, kernel: None)
    after = sample(tiny_wan().double(), calls, emag)[0]
    for unrotated, rotated in zip(before, after, strict=True):
        torch.testing.assert_close(unrotated, rotated, atol=1e-12, rtol=0)


TEXT = 7  # prompt tokens of the tiny models
# Path of the module that computes each query, and the selection of its video tokens:
# from (B, L, C), (B, L, H, D) or (B, H, L, D).
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
    """Recorder of the query of every block, in execution order, by forward hooks."""

    def __init__(self, model: Any, query_paths: dict[str, Any]) -> None:
        self.steps: list[list[Tensor]] = []
        for query_path, video in query_paths.items():
            blocks, path = query_path.split(".*.")
            for block in model.get_submodule(blocks):
                block.get_submodule(path).register_forward_hook(self.hook(video))

    def hook(self, video: Any) -> Any:
        return lambda module, args, query: self.steps[-1].append(video(query).double().clone())

    def gradients(self, decay: float) -> list[list[list[float]]]:
        """Return D of each block and sample in each step, by the paper's equations."""
        averages, gradients = list(self.steps[0]), []
        for step in self.steps:
            averages = [decay * e + (1 - decay) * a for e, a in zip(averages, step, strict=True)]
            distances = [(e - a).abs() for e, a in zip(averages, step, strict=True)]
            gradients.append([d.unflatten(0, (2, -1)).flatten(1).mean(1).tolist() for d in distances])
        return gradients


@pytest.mark.parametrize("name", QUERIES)
def test_d_and_the_chosen_layer_use_queries_before_the_rotation(name: str) -> None:
    tiny = BY_NAME[name]
    model, calls = model_of(tiny), calls_of(tiny, 4)
    plain = PlainQueries(model, QUERIES[name])
    for inputs in calls:
        plain.steps.append([])
        model(**inputs)
    depth = len(plain.steps[0])
    assert depth >= 2
    run = sample(model_of(tiny), calls, EMAG(**EMAG_Q, layers=tuple(range(depth))))[1]
    for choice, expected in zip(run.trace.choices, plain.gradients(0.6), strict=True):
        for sample_choice, by_layer in zip(choice.samples, zip(*expected, strict=True), strict=True):
            gradients = [sample_choice.gradients[layer] for layer in range(depth)]
            torch.testing.assert_close(torch.tensor(gradients), torch.tensor(by_layer), atol=1e-7, rtol=1e-6)
            assert sample_choice.layers == (max(range(depth), key=gradients.__getitem__),)
        means = torch.tensor(expected).mean(1)
        gradients = [choice.gradients[layer] for layer in range(depth)]
        torch.testing.assert_close(torch.tensor(gradients), means, atol=1e-7, rtol=1e-6)
        assert set(choice.layers) == {layer for one in choice.samples for layer in one.layers}


def chosen_layers(model: Any, calls: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    choices = sample(model, calls, EMAG(**EMAG_Q, layers=(0, 1, 2)))[1].trace.choices
    return [one.layers for choice in choices for one in choice.samples]


def test_queries_after_the_rotation_choose_different_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = videos(8, torch.float64)
    before = chosen_layers(tiny_wan().double(), calls)
    monkeypatch.setattr(AttentionSite, "take_rotary", lambda site, kernel: None)
    assert chosen_layers(tiny_wan().double(), calls) != before
