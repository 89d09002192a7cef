"""Enhance-A-Video against plain attention, combined with NAG in joint attention, and in batches."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.helpers.compilation import compile_blocks
from tests.helpers.plain_emag import PlainAttention, PlainJointAttention, PlainSelfAttention
from tests.helpers.sampling import ALWAYS, clips, cogvideox, sample, videos
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import CFG, EMAG, NAG, PAG, TPG, EnhanceAVideo, guide
from vidguide.calls.outputs import prediction_of
from vidguide.edits.nag_attention import JointAttentionNAG


def plain_factor(query: Tensor, key: Tensor, frames: int, weight: float) -> float:
    """Return the factor of one clip, `(L, H, D)`: the mean off-diagonal element of the maps of every place and head."""
    places, elements = query.shape[0] // frames, []
    for place in range(places):
        for head in range(query.shape[1]):
            scores = query[place::places, head] @ key[place::places, head].T / query.shape[-1] ** 0.5
            weights = scores.softmax(-1)
            elements += [weights[i, j] for i in range(frames) for j in range(frames) if i != j]
    return max(1.0, float(torch.stack(elements).mean()) * (frames + weight))


class Enhanced(PlainAttention):
    """Attention that multiplies its video output by the factor of each clip."""

    frames, weight = 2, 1.0
    factors: list[float]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, video: slice) -> Tensor:
        output = super().attend(query, key, value, video)
        for row in range(len(query)):
            factor = plain_factor(query[row, video], key[row, video], self.frames, self.weight)
            self.factors.append(factor)
            output[row, video] *= factor
        return output


class EnhancedSelfAttention(Enhanced, PlainSelfAttention):
    pass


class EnhancedJointAttention(Enhanced, PlainJointAttention):
    pass


@pytest.mark.parametrize("weight", [1.0, 4.0])
@pytest.mark.parametrize(("make", "each"), [(tiny_wan, videos), (cogvideox, clips)], ids=["Wan", "CogVideoX"])
def test_enhance_a_video_equals_its_plain_equation(make: Any, each: Any, weight: float) -> None:
    model, inputs = make().double(), each(1, dtype=torch.float64)[0]
    unguided = model(**inputs)[0]
    with guide(model, EnhanceAVideo(weight=weight, layers=(0, 2))) as run:
        guided = model(**inputs)[0]
    assert not run.trace.choices
    assert str(run.trace) == "nothing was measured in this run"  # though attention was changed
    wan, factors = hasattr(model, "blocks"), list[float]()
    blocks = model.blocks if wan else model.transformer_blocks
    for layer in (0, 2):
        processor = (EnhancedSelfAttention if wan else EnhancedJointAttention)("none")
        processor.weight, processor.factors = weight, factors
        blocks[layer].attn1.processor = processor
    torch.testing.assert_close(guided, model(**inputs)[0], atol=1e-9, rtol=0)
    assert max(factors) > 1
    assert (guided - unguided).abs().max() > 1e-4


def test_temporal_attention_is_enhanced_in_models_with_separate_space_and_time_attention() -> None:
    tiny = BY_NAME["LatteTransformer3DModel"]
    model, inputs = tiny.make().double(), tiny.exact(tiny.inputs(2))
    with guide(model, EnhanceAVideo(weight=2.0, layers=(1,))):
        guided = prediction_of(model(**inputs))
    attention, frames, places = model.temporal_transformer_blocks[1].attn1, 3, 16
    attention_inputs: list[Tensor] = []

    def enhance(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        query, key = (
            project(attention_inputs[0]).unflatten(-1, (attention.heads, -1))
            for project in (attention.to_q, attention.to_k)
        )
        output = args[0].unflatten(0, (2, places)).clone()
        for clip in range(2):
            clip_query, clip_key = (
                tensor[clip * places : (clip + 1) * places].transpose(0, 1).flatten(0, 1) for tensor in (query, key)
            )
            output[clip] *= plain_factor(clip_query, clip_key, frames, 2.0)
        return (output.flatten(0, 1),)

    attention.register_forward_pre_hook(lambda module, args, kwargs: attention_inputs.append(args[0]), with_kwargs=True)
    attention.to_out[0].register_forward_pre_hook(enhance)
    torch.testing.assert_close(guided, prediction_of(model(**inputs)), atol=1e-9, rtol=0)
    assert attention_inputs


def test_joint_attention_is_enhanced_after_nag(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
    inputs, nag = clips(1, dtype=torch.float64)[0], NAG(negative_prompt_embeds=tiny.exact(tiny.negative()), scale=3)
    enhance = EnhanceAVideo(weight=4.0)
    both = sample(cogvideox().double(), [inputs], nag, enhance)[0][0]
    assert torch.equal(both, sample(cogvideox().double(), [inputs], enhance, nag)[0][0])
    alone, attend = sample(cogvideox().double(), [inputs], nag)[0][0], JointAttentionNAG.__call__

    def enhanced(self: Any, kernel: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, video = attend(self, kernel, query, key, value).clone(), slice(query.shape[1] - 24, None)
        for row in range(2):
            output[row, video] *= plain_factor(query[row, video], key[row, video], 2, 4.0)
        return output

    monkeypatch.setattr(JointAttentionNAG, "__call__", enhanced)
    torch.testing.assert_close(both, sample(cogvideox().double(), [inputs], nag)[0][0], atol=1e-9, rtol=0)
    assert (both - alone).abs().max() > 1e-3


def test_the_cond_samples_of_a_cfg_batch_are_enhanced_separately() -> None:
    inputs = clips(1, dtype=torch.float64)[0]
    unguided = cogvideox().double()(**inputs)[0]
    with guide(model := cogvideox().double(), EnhanceAVideo()):
        enhanced = model(**inputs)[0]
        rows = {name: inputs[name][1:] for name in ("hidden_states", "encoder_hidden_states", "timestep")}
        last = model(**{**inputs, **rows})[0]
    torch.testing.assert_close(enhanced[1:], last, atol=1e-10, rtol=0)
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = SimpleNamespace(transformer=model, scheduler=scheduler, do_classifier_free_guidance=True)
    with guide(pipe, EnhanceAVideo()):
        scheduler.set_timesteps(4)
        cfg_batch = model(**inputs)[0]
    torch.testing.assert_close(cfg_batch[:1], unguided[:1], atol=1e-10, rtol=0)
    torch.testing.assert_close(cfg_batch[1:], enhanced[1:], atol=1e-10, rtol=0)


def test_perturbed_passes_are_enhanced_and_unconditional_calls_are_not() -> None:
    """PAG's perturbed pass is enhanced except in the perturbed layer."""
    enhance, calls, negative = EnhanceAVideo(weight=4.0), videos(2, dtype=torch.float64), negative_text()
    cfg, pag = CFG(scale=3, negative_prompt_embeds=negative.double()), PAG(scale=2.0, layers=(1,))
    guided = sample(tiny_wan().double(), calls, enhance, pag, cfg)[0]
    cond = sample(tiny_wan().double(), calls, enhance)[0]
    for step, inputs in enumerate(calls):
        model = tiny_wan().double()
        uncond = model(**{**inputs, "encoder_hidden_states": negative.double().expand(2, -1, -1)})[0]
        attention = model.blocks[1].attn1
        attention.forward = lambda x, *_, attention=attention: attention.to_out[0](attention.to_v(x))
        with guide(model, EnhanceAVideo(weight=4.0, layers=(0, 2))):
            perturbed = model(**inputs)[0]
        expected = uncond + 3 * (cond[step] - uncond) + 2 * (cond[step] - perturbed)
        torch.testing.assert_close(guided[step], expected, atol=1e-9, rtol=0)


def test_neutral_weight_and_single_frames_do_not_change_the_output() -> None:
    inputs = wan_inputs()
    still = {**inputs, "hidden_states": inputs["hidden_states"][:, :, :1]}
    for guidance, call in ((EnhanceAVideo(weight=-1), inputs), (EnhanceAVideo(weight=4), still)):
        with guide(model := tiny_wan(), guidance):
            assert torch.equal(model(**call)[0], tiny_wan()(**call)[0])
    with pytest.raises(ValueError, match=r"EnhanceAVideo\(weight=-2\): must be at least -1"):
        EnhanceAVideo(weight=-2)


def test_an_error_restores_the_model(wan: Any, snapshot: Any) -> None:
    before, unguided = snapshot(wan), wan(**wan_inputs())[0]
    handle = wan.blocks[-1].ffn.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), guide(wan, EnhanceAVideo()):
        wan(**wan_inputs())
    handle.remove()
    assert torch.equal(wan(**wan_inputs())[0], unguided)
    with guide(wan, EnhanceAVideo()):
        wan(**wan_inputs())
    assert snapshots_equal(before, snapshot(wan))


@pytest.mark.slow
def test_compiled_blocks_equal_eager_blocks() -> None:
    torch._dynamo.reset()
    calls = videos(3)
    listed = (EnhanceAVideo(), TPG(layers=(1,)), EMAG(decay=0.5, select=(2,), **ALWAYS))
    eager, _ = sample(tiny_wan(), calls, *listed)
    result, _ = sample(compile_blocks(tiny_wan(), "eager"), calls, *listed)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(result, eager, strict=True))
