"""The formulas against the plainest implementation of the papers' equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.plain_nag import plain_grouped_nag, plain_nag
from vidguide.functional.attention_map import apply_map, attention_map
from vidguide.functional.cfg import cfg
from vidguide.functional.emag import (
    attention_gradient,
    blend,
    ema,
    emag_correction,
    mean_magnitude,
    mean_of_heads,
    replace_columns,
)
from vidguide.functional.lse_merge import AttentionWithLse, merge
from vidguide.functional.nag import l1_norm, nag, norm_limit
from vidguide.functional.self_guidance import perturbation_correction

SCALES = [1.5, 5.0, 11.0]


def combined(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float, group: int = 1) -> Tensor:
    """Return NAG's output in the dtype of its inputs."""
    return nag(positive, negative, scale, tau, alpha, group).output.to(positive.dtype)


def features(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return random features, different at every call."""
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tau", [1.0, 2.5, 100.0])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_nag_equals_the_papers_equation(scale: float, tau: float, alpha: float) -> None:
    positive, negative = features(2, 5, 3, 4)
    expected = plain_nag(positive, negative, scale, tau, alpha)
    assert torch.allclose(combined(positive, negative, scale, tau, alpha), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("group", [1, 3, 6, 12])
def test_norms_over_token_groups_equal_the_equation_on_concatenated_features(group: int) -> None:
    """Of 2 rows of 6 tokens: a token, half a row (a frame), a row, and a clip whose frames are rows."""
    positive, negative = features(2, 6, 3, 4)
    negative[0] *= 0.1  # a part that the limit does not clamp
    expected = plain_grouped_nag(positive, negative, 3.0, 2.5, 0.5, group)
    torch.testing.assert_close(combined(positive, negative, 3.0, 2.5, 0.5, group), expected, rtol=0, atol=1e-9)
    if group == 1:
        torch.testing.assert_close(expected, plain_nag(positive, negative, 3.0, 2.5, 0.5), rtol=0, atol=1e-9)
    else:
        assert not torch.allclose(expected, plain_nag(positive, negative, 3.0, 2.5, 0.5), atol=1e-3)


def test_random_features_are_on_both_sides_of_the_limit() -> None:
    positive, negative = features(1, 200, 2, 3)
    factor = norm_limit(l1_norm(positive), l1_norm(2 * positive - negative), 2.0)
    assert (factor < 1).any()
    assert (factor == 1).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_neutral_settings_return_the_features_bitwise(dtype: torch.dtype) -> None:
    positive, negative = features(2, 5, 3, 4, dtype=dtype)
    assert torch.equal(combined(positive, negative, 1.0, 2.5, 0.25), positive)
    assert torch.equal(combined(positive, negative, 11.0, 2.5, 0.0), positive)
    assert torch.equal(combined(positive, positive.clone(), 11.0, 2.5, 0.25), positive)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(1, 50),
    tau=st.floats(1, 10),
    alpha=st.floats(0, 1),
)
def test_the_norm_of_nag_is_bounded(seed: int, scale: float, tau: float, alpha: float) -> None:
    random = torch.Generator().manual_seed(seed)
    positive, negative = (torch.randn(1, 7, 2, 4, generator=random, dtype=torch.float64) for _ in range(2))
    norm = combined(positive, negative, scale, tau, alpha).abs().sum((-2, -1))
    bound = (alpha * tau + 1 - alpha) * positive.abs().sum((-2, -1))
    assert (norm <= bound * (1 + 1e-12)).all()


def test_nag_is_equivariant_to_token_permutations() -> None:
    positive, negative = features(2, 6, 3, 4)
    order = torch.randperm(6)
    expected = combined(positive, negative, 5.0, 2.5, 0.25)
    assert torch.equal(combined(positive[:, order], negative[:, order], 5.0, 2.5, 0.25), expected[:, order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero", ["positive", "negative", "both", "extrapolated"])
def test_zero_features_give_no_nan(dtype: torch.dtype, zero: str) -> None:
    positive, negative = features(1, 4, 2, 4, dtype=dtype)
    if zero == "extrapolated":
        negative = positive * 1.1  # with s = 11 the extrapolation is zero
    if zero in ("positive", "both"):
        positive = torch.zeros_like(positive)
    if zero in ("negative", "both"):
        negative = torch.zeros_like(negative)
    assert torch.isfinite(combined(positive, negative, 11.0, 2.5, 0.25)).all()


def test_zero_positive_features_stay_zero() -> None:
    negative = torch.randn(1, 3, 2, 4)
    assert torch.equal(combined(torch.zeros_like(negative), negative, 11.0, 2.5, 0.25), torch.zeros_like(negative))


def test_bfloat16_norms_are_taken_in_float32() -> None:
    """In bfloat16 a sum of 4,096 ones stops at 256; norm and limit would be wrong."""
    positive = torch.ones(1, 1, 32, 128, dtype=torch.bfloat16)
    negative = -0.5 * positive
    result = combined(positive, negative, 11.0, 2.5, 1.0)
    expected = combined(positive.double(), negative.double(), 11.0, 2.5, 1.0)
    assert torch.allclose(result.double(), expected, rtol=2**-8)
    assert norm_limit(l1_norm(positive), l1_norm(16 * positive), 2.5).dtype == torch.float32


def test_cfg_equals_its_equation_and_scale_one_is_neutral() -> None:
    cond, uncond = features(2, 3, 4)
    assert torch.allclose(cfg(cond, uncond, 3.5), 3.5 * cond - 2.5 * uncond)
    assert torch.allclose(cfg(cond, uncond, 1.0), cond)


@pytest.mark.parametrize("group", [1, 3])
def test_nag_returns_the_factor_and_the_share_that_tau_limits(group: int) -> None:
    positive, negative = features(2, 6, 3, 4)
    guided = nag(positive, negative, 3.0, 3.0, 0.5, group)
    extrapolated = 3 * positive - 2 * negative
    norms = [tensor.abs().sum((2, 3)).reshape(-1, group).sum(1) for tensor in (extrapolated, positive)]
    ratio = (norms[0] / norms[1]).repeat_interleave(group).view(2, 6, 1, 1)
    torch.testing.assert_close(guided.factor, ratio.clamp(max=3.0) / ratio)
    assert guided.clamped.item() == pytest.approx((ratio > 3).double().mean().item())
    halved = nag(positive, negative, 3.0, 3.0, 0.5, limit=lambda positive_norm, norm: torch.full_like(norm, 0.5))
    torch.testing.assert_close(halved.output, 0.5 * positive + 0.25 * extrapolated)


def test_emag_equals_its_equations() -> None:
    average, value = features(2, 5, 3, 4)
    before = average.clone()
    assert ema(average, value, 0.9) is average
    torch.testing.assert_close(average, 0.9 * before + 0.1 * value)
    distances = attention_gradient(average, value, 2)
    magnitudes = mean_magnitude(value, 2, torch.float64)
    for row in range(2):
        for head in range(3):
            torch.testing.assert_close(distances[row, head], (average - value)[row, :, head].abs().mean())
            torch.testing.assert_close(magnitudes[row, head], value[row, :, head].double().abs().mean())
    torch.testing.assert_close(blend(value, average, 0.3), 0.7 * value + 0.3 * average)
    strength = torch.tensor([0.0, 0.3], dtype=average.dtype).view(2, 1, 1, 1)
    assert torch.equal(blend(value, average, strength)[0], value[0])
    torch.testing.assert_close(blend(value, average, strength)[1], 0.7 * value[1] + 0.3 * average[1])
    assert torch.equal(blend(value, average, 1.0), average)
    cond, perturbed = features(2, 3, 4)
    torch.testing.assert_close(cond + emag_correction(cond, perturbed, 1.5), perturbed + 1.5 * (cond - perturbed))
    torch.testing.assert_close(perturbation_correction(cond, perturbed, 3.0), 3 * cond - 3 * perturbed)


def test_means_are_over_the_selected_heads_of_each_row() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, 5.0, 9.0], [7.0, 8.0, 9.0]])
    heads = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    assert mean_of_heads(values, None).tolist() == [3.0, 6.0, 8.0]
    assert mean_of_heads(values, heads)[:2].tolist() == [3.5, 5.0]
    assert mean_of_heads(values, heads)[2].isnan()


def test_rows_of_a_map_with_replaced_columns_sum_to_one() -> None:
    weights, columns = torch.rand(2, 3, 4, 9, dtype=torch.float64), torch.rand(2, 3, 4, 5, dtype=torch.float64)
    replaced = weights.clone()
    replaced[..., 2:7] = columns
    ours = replace_columns(weights, columns, slice(2, 7))
    torch.testing.assert_close(ours, replaced / replaced.sum(-1, keepdim=True))
    torch.testing.assert_close(ours.sum(-1), torch.ones(2, 3, 4, dtype=torch.float64))


@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("masked", [False, True])
def test_applying_the_attention_map_equals_torchs_attention(scale: float | None, masked: bool) -> None:
    query, key, value = (torch.randn(2, length, 3, 8, dtype=torch.float64) for length in (5, 7, 7))
    mask = (torch.rand(2, 1, 5, 7) < 0.7) | (torch.arange(7) == 0) if masked else None
    transposed = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        transposed[0], transposed[1], transposed[2], attn_mask=mask, scale=scale
    )
    torch.testing.assert_close(apply_map(attention_map(query, key, scale, mask), value), expected.transpose(1, 2))


def test_merged_attentions_equal_attention_over_all_keys() -> None:
    query, key, value = (torch.randn(2, length, 3, 8, dtype=torch.float64) for length in (5, 9, 9))
    parts = []
    for keys in (slice(0, 4), slice(4, 9)):
        lse = (torch.einsum("bqhd,bkhd->bqhk", query, key[:, keys]) / 8**0.5).logsumexp(-1, keepdim=True)
        parts.append(AttentionWithLse(apply_map(attention_map(query, key[:, keys]), value[:, keys]), lse))
    torch.testing.assert_close(merge(*parts), apply_map(attention_map(query, key), value))
