"""NAG in chunks against NAG at once: the same bits, for every kind of norm, dtype and memory layout."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.helpers.plain_nag import plain_grouped_nag
from vidguide.attention.site import KernelCall
from vidguide.edits.nag_combine import Combination, Group
from vidguide.functional.nag import nag, norm_limit
from vidguide.functional.nag_chunks import chunks, nag_in_chunks
from vidguide.kernels import dispatch

STRENGTH = (11.0, 2.5, 0.25)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def features(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return random features; the negative of some tokens is small, so that tau limits the others alone."""
    positive, negative = torch.randn(shape), torch.randn(shape)
    negative[:, ::2] *= 0.01
    negative[:, ::2] += positive[:, ::2]
    return positive.to(dtype), negative.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 1000])  # in a chunk, of 24
@pytest.mark.parametrize("group", [1, 4, 24, 48])
def test_chunks_equal_the_whole_bitwise(dtype: torch.dtype, tokens: int, group: int) -> None:
    positive, negative = features(2, 24, 3, 40, dtype=dtype)
    whole = nag(positive, negative, *STRENGTH, group)
    chunked = nag_in_chunks(positive, negative, STRENGTH, tokens * 120 + 7, group)
    assert chunked.output.dtype == dtype
    assert torch.equal(chunked.output, whole.output.to(dtype))
    assert torch.equal(chunked.factor, whole.factor)
    assert 0 < whole.clamped <= 1


@pytest.mark.parametrize("group", [1, 6])
def test_chunks_equal_the_papers_equation(group: int) -> None:
    positive, negative = features(2, 12, 3, 8, dtype=torch.float64)
    expected = plain_grouped_nag(positive, negative, *STRENGTH, group)
    chunked = nag_in_chunks(positive, negative, STRENGTH, 50, group).output
    torch.testing.assert_close(chunked, expected, rtol=0, atol=1e-12)


def test_chunks_of_other_memory_layouts_equal_the_whole() -> None:
    """Attention kernels return `(B, H, L, D)` transposed."""
    positive, negative = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in features(2, 33, 4, 16))
    chunked = nag_in_chunks(positive, negative, STRENGTH, 5 * 64)
    torch.testing.assert_close(chunked.output, nag(positive, negative, *STRENGTH).output, rtol=1e-6, atol=1e-6)


def test_a_limit_of_other_ranks_receives_the_norms_of_all_tokens() -> None:
    positive, negative = features(2, 24, 3, 8)
    received: list[Tensor] = []

    def limit(positive_norms: Tensor, guided_norms: Tensor) -> Tensor:
        received.extend((positive_norms, guided_norms))
        return norm_limit(positive_norms, guided_norms, STRENGTH[1], 12)

    chunked = nag_in_chunks(positive, negative, STRENGTH, 100, 1, limit)
    assert [tuple(norms.shape) for norms in received] == [(2, 24, 1, 1)] * 2
    assert torch.equal(chunked.output, nag(positive, negative, *STRENGTH, 12).output)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 3, 5), (3, 64, 1, 8), (2, 0, 3, 5)])
@pytest.mark.parametrize("size", [1, 40, 10**6])
def test_chunks_cover_each_token_once(shape: tuple[int, ...], size: int) -> None:
    tokens = torch.zeros(shape[:2])
    for rows in chunks(torch.empty(shape), size):
        part = torch.empty(shape)[rows]
        assert part.shape[0] == 1
        assert part.numel() <= max(size, shape[2] * shape[3])
        tokens[rows] += 1
    assert (tokens == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["token", "frame", "clip"])
def test_a_combination_is_the_same_in_chunks(dtype: torch.dtype, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what the trace measures, before the output is rounded."""
    positive, negative = features(2, 24, 3, 40, dtype=dtype)
    combine, results = Combination(STRENGTH, Group(norm, 2, (4, 2, 3))), []
    for size in (10**9, 500):
        monkeypatch.setattr(dispatch, "CPU_CHUNK", size // torch.get_num_threads())
        monkeypatch.setattr(dispatch, "CHUNK", size)
        kernel = SimpleNamespace(measured=None)
        results.append((combine(cast(KernelCall, kernel), positive, negative), cast(Any, kernel.measured)))
    (whole, measured), (chunked, chunked_measured) = results
    assert torch.equal(whole, chunked)
    assert torch.equal(measured, chunked_measured)
    difference, norm_of = (
        (chunked.float() - positive.float()).abs().sum((2, 3)).mean(),
        positive.float().abs().sum((2, 3)),
    )
    torch.testing.assert_close(measured[1:], torch.stack([difference, norm_of.mean()]), rtol=0.02, atol=0)


def test_the_size_of_chunks_depends_on_dtype_gradient_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CPU_CHUNK", 512)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(dispatch, "CHUNK", 4096)
    for dtype, least in ((torch.float32, 4096), (torch.bfloat16, 1024), (torch.float16, 1024)):
        small, large = (torch.randn(1, length, 2, 8).to(dtype) for length in (least // 16, least // 16 + 1))
        assert dispatch.chunk_size(small, small) is None
        assert dispatch.chunk_size(large, large) == 1024
        assert dispatch.chunk_size(large, large.clone().requires_grad_()) is None
        with torch.no_grad():
            assert dispatch.chunk_size(large, large.clone().requires_grad_()) == 1024
    large = torch.empty(1, 257, 2, 8, device="meta")
    assert dispatch.chunk_size(large, large) == 4096


def test_no_temporary_has_the_size_of_the_features() -> None:
    """Half precision, whose conversion to float32 would be the largest: all allocations but the output are small."""
    positive, negative = features(1, 4096, 4, 32, dtype=torch.bfloat16)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        nag_in_chunks(positive, negative, STRENGTH, 1 << 14)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    sizes = sorted(event.self_cpu_memory_usage for event in profile.events())
    assert largest == positive.numel() * 2
    assert sizes[-2] <= (1 << 14) * 4
