"""SEG's blur and CADS's noise against their published equations, and combined with other guidances."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.plain_emag import PlainJointAttention, PlainSelfAttention
from tests.helpers.sampling import ALWAYS, clips, cogvideox, sample, videos
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import APG, CADS, CFG, EMAG, NAG, SEG, CFGZeroStar, guide
from vidguide.functional.blur import blur, blur_weights
from vidguide.functional.cads import cads, cads_share
from vidguide.guidances.base import Guidance


def published_blur(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur `(..., H, W)` as the code of SEG's authors does: odd kernel size, mirrored edges."""
    size = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    x = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2).double()
    kernel = torch.outer(kernel, kernel)
    kernel = (kernel / kernel.sum())[None, None]
    flat = F.pad(picture.reshape(-1, 1, *picture.shape[-2:]), [size // 2] * 4, mode="reflect")
    return F.conv2d(flat, kernel).reshape(picture.shape)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([0.3, 0.5, 1.0, 1.5, 2.0]), st.integers(8, 11), st.integers(8, 11))
def test_the_blur_equals_the_published_one(sigma: float, height: int, width: int) -> None:
    tokens = torch.randn(2, 3 * height * width, 2, 4, dtype=torch.float64)
    ours = blur(tokens, (3, height, width), sigma, False)
    pictures = tokens.reshape(2, 3, height, width, 2, 4).permute(0, 1, 4, 5, 2, 3)
    plain = published_blur(pictures, sigma).permute(0, 1, 4, 5, 2, 3).reshape(tokens.shape)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=0)  # the kernel is computed in float32


def test_an_infinite_blur_is_the_mean_and_weights_are_normalised() -> None:
    tokens = torch.randn(1, 24, 1, 3, dtype=torch.float64)
    mean = tokens.reshape(1, 2, 12, 1, 3).mean(2, keepdim=True).expand(1, 2, 12, 1, 3).reshape(tokens.shape)
    torch.testing.assert_close(blur(tokens, (2, 3, 4), None, False), mean)
    torch.testing.assert_close(blur(tokens, (2, 3, 4), None, True), tokens.mean(1, keepdim=True).expand_as(tokens))
    for sigma in (0.2, 1.0, 30.0):
        torch.testing.assert_close(blur_weights(5, sigma).sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(blur_weights(5, 1e-3), torch.eye(5, dtype=torch.float64))
    along = blur(tokens, (24, 1, 1), 1.0, True)
    torch.testing.assert_close(along, torch.einsum("ij,bjhd->bihd", blur_weights(24, 1.0), tokens))


@pytest.mark.parametrize(
    ("make", "each", "grid"), [(tiny_wan, videos, (2, 4, 4)), (cogvideox, clips, (2, 4, 3))], ids=["Wan", "CogVideoX"]
)
def test_seg_equals_its_plain_equation(make: Any, each: Any, grid: tuple[int, int, int]) -> None:
    model, inputs = make().double(), each(1, dtype=torch.float64)[0]
    cond = model(**inputs)[0]
    with guide(model, SEG(scale=2, sigma=1.0, layers=(1,))):
        guided = model(**inputs)[0]
    wan = hasattr(model, "blocks")
    processor = (PlainSelfAttention if wan else PlainJointAttention)("rotated query")
    (model.blocks if wan else model.transformer_blocks)[1].attn1.processor = processor
    model(**inputs)
    pictures = processor.live.unflatten(1, grid).permute(0, 1, 4, 5, 2, 3)
    identities = [torch.nn.functional.one_hot(torch.arange(size)).double() for size in grid]
    weights = [blur_weights(size, 1.0) @ identity for size, identity in zip(grid, identities, strict=True)]
    smooth = torch.einsum("hi,wj,bfdcij->bfhwdc", weights[1], weights[2], pictures)
    processor.replacement = smooth.reshape(processor.live.shape)
    torch.testing.assert_close(guided, cond + 2 * (cond - model(**inputs)[0]), atol=1e-9, rtol=0)
    assert (guided - cond).abs().max() > 1e-4


@pytest.mark.parametrize("extent", ["spatial", "temporal"])
def test_separate_space_and_time_attention_are_blurred_along_their_axis(extent: str) -> None:
    tiny = BY_NAME["LatteTransformer3DModel"]
    model, inputs = tiny.make(), tiny.inputs(1)
    unguided = model(**inputs)[0]
    with guide(model, SEG(layers=(1,), extent=extent, over_frames=True)):
        assert not torch.allclose(model(**inputs)[0], unguided, atol=1e-5)
    with guide(model, SEG(layers=(1,), extent=extent)):  # without over_frames, time is not blurred
        assert torch.allclose(model(**inputs)[0], unguided, atol=1e-5) == (extent == "temporal")


def test_the_prompts_share_follows_the_papers_schedule() -> None:
    for progress in torch.linspace(0, 1, 41).tolist():
        t, tau1, tau2 = 1 - progress, 0.6, 0.9
        gamma = 1.0 if t <= tau1 else 0.0 if t >= tau2 else (tau2 - t) / (tau2 - tau1)
        assert cads_share(progress, 0.1, 0.4) == pytest.approx(gamma, abs=1e-6)
    assert cads_share(0.2, 0.2, 0.2) == 1


def test_cads_noise_equals_the_papers_equations() -> None:
    prompt, noise = torch.randn(2, 7, 16, dtype=torch.float64) * 3 + 1, torch.randn(2, 7, 16, dtype=torch.float64)
    for share, mixing in ((0.0, 1.0), (0.3, 1.0), (0.7, 0.4), (0.5, 0.0)):
        for row in range(2):
            y = share**0.5 * prompt[row] + 0.25 * (1 - share) ** 0.5 * noise[row]
            rescaled = (y - y.mean()) / y.std() * prompt[row].std() + prompt[row].mean()
            expected = mixing * rescaled + (1 - mixing) * y
            torch.testing.assert_close(cads(prompt, noise, share, 0.25, mixing)[row], expected)


def test_cads_noise_ends_and_is_shared_by_all_passes_of_a_step() -> None:
    model, calls, negative = tiny_wan(), videos(10), negative_text()
    unguided = [model(**inputs)[0] for inputs in calls]
    noisy, _ = sample(model, calls, CADS())
    changed = [not torch.equal(a, b) for a, b in zip(noisy, unguided, strict=True)]
    assert changed == [True] * 4 + [False] * 6
    assert all(torch.equal(a, b) for a, b in zip(noisy, sample(model, calls, CADS())[0], strict=True))
    assert not torch.equal(noisy[0], sample(model, calls, CADS(seed=1))[0][0])
    texts: list[torch.Tensor] = []
    model.condition_embedder.text_embedder.register_forward_pre_hook(lambda module, args: texts.append(args[0]))
    sample(model, calls[:1], CADS(), EMAG(select=(1,), **ALWAYS), CFG(negative_prompt_embeds=negative))
    unperturbed, perturbed, uncond = texts
    assert torch.equal(unperturbed, perturbed)
    assert torch.equal(uncond, negative.expand_as(uncond))
    assert not torch.equal(unperturbed, calls[0]["encoder_hidden_states"])


def test_only_the_cond_prompts_of_a_cfg_batch_get_noise() -> None:
    tiny = BY_NAME["MochiTransformer3DModel"]
    model, inputs, texts = tiny.make(), tiny.inputs(2), []
    model.register_forward_pre_hook(
        lambda m, a, kwargs: texts.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = SimpleNamespace(transformer=model, scheduler=scheduler, do_classifier_free_guidance=True)
    with guide(pipe, CADS()):
        scheduler.set_timesteps(4)
        model(**inputs)
    assert torch.equal(texts[0][:1], inputs["encoder_hidden_states"][:1])
    assert not torch.allclose(texts[0][1:], inputs["encoder_hidden_states"][1:], atol=0.1)


RULES = [CFG, APG, CFGZeroStar, None]


@pytest.mark.parametrize("rule", RULES, ids=["CFG", "APG", "CFG-Zero*", "no CFG"])
def test_the_order_of_guidances_does_not_matter(rule: Any) -> None:
    negative = negative_text()
    listed: list[Guidance] = [
        EMAG(decay=0.5, select=(2,), **ALWAYS),
        SEG(layers=(1,), sigma=1.0),
        CADS(none=1.0),
        NAG(negative_prompt_embeds=negative),
    ]
    listed += [rule(scale=3, negative_prompt_embeds=negative)] if rule else []
    forward_order = sample(tiny_wan(), videos(4), *listed)[0]
    reverse_order = sample(tiny_wan(), videos(4), *listed[::-1])[0]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(forward_order, reverse_order, strict=True))
    for index in range(len(listed)):
        fewer = sample(tiny_wan(), videos(4), *listed[:index], *listed[index + 1 :])[0]
        assert not torch.allclose(forward_order[-1], fewer[-1], atol=1e-4)


@pytest.mark.parametrize("guidance", [SEG(scale=0), CADS(scale=0)], ids=["SEG", "CADS"])
def test_neutral_settings_do_not_change_the_output_bitwise(guidance: Guidance) -> None:
    inputs = wan_inputs()
    assert torch.equal(sample(tiny_wan(), [inputs], guidance)[0][0], tiny_wan()(**inputs)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SEG(sigma=0), "sigma=0"),
        (lambda: SEG(sigma=-1), "sigma=-1"),
        (lambda: CADS(full=0.5, none=0.4), "none=0.4"),
        (lambda: CADS(mixing=2), "mixing=2"),
        (lambda: CADS(stop=0.5), "full and none"),
    ],
)
def test_invalid_values_raise_in_the_constructor(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="over_frames=1"):
        SEG(over_frames=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"seed=0\.5"):
        CADS(seed=0.5)  # type: ignore[arg-type]
