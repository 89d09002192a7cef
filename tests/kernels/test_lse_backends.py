"""Backends with log-sum-exp: selection order, and exclusion of inexact backends."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vidguide.kernels import lse_backends, lse_ops
from vidguide.kernels.lse_backends import ALL_DTYPES, HALF, LSE_BACKENDS, MASK_ALIGNMENT, LseBackend, candidates

ALL_PACKAGES = ("flash_attn_interface", "flash_attn", "xformers")
CPU_BACKEND = next(backend for backend in LSE_BACKENDS if backend.device == "cpu")
GPU_BACKENDS = [backend.name for backend in LSE_BACKENDS if backend.device == "cuda"]
TORCH_BACKENDS = ["aten flash", "aten cuDNN", "aten efficient"]


@pytest.fixture(autouse=True)
def _clear_selection() -> Iterator[None]:
    lse_backends.select_backend.cache_clear()
    yield
    lse_backends.select_backend.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtype", "width", "masked", "modules", "names"),
    [
        ("cuda", torch.bfloat16, 128, False, ALL_PACKAGES, GPU_BACKENDS),
        ("cuda", torch.float16, 64, False, ALL_PACKAGES, GPU_BACKENDS),
        ("cuda", torch.bfloat16, 128, False, (), TORCH_BACKENDS),
        ("cuda", torch.bfloat16, 128, False, ("flash_attn",), ["flash-attn 2", *TORCH_BACKENDS]),
        ("cuda", torch.bfloat16, 256, False, (), ["aten flash", "aten efficient"]),
        ("cuda", torch.bfloat16, 512, False, ALL_PACKAGES, ["aten efficient"]),
        ("cuda", torch.bfloat16, 20, False, ALL_PACKAGES, []),
        ("cuda", torch.bfloat16, 128, True, ALL_PACKAGES, ["aten cuDNN", "aten efficient"]),
        ("cuda", torch.float32, 128, True, ALL_PACKAGES, ["aten efficient"]),
        ("cuda", torch.float64, 128, False, ALL_PACKAGES, []),
        ("cpu", torch.float64, 20, True, ALL_PACKAGES, ["aten CPU"]),
        ("cpu", torch.bfloat16, 128, False, ALL_PACKAGES, ["aten CPU"]),
        ("mps", torch.float16, 128, False, ALL_PACKAGES, []),
    ],
)
def test_candidates_depend_on_device_dtype_width_mask_and_packages(
    device: str, dtype: torch.dtype, width: int, masked: bool, modules: tuple[str, ...], names: list[str]
) -> None:
    assert [backend.name for backend in candidates(device, dtype, width, masked, modules)] == names


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention and its log-sum-exps `(B, H, L)`, padded as some kernels do."""
    scores = torch.einsum("blhd,bkhd->bhlk", query, key) / query.shape[-1] ** 0.5
    sums = torch.nn.functional.pad(scores.logsumexp(-1), (0, 5), value=torch.nan)
    return torch.einsum("bhlk,bkhd->blhd", scores.softmax(-1), value), sums


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [8, 20, 64, 128])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_the_cpu_backend_is_exact(dtype: torch.dtype, width: int, masked: bool) -> None:
    assert lse_backends.select_backend("cpu", dtype, width, masked) is CPU_BACKEND
    assert lse_backends.deviation(CPU_BACKEND, "cpu", dtype, width, masked) < (1e-2 if dtype in HALF else 2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [32, 64, 128, 256])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_every_gpu_backend_is_exact_or_raises(dtype: torch.dtype, width: int, masked: bool) -> None:
    for backend in candidates("cuda", dtype, width, masked, lse_backends.installed()):
        try:
            off = lse_backends.deviation(backend, "cuda", dtype, width, masked)
        except (RuntimeError, NotImplementedError):
            continue
        assert off < (1e-2 if dtype in HALF else 1e-4), backend.name


def test_fully_masked_rows_have_zero_output_and_lse_of_minus_infinity() -> None:
    query, key, value = torch.randn(3, 2, 5, 3, 8)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, 2:] = False

    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        output, sums = CPU_BACKEND.attend(query, key, value, bias)
        return output.masked_fill(torch.isneginf(sums).transpose(1, 2)[..., None], torch.nan), sums

    output, sums = lse_backends.attend(replace(CPU_BACKEND, attend=attention), query, key, value, mask)
    assert torch.isneginf(sums[1, 2:]).all()
    assert torch.equal(output[1, 2:], torch.zeros(3, 3, 8))
    assert torch.isfinite(sums[0]).all()
    assert torch.isfinite(output).all()


def test_masks_are_aligned_for_gpu_kernels() -> None:
    bias = torch.randn(2, 1, 1, 43, device="meta")
    aligned = lse_backends._aligned(bias, torch.empty(2, 70, 3, 8), torch.empty(2, 43, 3, 8))
    assert aligned.shape == (2, 3, 70, 43)
    assert [stride % MASK_ALIGNMENT for stride in aligned.stride()[:3]] == [0, 0, 0]
    assert aligned.stride(3) == 1


def fake_package(monkeypatch: pytest.MonkeyPatch, attention: Any) -> LseBackend:
    """Return the backend of an installed package whose kernel is `attention`, on the CPU."""
    monkeypatch.setattr(lse_ops, "import_module", lambda name: SimpleNamespace(flash_attn_func=attention))
    backend = next(backend for backend in LSE_BACKENDS if backend.module == "flash_attn")
    return replace(backend, device="cpu", dtypes=ALL_DTYPES)


def new_flash(query: Tensor, key: Tensor, value: Tensor, causal: bool = False, return_attn_probs: bool = False) -> Any:
    output, sums = softmax_attention(query, key, value)
    return (output, sums, None) if return_attn_probs else output


@pytest.mark.parametrize("attention", [new_flash, softmax_attention])
def test_a_packages_kernel_returns_its_lse_and_compiles(attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    backend = fake_package(monkeypatch, attention)
    assert lse_backends.deviation(backend, "cpu", torch.float32, 16, False) < 1e-5
    query, key, value = torch.randn(3, 1, 6, 2, 16)
    compiled = torch.compile(
        lambda q, k, v: lse_backends.attend(backend, q, k, v, None), fullgraph=True, backend="aot_eager"
    )
    for result, expected in zip(
        compiled(query, key, value), lse_backends.attend(CPU_BACKEND, query, key, value, None), strict=True
    ):
        torch.testing.assert_close(result, expected)


def test_inexact_and_failing_backends_are_not_selected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        output, sums = CPU_BACKEND.attend(query, key, value, bias)
        return output, sums / 0.6931  # log-sum-exp of another base

    def failing(*args: Any) -> Any:
        raise RuntimeError("no kernel image")

    invalid = [replace(CPU_BACKEND, name="binary", attend=wrong), replace(CPU_BACKEND, name="foreign", attend=failing)]
    monkeypatch.setattr(lse_backends, "LSE_BACKENDS", (*invalid, CPU_BACKEND))
    with caplog.at_level(logging.INFO, "vidguide"):
        assert lse_backends.select_backend("cpu", torch.float32, 16, False) is CPU_BACKEND
    assert "binary on cpu in torch.float32 is off by" in caplog.text
    assert "foreign on cpu in torch.float32: no kernel image" in caplog.text


def test_the_fallback_to_two_passes_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lse_backends, "LSE_BACKENDS", ())
    with caplog.at_level(logging.INFO, "vidguide"):
        assert lse_backends.select_pair("cpu", torch.float32, 16, True) is None
        assert lse_backends.select_pair("cpu", torch.float32, 16, True) is None
    assert [message for message in caplog.messages if "two full passes" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_selection_does_not_change_the_global_random_state() -> None:
    state = torch.get_rng_state()
    lse_backends.select_backend("cpu", torch.float32, 24, True)
    assert torch.equal(torch.get_rng_state(), state)
