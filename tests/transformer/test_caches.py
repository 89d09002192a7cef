"""diffusers' caches under guidance: each pass has its own cache state, or the combination raises."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import diffusers
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from tests.helpers.common_pipelines import SUBJECTS
from tests.helpers.joint_attention import PlainStreams
from tests.helpers.pipeline_features import (
    enable_attention_broadcast,
    enable_faster_cache,
    enable_mag_cache,
    enable_taylorseer,
)
from tests.helpers.plain_nag import PlainNAGProcessor
from tests.helpers.tiny_families import BY_NAME, Values
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import CFG, EMAG, NAG, STG, guide
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance
from vidguide.transformer.caches import CACHES
from vidguide.transformer.diffusers_hooks import hooks_of

STEPS = 6


def first_block(model: Any) -> None:
    model.enable_cache(FirstBlockCacheConfig(threshold=0.9))


def mag(model: Any) -> None:
    if not hasattr(diffusers, "MagCacheConfig"):
        pytest.skip("this diffusers has no MagCache")
    enable_mag_cache(model, STEPS)


def run(model: Any, calls: list[Values], *guidances: Guidance) -> list[Tensor]:
    """Return the predictions of a run, in the cache context that pipelines open for the conditional branch."""
    scheduler, predictions = diffusers.FlowMatchEulerDiscreteScheduler(), []
    guided = guide(model, *guidances, scheduler=scheduler) if guidances else nullcontext()
    with torch.no_grad(), guided:
        scheduler.set_timesteps(len(calls))
        for inputs, timestep in zip(calls, scheduler.timesteps, strict=True):
            with model.cache_context("cond"):
                predictions.append(prediction_of(model(**inputs)))
            scheduler.step(predictions[-1], timestep, predictions[-1])
    model._reset_stateful_cache()  # as pipelines do after a call
    return predictions


def noisier_calls(inputs: Values) -> list[Values]:
    """Return the same call at each step with slowly changing noise, so that a cache skips blocks."""
    video, noise = inputs["hidden_states"], torch.randn(inputs["hidden_states"].shape)
    return [{**inputs, "hidden_states": video + 0.05 * step * noise} for step in range(STEPS)]


def assert_cached_equal(ours: list[Tensor], expected: list[Tensor], uncached: list[Tensor]) -> None:
    """Assert equality with the cached reference, which differs from the uncached one."""
    for result, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(result, reference, atol=1e-4, rtol=1e-4)
    assert any((result - reference).abs().max() > 1e-4 for result, reference in zip(expected, uncached, strict=True))


def plain_nag_wan(nag: NAG) -> Any:
    """Return a Wan with plain NAG in its processors."""
    model = tiny_wan()
    assert isinstance(nag.negative_prompt_embeds, Tensor)
    projected = model.condition_embedder.text_embedder(nag.negative_prompt_embeds)
    for block in model.blocks:
        block.attn2.processor = PlainNAGProcessor(projected, nag)
    return model


@pytest.mark.parametrize("cache", [first_block, enable_taylorseer, mag, enable_attention_broadcast])
def test_cached_nag_in_cross_attention_equals_cached_plain_nag(cache: Callable[[Any], None]) -> None:
    nag, calls = NAG(negative_prompt_embeds=negative_text(length=7), scale=5), noisier_calls(wan_inputs())
    model, reference = tiny_wan(), plain_nag_wan(nag)
    for transformer in (model, reference):
        cache(transformer)
    assert_cached_equal(run(model, calls, nag), run(reference, calls), run(plain_nag_wan(nag), calls))


@pytest.mark.parametrize("cache", [first_block, enable_taylorseer, mag, enable_attention_broadcast])
def test_cached_nag_in_joint_attention_equals_cached_plain_nag(cache: Callable[[Any], None]) -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
    calls, negative = noisier_calls(tiny.inputs(2)), tiny.negative(2)["encoder_hidden_states"]
    both = [
        {**inputs, "encoder_hidden_states": torch.cat([inputs["encoder_hidden_states"], negative], 1)}
        for inputs in calls
    ]
    model, cached, uncached = tiny.make(), tiny.make(), tiny.make()
    for transformer in (cached, uncached):
        for block in transformer.transformer_blocks:
            block.attn1.processor = PlainStreams()
    for transformer in (model, cached):
        cache(transformer)
    nag = NAG(negative_prompt_embeds=negative, scale=4, tau=1.5, alpha=0.5)  # the parameters of PlainStreams
    assert_cached_equal(run(model, calls, nag), run(cached, both), run(uncached, both))


def skip_self_attention(model: Any, layer: int) -> Any:
    """Replace the self-attention of a layer by its values."""
    attention = [block for block in model.modules() if hasattr(block, "attn1")][layer].attn1
    attention.forward = lambda hidden_states, *_, **__: attention.to_out[0](attention.to_v(hidden_states))
    return model


@pytest.mark.parametrize("cache", [first_block, enable_taylorseer, mag])
@pytest.mark.parametrize("name", ["WanTransformer3DModel", "LTXVideoTransformer3DModel"])
def test_a_perturbed_pass_has_its_own_cache_state(name: str, cache: Callable[[Any], None]) -> None:
    tiny = BY_NAME[name]
    calls, stg = noisier_calls(tiny.inputs(2)), STG(mode="attention", scale=2, layers=(1,))
    model, unperturbed, perturbed = tiny.make(), tiny.make(), skip_self_attention(tiny.make(), 1)
    for transformer in (model, unperturbed, perturbed):
        cache(transformer)
    expected = [c + 2 * (c - p) for c, p in zip(run(unperturbed, calls), run(perturbed, calls), strict=True)]
    ours = run(model, calls, stg)
    assert_cached_equal(ours, expected, run(tiny.make(), calls, stg))
    assert_cached_equal(run(model, calls, stg), expected, run(tiny.make(), calls, stg))


def skip_joint_attention(model: Any, layer: int, text_first: bool) -> Any:
    """Replace the video output of a joint attention by its values."""
    attention = model.transformer_blocks[layer].attn1
    original, kernel = attention.forward, torch.nn.functional.scaled_dot_product_attention

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        video = hidden_states.shape[1]
        part = slice(-video, None) if text_first else slice(0, video)

        def passing(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Tensor:
            output = kernel(query, key, value, *rest, **more)
            output[:, :, part] = value[:, :, part]
            return output

        with mock.patch("torch.nn.functional.scaled_dot_product_attention", passing):
            return original(hidden_states, *args, **kwargs)

    attention.forward = forward
    return model


@pytest.mark.parametrize("cache", [first_block, enable_taylorseer, mag])
@pytest.mark.parametrize(("name", "text_first"), [("CogVideoX", True), ("Mochi", False)])
def test_a_perturbed_pass_of_joint_attention_has_its_own_cache_state(
    name: str, text_first: bool, cache: Callable[[Any], None]
) -> None:
    tiny = BY_NAME[f"{name}Transformer3DModel"]
    calls, stg = noisier_calls(tiny.inputs(2)), STG(mode="attention", scale=2, layers=(1,))
    model, unperturbed, perturbed = tiny.make(), tiny.make(), skip_joint_attention(tiny.make(), 1, text_first)
    for transformer in (model, unperturbed, perturbed):
        cache(transformer)
    expected = [c + 2 * (c - p) for c, p in zip(run(unperturbed, calls), run(perturbed, calls), strict=True)]
    assert_cached_equal(run(model, calls, stg), expected, run(tiny.make(), calls, stg))


@pytest.mark.parametrize("name", ["LTX", "Mochi"])
def test_taylorseer_with_emag_from_step_zero_has_the_error_of_the_unguided_model(name: str) -> None:
    """With a later first step, the error of EMAG's pass on Mochi would be a thousand times larger."""
    subject = SUBJECTS[name]
    emag, pipe, cached = EMAG(decay=0.5, scale=3, start=0), subject.pipe(False), subject.pipe(False)
    enable_taylorseer(cached.transformer)
    lost = (subject.sample(cached, cfg=False) - subject.sample(pipe, cfg=False)).abs().mean()
    with guide(pipe, emag), guide(cached, emag):
        error = (subject.sample(cached, cfg=False) - subject.sample(pipe, cfg=False)).abs().mean()
    assert 0 < error < 5 * lost


def test_emag_averages_only_computed_steps() -> None:
    """If the cache skips the attention, there is no query, and the average is not updated."""
    model, calls = tiny_wan(), noisier_calls(wan_inputs())
    first_block(model)
    cached = run(model, calls, EMAG(decay=0.5, start=0.2, stop=1))
    uncached = run(tiny_wan(), calls, EMAG(decay=0.5, start=0.2, stop=1))
    assert all(prediction.isfinite().all() for prediction in cached)
    assert (cached[-1] - uncached[-1]).abs().mean() < 0.2 * uncached[-1].abs().mean()


def test_negatives_of_time_dependent_texts_are_computed_in_cached_steps() -> None:
    """The negative's keys and values are computed although the cache skips the prompt's attention."""
    tiny = BY_NAME["Kandinsky5Transformer3DModel"]
    model, calls, nag = tiny.make(), [tiny.inputs(1)] * 4, NAG(negative_prompt_embeds=tiny.negative())
    enable_taylorseer(model)
    expected = run(tiny.make(), calls, nag)
    for ours, plain in zip(run(model, calls, nag), expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("interrupted", [False, True])
def test_exit_removes_vidguide_contexts_from_caches(interrupted: bool) -> None:
    model, calls = tiny_wan(), noisier_calls(wan_inputs())
    first_block(model)
    guidances = (STG(mode="attention", layers=(1,)), CFG(scale=3, negative_prompt_embeds=negative_text()))
    if interrupted:
        handle = model.proj_out.register_forward_hook(interrupt_after(7))
        with pytest.raises(KeyboardInterrupt):
            run(model, calls, *guidances)
        handle.remove()
    else:
        run(model, calls, *guidances)
    states = {id(hook.state_manager): hook.state_manager._state_cache for hook in hooks_of(model, CACHES)}
    assert not [name for state in states.values() for name in state if name.startswith("vidguide")]


def interrupt_after(calls: int) -> Callable[..., None]:
    count = iter(range(calls))

    def hook(*args: Any) -> None:
        if next(count, None) is None:
            raise KeyboardInterrupt

    return hook


NEGATIVE = negative_text()
WINDOW: dict[str, Any] = dict(start=0.2, stop=0.8)


@pytest.mark.parametrize(
    ("cache", "guidance", "message"),
    [
        (
            enable_attention_broadcast,
            STG(mode="attention"),
            r"STG with PyramidAttentionBroadcast: it stores one state.*FirstBlockCache",
        ),
        (enable_attention_broadcast, CFG(negative_prompt_embeds=NEGATIVE), "CFG with PyramidAttentionBroadcast"),
        (enable_faster_cache, NAG(negative_prompt_embeds=NEGATIVE), "NAG with FasterCache.*is_guidance_distilled=True"),
        (enable_taylorseer, EMAG(), "EMAG with TaylorSeer: it counts the steps.*give start=0, or"),
        (mag, EMAG(), "EMAG with MagCache: its ratios.*start=0, stop=1"),
        (first_block, STG(mode="residual", layers=(2,)), "STG with FirstBlockCache.*choose other layers"),
    ],
)
def test_incompatible_caches_raise_before_the_first_step(
    cache: Callable[[Any], None], guidance: Guidance, message: str
) -> None:
    model, steps = tiny_wan(), []
    cache(model)
    model.blocks[0].register_forward_hook(lambda *args: steps.append(1))
    with pytest.raises(ValueError, match=message):
        run(model, noisier_calls(wan_inputs()), guidance)
    assert not steps


def test_a_window_of_nag_in_joint_attention_raises_under_a_cache() -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel"]
    model = tiny.make()
    first_block(model)
    with pytest.raises(ValueError, match="leave out start and stop, or call disable_cache"):
        run(model, noisier_calls(tiny.inputs(1)), NAG(negative_prompt_embeds=tiny.negative(), **WINDOW))


def test_a_shared_cache_state_raises_for_texts_of_different_lengths() -> None:
    subject = SUBJECTS["HunyuanVideo"]
    nag = NAG(negative_prompt_embeds=subject.negative())
    pipe = subject.pipe()
    enable_attention_broadcast(pipe.transformer)
    unguided = subject.sample(pipe)
    with pytest.raises(ValueError, match="true_cfg_scale=1"), guide(pipe, nag):
        subject.sample(pipe)
    assert torch.equal(subject.sample(pipe), unguided)  # the interrupted call left no state in the cache
    with guide(pipe, nag):
        assert subject.sample(pipe, cfg=False).isfinite().all()


def test_faster_cache_of_a_distilled_model_supports_nag() -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel"]
    calls, nag = noisier_calls(tiny.inputs(1)), NAG(negative_prompt_embeds=tiny.negative())
    model, uncached = tiny.make(), run(tiny.make(), calls, nag)
    enable_faster_cache(model, distilled=True)
    cached = run(model, calls, nag)
    assert all(
        (result - reference).abs().mean() < 0.1 * reference.abs().mean()
        for result, reference in zip(cached, uncached, strict=True)
    )
    assert any((result - reference).abs().max() > 1e-4 for result, reference in zip(cached, uncached, strict=True))


def test_caches_enabled_inside_guide_are_checked(wan: Any) -> None:
    pipe = SimpleNamespace(transformer=wan, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    with guide(pipe, STG(mode="attention")):
        pipe.scheduler.set_timesteps(2)
        wan(**wan_inputs())
        enable_attention_broadcast(wan)
        pipe.scheduler.set_timesteps(2)
        with pytest.raises(ValueError, match="STG with PyramidAttentionBroadcast"):
            wan(**wan_inputs())
