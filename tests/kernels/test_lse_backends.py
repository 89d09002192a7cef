"""Where log-sum-exps come from: which kernel is chosen, and that a kernel is relied on only where it is right."""

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

ALL = ("flash_attn_interface", "flash_attn", "xformers")
CPU = next(backend for backend in LSE_BACKENDS if backend.device == "cpu")
GPU = [backend.name for backend in LSE_BACKENDS if backend.device == "cuda"]
TORCHS = ["aten flash", "aten cuDNN", "aten efficient"]


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    lse_backends.select_backend.cache_clear()
    yield
    lse_backends.select_backend.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtype", "width", "masked", "modules", "names"),
    [
        ("cuda", torch.bfloat16, 128, False, ALL, GPU),
        ("cuda", torch.float16, 64, False, ALL, GPU),
        ("cuda", torch.bfloat16, 128, False, (), TORCHS),
        ("cuda", torch.bfloat16, 128, False, ("flash_attn",), ["flash-attn 2", *TORCHS]),
        ("cuda", torch.bfloat16, 256, False, (), ["aten flash", "aten efficient"]),
        ("cuda", torch.bfloat16, 512, False, ALL, ["aten efficient"]),
        ("cuda", torch.bfloat16, 20, False, ALL, []),
        ("cuda", torch.bfloat16, 128, True, ALL, ["aten cuDNN", "aten efficient"]),
        ("cuda", torch.float32, 128, True, ALL, ["aten efficient"]),
        ("cuda", torch.float64, 128, False, ALL, []),
        ("cpu", torch.float64, 20, True, ALL, ["aten CPU"]),
        ("cpu", torch.bfloat16, 128, False, ALL, ["aten CPU"]),
        ("mps", torch.float16, 128, False, ALL, []),
    ],
)
def test_the_order_follows_from_what_is_there(
    device: str, dtype: torch.dtype, width: int, masked: bool, modules: tuple[str, ...], names: list[str]
) -> None:
    assert [backend.name for backend in candidates(device, dtype, width, masked, modules)] == names


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The equation, and the log-sum-exps `(B, H, L)` behind it, padded as some kernels do."""
    scores = torch.einsum("blhd,bkhd->bhlk", query, key) / query.shape[-1] ** 0.5
    sums = torch.nn.functional.pad(scores.logsumexp(-1), (0, 5), value=torch.nan)
    return torch.einsum("bhlk,bkhd->blhd", scores.softmax(-1), value), sums


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [8, 20, 64, 128])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_the_cpus_is_right(dtype: torch.dtype, width: int, masked: bool) -> None:
    assert lse_backends.select_backend("cpu", dtype, width, masked) is CPU
    assert lse_backends.deviation(CPU, "cpu", dtype, width, masked) < (1e-2 if dtype in HALF else 2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [32, 64, 128, 256])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_every_one_on_this_gpu_is_right_or_refuses(dtype: torch.dtype, width: int, masked: bool) -> None:
    for found in candidates("cuda", dtype, width, masked, lse_backends.installed()):
        try:
            off = lse_backends.deviation(found, "cuda", dtype, width, masked)
        except (RuntimeError, NotImplementedError):
            continue
        assert off < (1e-2 if dtype in HALF else 1e-4), found.name


def test_where_nothing_is_let_through_the_share_is_nothing() -> None:
    query, key, value = torch.randn(3, 2, 5, 3, 8)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, 2:] = False

    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        output, sums = CPU.attend(query, key, value, bias)
        return output.masked_fill(torch.isneginf(sums).transpose(1, 2)[..., None], torch.nan), sums

    output, sums = lse_backends.attend(replace(CPU, attend=attention), query, key, value, mask)
    assert torch.isneginf(sums[1, 2:]).all()
    assert torch.equal(output[1, 2:], torch.zeros(3, 3, 8))
    assert torch.isfinite(sums[0]).all()
    assert torch.isfinite(output).all()


def test_masks_are_laid_out_as_the_gpus_kernels_want_them() -> None:
    bias = torch.randn(2, 1, 1, 43, device="meta")
    wide = lse_backends._aligned(bias, torch.empty(2, 70, 3, 8), torch.empty(2, 43, 3, 8))
    assert wide.shape == (2, 3, 70, 43)
    assert [stride % MASK_ALIGNMENT for stride in wide.stride()[:3]] == [0, 0, 0]
    assert wide.stride(3) == 1


def fake_package(monkeypatch: pytest.MonkeyPatch, attention: Any) -> LseBackend:
    """A package whose kernel is this one, as if it ran on a CPU."""
    monkeypatch.setattr(lse_ops, "import_module", lambda name: SimpleNamespace(flash_attn_func=attention))
    found = next(backend for backend in LSE_BACKENDS if backend.module == "flash_attn")
    return replace(found, device="cpu", dtypes=ALL_DTYPES)


def new_flash(query: Tensor, key: Tensor, value: Tensor, causal: bool = False, return_attn_probs: bool = False) -> Any:
    output, sums = softmax_attention(query, key, value)
    return (output, sums, None) if return_attn_probs else output


@pytest.mark.parametrize("attention", [new_flash, softmax_attention])
def test_a_packages_kernel_is_asked_for_its_sums_and_compiles(attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    found = fake_package(monkeypatch, attention)
    assert lse_backends.deviation(found, "cpu", torch.float32, 16, False) < 1e-5
    query, key, value = torch.randn(3, 1, 6, 2, 16)
    compiled = torch.compile(
        lambda q, k, v: lse_backends.attend(found, q, k, v, None), fullgraph=True, backend="aot_eager"
    )
    for one, two in zip(compiled(query, key, value), lse_backends.attend(CPU, query, key, value, None), strict=True):
        torch.testing.assert_close(one, two)


def test_what_is_wrong_or_fails_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        output, sums = CPU.attend(query, key, value, bias)
        return output, sums / 0.6931  # in another base

    def failing(*args: Any) -> Any:
        raise RuntimeError("no kernel image")

    bad = [replace(CPU, name="binary", attend=wrong), replace(CPU, name="foreign", attend=failing)]
    monkeypatch.setattr(lse_backends, "LSE_BACKENDS", (*bad, CPU))
    with caplog.at_level(logging.INFO, "vidguide"):
        assert lse_backends.select_backend("cpu", torch.float32, 16, False) is CPU
    assert "binary on cpu in torch.float32 is off by" in caplog.text
    assert "foreign on cpu in torch.float32: no kernel image" in caplog.text


def test_two_passes_are_announced_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(lse_backends, "LSE_BACKENDS", ())
    with caplog.at_level(logging.INFO, "vidguide"):
        assert lse_backends.select_pair("cpu", torch.float32, 16, True) is None
        assert lse_backends.select_pair("cpu", torch.float32, 16, True) is None
    assert [message for message in caplog.messages if "two full passes" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_trying_them_leaves_the_users_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    lse_backends.select_backend("cpu", torch.float32, 24, True)
    assert torch.equal(torch.get_rng_state(), state)
