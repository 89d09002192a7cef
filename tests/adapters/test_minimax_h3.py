"""MiniMax-H3: laws of guidance in its packed sequence, in float64 against the model written plainly."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.helpers.pipeline_features import enable_attention_broadcast, enable_taylorseer
from tests.helpers.plain_minimax_h3 import (
    Attend,
    PlainProcessor,
    Rows,
    SplitRefiner,
    attend_plainly,
    attend_to,
    plain_h3,
    softmax_attention,
)
from tests.helpers.plain_nag import plain_grouped_nag, plain_nag
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_families import BY_NAME, Tiny, Values, cast, noise, packed_call
from vidguide import APG, CADS, CFG, EMAG, NAG, PAG, SEG, STG, TPG, VSF, EnhanceAVideo, S2Guidance, guide, locate
from vidguide.adapters.minimax_h3 import grid, media, text_first, with_text
from vidguide.edits.nag_combine import Combination
from vidguide.functional.cfg import apg, apg_radius, rescale_std
from vidguide.functional.seeds import generator_at
from vidguide.functional.shuffle import random_order
from vidguide.guidances.base import Guidance
from vidguide.guiding.guided_pipeline import transformers_of
from vidguide.transformer.context_parallel import ContextParallel

NAME = "MiniMaxH3Transformer3DModel"
pytestmark = pytest.mark.skipif(NAME not in BY_NAME, reason="MiniMax-H3 is in diffusers 0.42 and later")
KEYFRAMES = {"none": (), "first": ("first",), "both": ("first", "last")}
STRENGTH: Values = dict(scale=4.0, tau=1.5, alpha=0.5)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny().make().to(torch.float64)


def tiny() -> Tiny:
    return BY_NAME[NAME]


def call(keyframes: str = "none", length: int = 5, seed: int = 2, batch: int = 1) -> Values:
    """Return a call; with keyframes, some rows of its text are of the pictures that it was encoded with."""
    return tiny().exact(
        {
            **packed_call(batch, tags_of(length, keyframes), KEYFRAMES[keyframes]),
            "encoder_hidden_states": noise(batch, length, 16, seed=seed),
            "return_dict": False,
        }
    )


def tags_of(length: int, keyframes: str) -> Tensor:
    tags = torch.ones(length, dtype=torch.long)
    tags[1 : 1 + len(KEYFRAMES[keyframes])] = 0
    return tags


def text(length: int, keyframes: str = "none", seed: int = 5) -> Values:
    embeds = noise(1, length, 16, seed=seed).double()
    return {"encoder_hidden_states": embeds, "text_token_tags": tags_of(length, keyframes)}


def with_prompt(inputs: Values, keyframes: str, negative: Values) -> Values:
    """Return the call with the negative as its prompt, as the pipeline lays it out."""
    layout = call(keyframes, negative["encoder_hidden_states"].shape[1])
    media_rows = {name: inputs[name] for name in ("hidden_states", "audio_hidden_states")}
    return {**layout, **media_rows, "encoder_hidden_states": negative["encoder_hidden_states"]}


def predict(model: Any, inputs: Values, *guidances: Guidance) -> tuple[Tensor, Tensor]:
    with guide(model, *guidances):
        return model(**inputs)


def assert_equal(first: Any, second: Any, atol: float = 1e-12) -> None:
    """Assert that the predictions of video and audio are equal up to rounding."""
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype == torch.float64
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


def nag_of(group: Callable[[Tensor, Tensor], Tensor], *layers: int) -> Attend:
    """Return the attention of the media with NAG, of all layers where none is given."""

    def attend(rows: Rows, *tensors: Tensor) -> Tensor:
        positive = attend_plainly(rows, *tensors)
        if layers and rows.layer not in layers:
            return positive
        return group(positive, attend_to(rows, rows.negative, *tensors))

    return attend


def token_nag(positive: Tensor, negative: Tensor) -> Tensor:
    return plain_nag(positive, negative, *STRENGTH.values())


every_layout = pytest.mark.parametrize("keyframes", KEYFRAMES)


@every_layout
def test_the_plain_model_equals_the_model(model: Any, keyframes: str) -> None:
    inputs = call(keyframes)
    assert_equal(plain_h3(model, inputs), model(**inputs))


@pytest.mark.parametrize("length", [3, 5, 9])
@every_layout
def test_nag_equals_three_plain_streams(model: Any, keyframes: str, length: int) -> None:
    inputs, negative = call(keyframes), text(length, keyframes)
    guided = predict(model, inputs, NAG(negative_prompt_embeds=negative, **STRENGTH))
    assert_equal(guided, plain_h3(model, inputs, negative, nag_of(token_nag)))
    assert all((one - other).abs().max() > 1e-4 for one, other in zip(guided, model(**inputs), strict=True))


@every_layout
def test_nag_in_one_layer_carries_the_negative_through_all(model: Any, keyframes: str) -> None:
    inputs, negative = call(keyframes), text(4, keyframes)
    guided = predict(model, inputs, NAG(negative_prompt_embeds=negative, layers=(1,), **STRENGTH))
    assert_equal(guided, plain_h3(model, inputs, negative, nag_of(token_nag, 1)))


@pytest.mark.parametrize("norm", ["frame", "clip"])
@every_layout
def test_norms_of_nag_are_over_frames_or_clip_of_each_medium(model: Any, keyframes: str, norm: str) -> None:
    inputs, negative = call(keyframes), text(4, keyframes)
    conditions = 6 * len(KEYFRAMES[keyframes])

    def grouped(positive: Tensor, negative: Tensor) -> Tensor:
        lengths = [conditions, 8, 18]
        groups = [1, 8 if norm == "clip" else 1, 18 if norm == "clip" else 6]
        parts = zip(positive.split(lengths, 1), negative.split(lengths, 1), groups, strict=True)
        s, tau, alpha = STRENGTH.values()
        return torch.cat([plain_grouped_nag(p, n, s, tau, alpha, g) for p, n, g in parts if p.shape[1]], 1)

    guided = predict(model, inputs, NAG(negative_prompt_embeds=negative, norm=norm, **STRENGTH))
    assert_equal(guided, plain_h3(model, inputs, negative, nag_of(grouped)))
    by_token = predict(model, inputs, NAG(negative_prompt_embeds=negative, **STRENGTH))
    assert (guided[0] - by_token[0]).abs().max() > 1e-6


@pytest.mark.parametrize("norm", ["token", "frame", "clip"])
def test_attention_to_the_media_once_equals_two_full_passes(
    model: Any, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, nag = call("first"), NAG(negative_prompt_embeds=text(4, "first"), norm=norm, **STRENGTH)
    merged = predict(model, inputs, nag)
    monkeypatch.setattr("vidguide.edits.nag_attention.select_pair", lambda *args: None)
    assert_equal(merged, predict(model, inputs, nag))
    single = predict(tiny().make(), cast(inputs, torch.float32), nag)
    for one, other in zip(single, merged, strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-6, rtol=0)


def test_rows_of_the_negative_follow_the_timestep_of_each_step(model: Any) -> None:
    """A timestep is an index into a call's sorted timesteps: the video's is the first one, then the second one."""
    first, second, negative = call("first"), call("first"), text(4, "first")
    second["timestep"] = torch.tensor([0.5, 0.75, 0.999], dtype=torch.float64)
    second["timestep_indices"] = torch.tensor([1, 0, 2])[second["timestep_indices"]]
    scheduler = diffusers.MiniMaxH3Scheduler()
    with guide(model, NAG(negative_prompt_embeds=negative, **STRENGTH), scheduler=scheduler):
        scheduler.set_timesteps(3)
        for timestep, inputs in zip(scheduler.timesteps, (first, second), strict=True):
            guided = model(**inputs)
            assert_equal(guided, plain_h3(model, inputs, negative, nag_of(token_nag)))
            scheduler.step(guided[0], timestep, guided[0])


@every_layout
def test_the_prompt_as_negative_does_not_change_the_predictions(model: Any, keyframes: str) -> None:
    inputs = call(keyframes)
    assert_equal(predict(model, inputs, NAG(negative_prompt_embeds=text(5, keyframes, seed=2))), model(**inputs))


@pytest.mark.parametrize("length", [3, 5, 9])
@every_layout
def test_media_that_see_the_negative_alone_equal_the_negative_as_prompt(
    model: Any, keyframes: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative's rows end where the prompt ends on the time axis, as rotary embedding is relative."""
    monkeypatch.setattr(Combination, "__call__", lambda self, kernel, positive, negative: negative)
    inputs, negative = call(keyframes), text(length, keyframes)
    guided = predict(model, inputs, NAG(negative_prompt_embeds=negative))
    # The model rounds positions to float32 before it multiplies them by frequencies.
    assert_equal(guided, model(**with_prompt(inputs, keyframes, negative)), atol=1e-7)


@pytest.mark.parametrize("make", [NAG, VSF])
@every_layout
def test_the_order_of_the_rows_does_not_matter(model: Any, keyframes: str, make: Any) -> None:
    inputs, guidance = call(keyframes), make(negative_prompt_embeds=text(4, keyframes))
    mixed = shuffled(inputs)
    assert_equal(model(**mixed), model(**inputs))
    assert_equal(predict(model, mixed, guidance), predict(model, inputs, guidance))


def shuffled(inputs: Values) -> Values:
    """Return the call with its rows in a random order; those of each kind keep their order in the index."""
    order = torch.randperm(len(inputs["position_ids"]), generator=torch.Generator().manual_seed(4))
    place = order.argsort()
    rows = {name: inputs[name][order] for name in ("position_ids", "token_tags", "timestep_indices")}
    return {**inputs, **rows, **{f"{kind}_indices": place[inputs[f"{kind}_indices"]] for kind in KINDS}}


KINDS = ("text", "audio", "video")


def test_guidance_of_the_video_alone_refuses_rows_in_another_order(model: Any) -> None:
    with pytest.raises(ValueError, match="the generated video must be the last rows"):
        predict(model, shuffled(call("first")), PAG())


@pytest.mark.parametrize("length", [3, 5, 9])
@every_layout
def test_vsf_equals_one_plain_attention_with_flipped_values(model: Any, keyframes: str, length: int) -> None:
    inputs, negative = call(keyframes), text(length, keyframes)

    def attend(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys = torch.cat([rows.prompt, rows.media, rows.negative])
        is_negative = torch.arange(len(keys)) >= len(keys) - len(rows.negative)
        flipped = torch.where(is_negative[:, None, None], -1.5 * value[:, keys], value[:, keys])
        return softmax_attention(query[:, rows.media], key[:, keys], flipped, -0.2 * is_negative.double())

    guided = predict(model, inputs, VSF(negative_prompt_embeds=negative, scale=1.5, offset=0.2))
    assert_equal(guided, plain_h3(model, inputs, negative, attend))


@pytest.mark.parametrize("length", [3, 5, 9])
@every_layout
def test_cfg_lays_the_negative_out_as_the_pipeline_does(model: Any, keyframes: str, length: int) -> None:
    inputs, negative = call(keyframes), text(length, keyframes)
    cond, uncond = model(**inputs), model(**with_prompt(inputs, keyframes, negative))
    guided = predict(model, inputs, CFG(scale=3, negative_prompt_embeds=negative))
    conditions = 6 * len(KEYFRAMES[keyframes])
    expected = [u + 3 * (c - u) for c, u in zip(cond, uncond, strict=True)]
    assert_equal((guided[0][:, conditions:], guided[1]), (expected[0][:, conditions:], expected[1]))


@every_layout
def test_rules_of_cfg_and_rescale_are_over_the_generated_rows(model: Any, keyframes: str) -> None:
    inputs, negative = call(keyframes), text(4, keyframes)
    both = zip(model(**inputs), model(**with_prompt(inputs, keyframes, negative)), strict=True)
    (cond, uncond), (audio, uncond_audio) = both
    cond, uncond = (prediction[:, 6 * len(KEYFRAMES[keyframes]) :] for prediction in (cond, uncond))
    expected = apg(cond, uncond, 3, 0, apg_radius(15, cond.numel()), None, 0)[0]
    expected_audio = uncond_audio + 3 * (audio - uncond_audio)
    guided = predict(model, inputs, APG(scale=3, rescale=0.7, negative_prompt_embeds=negative))
    video = guided[0][:, -18:]
    assert_equal((video, guided[1]), (rescale_std(expected, cond, 0.7), rescale_std(expected_audio, audio, 0.7)))


def identity(*layers: int) -> Attend:
    """Return the attention in which the video's rows return their values in some layers."""

    def attend(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.zeros_like(query)
        output[:, rows.media] = attend_plainly(rows, query, key, value)
        if rows.layer in layers:
            output[:, rows.video] = value[:, rows.video]
        return output[:, rows.media]

    return attend


@pytest.mark.parametrize("layers", [(1,), (0, 2)])
@every_layout
def test_pag_and_stg_replace_the_map_of_the_generated_video(
    model: Any, keyframes: str, layers: tuple[int, ...]
) -> None:
    inputs = call(keyframes)
    cond, (perturbed, _) = model(**inputs), plain_h3(model, inputs, attend=identity(*layers))
    for guidance in (PAG(layers=layers, scale=2), STG(layers=layers, scale=2, mode="attention")):
        assert_equal(predict(model, inputs, guidance), (cond[0] + 2 * (cond[0] - perturbed), cond[1]))


@every_layout
def test_pag_on_top_of_nag_perturbs_the_guided_attention(model: Any, keyframes: str) -> None:
    inputs, negative = call(keyframes), text(4, keyframes)

    def attend(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.zeros_like(query)
        output[:, rows.media] = nag_of(token_nag)(rows, query, key, value)
        if rows.layer == 1:
            output[:, rows.video] = value[:, rows.video]
        return output[:, rows.media]

    cond, (perturbed, _) = (plain_h3(model, inputs, negative, a) for a in (nag_of(token_nag), attend))
    guided = predict(model, inputs, PAG(layers=(1,), scale=2), NAG(negative_prompt_embeds=negative, **STRENGTH))
    assert_equal(guided, (cond[0] + 2 * (cond[0] - perturbed), cond[1]))


@every_layout
def test_skipped_blocks_return_all_rows(model: Any, keyframes: str) -> None:
    inputs, negative = call(keyframes), text(4, keyframes)
    cond, (perturbed, _) = (plain_h3(model, inputs, negative, nag_of(token_nag), skipped) for skipped in ((), (1,)))
    guided = predict(model, inputs, STG(layers=(1,), scale=2), NAG(negative_prompt_embeds=negative, **STRENGTH))
    assert_equal(guided, (cond[0] + 2 * (cond[0] - perturbed), cond[1]))


@every_layout
def test_seg_blurs_the_queries_of_each_generated_frame(model: Any, keyframes: str) -> None:
    def attend(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if rows.layer == 1:
            query, frames = query.clone(), query[:, rows.video].unflatten(1, (rows.frames, -1))
            query[:, rows.video] = frames.mean(2, keepdim=True).expand_as(frames).flatten(1, 2)
        return attend_plainly(rows, query, key, value)

    inputs = call(keyframes)
    cond, (perturbed, _) = model(**inputs), plain_h3(model, inputs, attend=attend)
    guided = predict(model, inputs, SEG(layers=(1,), scale=2, sigma=None))
    assert_equal(guided, (cond[0] + 2 * (cond[0] - perturbed), cond[1]))


@every_layout
def test_enhance_a_video_scales_the_output_of_the_generated_video(model: Any, keyframes: str) -> None:
    def attend(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.zeros_like(query)
        output[:, rows.media] = attend_plainly(rows, query, key, value)
        q, k = (tensor[:, rows.video].unflatten(1, (rows.frames, -1)) for tensor in (query, key))
        maps = torch.einsum("bfshd,bgshd->bshfg", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        apart = maps.flatten(-2)[..., [n for n in range(rows.frames**2) if n % (rows.frames + 1)]]
        output[:, rows.video] *= ((rows.frames + 4.0) * apart.mean()).clamp_min(1)
        return output[:, rows.media]

    inputs = call(keyframes)
    expected = plain_h3(model, inputs, attend=attend)
    assert_equal(predict(model, inputs, EnhanceAVideo(weight=4.0)), expected, atol=1e-7)  # its factor is float32
    assert (expected[0] - model(**inputs)[0]).abs().max() > 1e-4


@every_layout
def test_tpg_shuffles_the_tokens_of_the_generated_video(model: Any, keyframes: str) -> None:
    """A block's update is computed from shuffled tokens and added to the unshuffled ones."""
    inputs, scheduler = call(keyframes), diffusers.MiniMaxH3Scheduler()
    with guide(model, TPG(layers=(1,), scale=2, seed=3), scheduler=scheduler):
        scheduler.set_timesteps(3)
        guided = model(**inputs)
    order = random_order((3, 2, 3), None, generator_at(3, 0))
    video = inputs["video_indices"][-18:]
    whole = torch.arange(len(inputs["position_ids"]))
    whole[video] = video[order]
    cond, block = model(**inputs), model.transformer_blocks[1]

    def shuffle(module: Any, args: Any) -> Any:
        return (args[0][:, whole], *args[1:])

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        return output + args[0][:, whole.argsort()] - args[0]

    handles = block.register_forward_pre_hook(shuffle), block.register_forward_hook(add)
    perturbed = model(**inputs)
    for handle in handles:
        handle.remove()
    assert_equal(guided, (cond[0] + 2 * (cond[0] - perturbed[0]), cond[1]))
    assert (perturbed[0] - cond[0]).abs().max() > 1e-3


class PlainEMAG:
    """The attention of one layer, whose live value is recorded, or replaced by an average.

    Rotation is linear and the same at both steps, so the average of rotated queries is the rotated average.

    Attributes:
        variant: "query" or "map", of the generated video.
    """

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.live: list[Tensor] = []
        self.average: Tensor | None = None

    def __call__(self, rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if rows.layer != 1:
            return attend_plainly(rows, query, key, value)
        query, output, keys = query.clone(), torch.zeros_like(query), torch.cat([rows.prompt, rows.media])
        if self.variant == "query":
            query[:, rows.video] = self.used(query[:, rows.video].clone())
        output[:, rows.media] = attend_plainly(rows, query, key, value)
        if self.variant == "map":
            scores = torch.einsum("bqhd,bkhd->bhqk", query[:, rows.video], key[:, keys]) / 14**0.5
            weights = self.used(scores.softmax(-1))
            output[:, rows.video] = torch.einsum("bhqk,bkhd->bqhd", weights, value[:, keys])
        return output[:, rows.media]

    def used(self, live: Tensor) -> Tensor:
        if self.average is not None:
            return self.average
        self.live.append(live)
        return live


@pytest.mark.parametrize("variant", ["query", "map"])
@every_layout
def test_emag_averages_the_attention_of_the_generated_video(model: Any, keyframes: str, variant: str) -> None:
    first, second = call(keyframes), call(keyframes)
    second["hidden_states"] = second["hidden_states"] * 0.5 + 0.2
    emag = EMAG(decay=0.5, select=(1,), start=0.0, stop=1.0, scale=3, variant=variant)
    scheduler = diffusers.MiniMaxH3Scheduler()
    with guide(model, emag, scheduler=scheduler):
        scheduler.set_timesteps(3)
        for timestep, inputs in zip(scheduler.timesteps, (first, second), strict=True):
            guided = model(**inputs)
            scheduler.step(guided[0], timestep, guided[0])
    plain = PlainEMAG(variant)
    _, cond = (plain_h3(model, inputs, attend=plain) for inputs in (first, second))
    plain.average = 0.5 * plain.live[0] + 0.5 * plain.live[1]
    perturbed = plain_h3(model, second, attend=plain)
    assert_equal(guided, (perturbed[0] + 3 * (cond[0] - perturbed[0]), cond[1]))
    assert (perturbed[0] - cond[0]).abs().max() > 1e-5


@pytest.mark.parametrize("extent", ["spatial", "temporal"])
@every_layout
def test_heads_of_an_extent_are_those_of_the_generated_video(
    model: Any, keyframes: str, extent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no least lift, so that each head has an extent."""
    monkeypatch.setattr("vidguide.functional.head_mass.LIFT", 0.0)
    chosen: list[Tensor] = []

    def measure(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if rows.layer == 1:
            scores = torch.einsum("bqhd,bkhd->hqk", query[:, rows.video], key[:, rows.video]) / 14**0.5
            weights = scores.masked_fill(torch.eye(18, dtype=torch.bool), -torch.inf).softmax(-1)
            index = torch.arange(18)
            frame, pixel = (code[:, None] == code for code in (index // 6, index % 6))
            within, along = ((weights * near).sum((1, 2)) * 17 / (near.sum() / 18 - 1) for near in (frame, pixel))
            chosen.append(along > within if extent == "temporal" else within >= along)
        return attend_plainly(rows, query, key, value)

    def attend(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        plain, changed = (a(rows, query, key, value) for a in (attend_plainly, identity(1)))
        return torch.where(chosen[0][:, None], changed, plain)

    inputs, pag = call(keyframes), PAG(layers=(1,), scale=2, extent=extent)
    cond = plain_h3(model, inputs, attend=measure)
    if not chosen[0].any():
        with pytest.raises(ValueError, match=f"no {extent} head"):
            predict(model, inputs, pag)
        return
    perturbed, _ = plain_h3(model, inputs, attend=attend)
    assert_equal(predict(model, inputs, pag), (cond[0] + 2 * (cond[0] - perturbed), cond[1]))


@pytest.mark.parametrize("cache", [enable_taylorseer, enable_attention_broadcast])
def test_cached_nag_equals_cached_plain_nag(cache: Callable[[Any], None]) -> None:
    """The reference receives `[prompt | negative | media]` in its arguments, and attends plainly."""
    inputs, negative = call(), text(4)
    calls = [{**inputs, "hidden_states": inputs["hidden_states"] * (1 - 0.05 * step)} for step in range(6)]
    longer = [with_both_texts(inputs, negative) for inputs in calls]
    guided, reference, uncached = (tiny().make().double() for _ in range(3))
    for plain in (reference, uncached):
        plain.token_refiner = SplitRefiner(plain.token_refiner, 5)
        for block in plain.transformer_blocks:
            block.attn.set_processor(PlainProcessor(5, 4, nag_of(token_nag)))
    for cached in (guided, reference):
        cache(cached)
    with guide(guided, NAG(negative_prompt_embeds=negative, **STRENGTH)):
        results = [guided(**inputs) for inputs in in_context(guided, calls)]
    expected = [reference(**inputs) for inputs in in_context(reference, longer)]
    plain = [uncached(**inputs) for inputs in longer]
    for one, other in zip(results, expected, strict=True):
        assert_equal(one, other)
    assert any((one[0] - other[0]).abs().max() > 1e-4 for one, other in zip(expected, plain, strict=True))


def in_context(model: Any, calls: list[Values]) -> Any:
    """Yield each call within the cache context of the conditional branch."""
    for inputs in calls:
        with model.cache_context("cond"):
            yield inputs


def with_both_texts(inputs: Values, negative: Values) -> Values:
    """Return the call with the negative's rows after the prompt's, which end where the prompt ends on the time axis."""
    length, rows = len(inputs["text_indices"]), len(negative["text_token_tags"])
    positions = torch.zeros(rows, 3, dtype=torch.float64)
    positions[:, 0] = torch.arange(length - rows, length)
    added = {"position_ids": positions, "token_tags": negative["text_token_tags"]}
    added["timestep_indices"] = inputs["timestep_indices"][:1].repeat(rows)
    name = "encoder_hidden_states"
    return {
        **inputs,
        **{name: torch.cat([inputs[name][:length], new, inputs[name][length:]]) for name, new in added.items()},
        **{name: inputs[name] + rows for name in ("audio_indices", "video_indices")},
        "text_indices": torch.arange(length + rows),
        name: torch.cat([inputs[name], negative[name]], 1),
    }


def test_context_parallel_raises(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContextParallel, "active", True)
    for guidance in (NAG(negative_prompt_embeds=text(4)), PAG()):
        with pytest.raises(ValueError, match="under context parallel: in MiniMax-H3 text and video share one"):
            predict(model, call(), guidance)


GUIDANCES: dict[str, Callable[[Values], Guidance]] = {
    "NAG": lambda negative: NAG(negative_prompt_embeds=negative),
    "VSF": lambda negative: VSF(negative_prompt_embeds=negative),
    "CFG": lambda negative: CFG(negative_prompt_embeds=negative),
    "PAG": lambda negative: PAG(layers=(1,)),
    "S2Guidance": lambda negative: S2Guidance(layers=(1,)),
    "CADS": lambda negative: CADS(full=0.9, none=1.0),
    "SEG": lambda negative: SEG(layers=(1,)),
}


@pytest.mark.parametrize("method", ["NAG", "VSF", "CFG", "PAG"])
@every_layout
def test_exit_restores_the_model_bitwise_also_after_an_error(keyframes: str, snapshot: Any, method: str) -> None:
    model, inputs = tiny().make().double(), call(keyframes)
    before, unguided, guidance = snapshot(model), model(**inputs), GUIDANCES[method](text(4, keyframes))
    guided = predict(model, inputs, guidance)
    assert (guided[0] - unguided[0]).abs().max() > 1e-4
    assert snapshots_equal(snapshot(model), before)
    handle = model.transformer_blocks[2].attn.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), guide(model, guidance):
        model(**inputs)
    handle.remove()
    assert snapshots_equal(snapshot(model), before)
    assert all(map(torch.equal, model(**inputs), unguided))


@pytest.mark.parametrize("settings", [{"scale": 1}, {"alpha": 0}])
def test_neutral_settings_do_not_change_the_predictions_bitwise(model: Any, settings: Values) -> None:
    inputs, neutral = call("first"), NAG(negative_prompt_embeds=text(4, "first"), **settings)
    for order in (inputs, shuffled(inputs)):
        assert all(map(torch.equal, predict(model, order, neutral), model(**order)))


@pytest.mark.parametrize("method", ["NAG", "VSF", "CFG"])
def test_a_batch_of_two_equals_two_single_samples(model: Any, method: str) -> None:
    inputs, negative = call("first", batch=2), text(4, "first")
    negative["encoder_hidden_states"] = noise(2, 4, 16, seed=5).double()
    guided = predict(model, inputs, GUIDANCES[method](negative))
    for n in range(2):
        names = ("hidden_states", "audio_hidden_states", "encoder_hidden_states")
        single = {**inputs, **{name: inputs[name][n : n + 1] for name in names}}
        one = {**negative, "encoder_hidden_states": negative["encoder_hidden_states"][n : n + 1]}
        assert_equal([part[n : n + 1] for part in guided], predict(model, single, GUIDANCES[method](one)))


def test_three_negatives_for_two_samples_raise(model: Any) -> None:
    three = {**text(4), "encoder_hidden_states": noise(3, 4, 16, seed=5).double()}
    with pytest.raises(ValueError, match="3 negative prompts for a batch of 2"):
        predict(model, call(batch=2), NAG(negative_prompt_embeds=three))


@pytest.mark.parametrize("make", [NAG, VSF, CFG])
def test_a_negative_without_pictures_raises_where_the_prompt_has_some(model: Any, make: Any) -> None:
    embeds = text(4)["encoder_hidden_states"]
    with pytest.raises(ValueError, match="text_token_tags is missing; this prompt was encoded with pictures"):
        predict(model, call("first"), make(negative_prompt_embeds=embeds))
    guided, without = (predict(model, call(), make(negative_prompt_embeds=n)) for n in (embeds, text(4)))
    assert all(map(torch.equal, guided, without))  # all rows are text where the prompt's are


def test_tags_of_the_negative_modulate_its_rows(model: Any) -> None:
    inputs, guided = call("first"), []
    for keyframes in ("none", "first"):
        negative = text(4, keyframes)
        guided.append(predict(model, inputs, NAG(negative_prompt_embeds=negative, **STRENGTH)))
        assert_equal(guided[-1], plain_h3(model, inputs, negative, nag_of(token_nag)))
    assert (guided[0][0] - guided[1][0]).abs().max() > 1e-6


def test_tags_of_another_length_raise(model: Any) -> None:
    negative = {**text(4), "text_token_tags": torch.ones(3, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"text_token_tags \(3,\): must be \(4,\)"):
        predict(model, call(), NAG(negative_prompt_embeds=negative))


def reference_call() -> Values:
    """Return a call with references: two pictures of 2 x 3 and 1 x 2 tokens, an audio, a video with its sound."""
    from diffusers.modular_pipelines.minimax_h3 import before_denoise
    from diffusers.modular_pipelines.minimax_h3.references import MiniMaxH3AudioReference as Audio
    from diffusers.modular_pipelines.minimax_h3.references import MiniMaxH3ImageReference as Image

    kinds = [SimpleNamespace(kind=kind, has_audio=True) for kind in ("image", "video", "image", "audio")]
    assert {Image.kind, Audio.kind} == {"image", "audio"}
    latents = [torch.zeros(1, 4, *size) for size in ((1, 4, 6), (2, 4, 4), (1, 2, 4))]
    sounds = [torch.zeros(4, 6), torch.zeros(6, 6)]
    build = before_denoise.MiniMaxH3Ref2VAPrepareLayoutStep.build_ref2va_packed_sequence
    layout = build(tags_of(5, "both"), kinds, latents, sounds, 3, 4, 6, 4, (1, 2, 2), 2, 2, 0)
    names = ("position_ids", "token_tags", "video_indices", "audio_indices", "text_indices")
    inputs = dict(zip(names, layout, strict=False))
    timestep, indices = before_denoise.MiniMaxH3SetTimestepsStep.build_row_timesteps(
        inputs["video_indices"], inputs["audio_indices"], layout[5], layout[6], 5, 0.25, 0.5, 0.999, 1.0
    )
    return {
        **inputs,
        "timestep": timestep.double(),
        "timestep_indices": indices,
        "hidden_states": noise(1, len(inputs["video_indices"]), 16, seed=1).double(),
        "audio_hidden_states": noise(1, len(inputs["audio_indices"]), 6, seed=7).double(),
        "encoder_hidden_states": noise(1, 5, 16, seed=2).double(),
        "return_dict": False,
    }


def test_references_are_conditions_and_no_part_of_the_generated_video(model: Any) -> None:
    inputs, negative = reference_call(), text(4, "both")
    assert media(inputs) == (6 + 8 + 2 + 4 + 6, 8, 18)
    assert grid(inputs, 18) == (3, 2, 3)
    guided = predict(model, inputs, NAG(negative_prompt_embeds=negative, **STRENGTH))
    assert_equal(guided, plain_h3(model, inputs, negative, nag_of(token_nag)))
    cond, (perturbed, _) = model(**inputs), plain_h3(model, inputs, attend=identity(1))
    assert_equal(predict(model, inputs, PAG(layers=(1,), scale=2)), (cond[0] + 2 * (cond[0] - perturbed), cond[1]))


@every_layout
def test_media_and_grid_are_those_of_the_layout(keyframes: str) -> None:
    inputs = call(keyframes)
    assert media(inputs) == (6 * len(KEYFRAMES[keyframes]), 8, 18)
    assert grid(inputs, 18) == (3, 2, 3)


def test_positions_that_are_no_grid_raise() -> None:
    inputs = call()
    inputs["position_ids"][-1, 1] += 1
    with pytest.raises(ValueError, match="must be a grid of frames"):
        grid(inputs, 18)


def test_text_first_leaves_a_call_in_that_order_as_it_is() -> None:
    inputs = call("first")
    assert text_first(inputs) is inputs


@every_layout
def test_with_text_of_the_prompt_is_the_same_call(keyframes: str) -> None:
    inputs = call(keyframes)
    again = with_text(inputs, text(5, keyframes, seed=2))
    assert again.keys() == inputs.keys()
    assert all(torch.equal(again[name], value) for name, value in inputs.items() if isinstance(value, Tensor))


@pytest.mark.parametrize("method", GUIDANCES)
def test_every_guidance_acts_in_the_pipelines_own_loop(method: str) -> None:
    """diffusers' denoise step with MiniMaxH3Scheduler: two steps, each of them guided, and the same result again
    without guidance afterwards."""
    pipe = pipeline()
    unguided = generate(pipe)
    with guide(pipe, GUIDANCES[method](text(4))) as run:
        guided = generate(pipe)
        assert run.steps == 2
    assert (guided - unguided).abs().max() > 1e-4
    assert guided.isfinite().all()
    assert torch.equal(generate(pipe), unguided)


def test_a_window_guides_some_steps_of_the_pipelines_own_loop() -> None:
    pipe, nag = pipeline(), NAG(negative_prompt_embeds=text(4), stop=0.5)
    with guide(pipe, nag) as run:
        generate(pipe)
    assert {record.step for record in run.trace} == {0}
    assert {record.layer for record in run.trace} == {0, 1, 2}


@pytest.mark.parametrize("make", [NAG, VSF, CFG])
def test_the_negative_embeddings_of_a_call_guide_as_those_of_the_guidance(make: Any) -> None:
    pipe, embeds = pipeline(), text(4)["encoder_hidden_states"].float()
    with guide(pipe, make(negative_prompt_embeds=embeds)):
        expected = generate(pipe)
    with guide(pipe, make()):
        assert torch.equal(generate(pipe, negative_prompt_embeds=embeds), expected)
        with pytest.raises(ValueError, match="has no text_encoder block; pass negative_prompt_embeds"):
            generate(pipe, negative_prompt="red")


def test_the_pipelines_second_transformer_is_guided() -> None:
    first, second = tiny().make(), tiny().make()
    assert transformers_of(SimpleNamespace(transformer_ref=second)) == [second]
    both = SimpleNamespace(transformer=first, transformer_ref=second)
    assert transformers_of(both) == [first, second]
    paths = [location.path for location in locate(both)]
    assert paths == [f"{prefix}transformer_blocks.{n}.attn" for prefix in ("", "transformer_ref.") for n in range(3)]


@pytest.mark.parametrize("make", [NAG, VSF])
def test_a_negative_prompt_in_words_raises(make: Any) -> None:
    with pytest.raises(ValueError, match="has no text_encoder block; pass negative_prompt_embeds"):
        guide(pipeline(), make(negative_prompt="red")).__enter__()


def pipeline() -> Any:
    """Return a modular pipeline of the denoise step alone, whose text is given."""
    from diffusers.modular_pipelines.minimax_h3.modular_blocks_minimax_h3 import MiniMaxH3CoreDenoiseStep

    pipe = MiniMaxH3CoreDenoiseStep().init_pipeline()
    shifts = {"scheduler": 12.0, "audio_scheduler": 3.0}
    schedulers = {name: diffusers.MiniMaxH3Scheduler(shift) for name, shift in shifts.items()}
    settings = {**tiny().config, "in_channels": 24, "audio_in_channels": 32}
    torch.manual_seed(0)
    transformer = diffusers.MiniMaxH3Transformer3DModel(**settings).eval().requires_grad_(False)
    pipe.update_components(transformer=transformer, **schedulers)
    return pipe


def generate(pipe: Any, **arguments: Any) -> Tensor:
    """Run three inference steps, of which two call the model; return the video's latents."""
    pipe.set_progress_bar_config(disable=True)
    state = pipe(
        prompt_embeds=noise(1, 5, 16, seed=2),
        text_token_tags=torch.ones(5, dtype=torch.long),
        height=64,
        width=96,
        num_frames=124,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        **arguments,
    )
    latents: Tensor = state.values["latents"]
    return latents


def test_every_layer_and_step_is_traced(model: Any) -> None:
    with guide(model, NAG(negative_prompt_embeds=text(4))) as run:
        model(**call())
    assert [record.layer for record in run.trace] == [0, 1, 2]
