"""Attention backends that return the log-sum-exp, in order of preference.

diffusers' attention dispatcher drops the log-sum-exp, so the kernels are called directly. Which of them are installed
and support a dtype and a head width depends on the machine: :func:`candidates` is a pure function of all that, and
:func:`select_backend` checks its answers once against softmax in float64. The order on a GPU is by expected speed, not
by measurement; `benchmarks/gpu.py` measures it.
"""

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from vidguide.functional.lse_merge import AttentionWithLse
from vidguide.functional.masks import additive
from vidguide.kernels.lse_ops import PACKAGES, Attend, aten, package_attention, torch_attention

log = logging.getLogger(__name__)
HALF = (torch.float16, torch.bfloat16)
ALL_DTYPES = (*HALF, torch.float32, torch.float64)
MASK_ALIGNMENT = 16  # torch's kernels require the rows of a mask to be padded to a multiple of this


@dataclass(frozen=True)
class LseBackend:
    """An attention kernel that returns its log-sum-exp, and what it supports.

    Attributes:
        attend: `(query, key, value, bias)`, of `(B, L, H, D)` and an additive mask `(B, H, L, K)`.
        device: type of device.
        width, multiple: largest head width, and the number that a width must be a multiple of.
        masks: whether it supports a mask.
        module: the package that provides it, besides torch.
    """

    name: str
    attend: Attend
    device: str = "cuda"
    dtypes: Collection[torch.dtype] = HALF
    width: int = 256
    multiple: int = 8
    masks: bool = False
    module: str | None = None


LSE_BACKENDS = (
    LseBackend("flash-attn 3", package_attention("flash_attn_interface"), module="flash_attn_interface"),
    LseBackend("flash-attn 2", package_attention("flash_attn"), module="flash_attn"),
    LseBackend("aten flash", torch_attention(lambda q, k, v, _: aten._scaled_dot_product_flash_attention(q, k, v))),
    LseBackend(
        "aten cuDNN",
        torch_attention(lambda q, k, v, bias: aten._scaled_dot_product_cudnn_attention(q, k, v, bias, True)),
        width=128,
        masks=True,
    ),
    LseBackend(
        "aten efficient",
        torch_attention(lambda q, k, v, bias: aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)),
        dtypes=(*HALF, torch.float32),
        width=1 << 16,
        masks=True,
    ),
    LseBackend("xformers", package_attention("xformers"), module="xformers"),
    LseBackend(
        "aten CPU",
        torch_attention(
            lambda q, k, v, bias: aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
        ),
        device="cpu",
        dtypes=ALL_DTYPES,
        width=1 << 16,
        multiple=1,
        masks=True,
    ),
)


def candidates(
    device: str, dtype: torch.dtype, width: int, masked: bool, modules: Collection[str]
) -> tuple[LseBackend, ...]:
    """List the backends that declare support, best first.

    Args:
        device: type of device, "cuda" or "cpu".
        width: of a head.
        masked: whether there is a mask.
        modules: installed packages.
    """
    return tuple(
        backend
        for backend in LSE_BACKENDS
        if backend.device == device
        and dtype in backend.dtypes
        and width <= backend.width
        and width % backend.multiple == 0
        and (backend.masks or not masked)
        and (backend.module is None or backend.module in modules)
    )


def installed() -> list[str]:
    """List the installed packages with such kernels."""
    return [name for name in PACKAGES if find_spec(name) is not None]


@functools.cache
def select_backend(device: str, dtype: torch.dtype, width: int, masked: bool) -> LseBackend | None:
    """Return the first candidate whose results are right on this machine.

    None where there is none; then joint attention takes two full passes. Cached.
    """
    for backend in candidates(device, dtype, width, masked, installed()):
        try:
            error = deviation(backend, device, dtype, width, masked)
        except (ImportError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as failure:
            log.info("%s on %s in %s: %s", backend.name, device, dtype, failure)
            continue
        if error < (1e-2 if dtype in HALF else 1e-4):
            return backend
        log.warning("%s on %s in %s is off by %g: not used", backend.name, device, dtype, error)
    under = " under a mask" if masked else ""
    log.info("no attention kernel on %s in %s gives log-sum-exp%s: two full passes instead", device, dtype, under)
    return None


def select_pair(device: str, dtype: torch.dtype, width: int, masked: bool) -> tuple[LseBackend, LseBackend] | None:
    """Return a backend for calls without a mask and one for calls with one, None where either is missing."""
    unmasked = select_backend(device, dtype, width, False)
    if unmasked is None:
        return None
    with_mask = select_backend(device, dtype, width, True) if masked else unmasked
    return None if with_mask is None else (unmasked, with_mask)


def in_use() -> dict[str, str]:
    """Describe which backend serves heads of 128 channels on this machine's devices."""
    settings = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        settings += [("cuda", dtype) for dtype in (torch.bfloat16, torch.float32)]
    descriptions = {}
    for device, dtype in settings:
        backends = [select_backend(device, dtype, 128, masked) for masked in (False, True)]
        names = ["two full passes" if backend is None else backend.name for backend in backends]
        label = f"joint attention, {device}, {str(dtype).removeprefix('torch.')}"
        descriptions[label] = names[0] if names[0] == names[1] else f"{names[0]}; under a mask {names[1]}"
    return descriptions


def deviation(backend: LseBackend, device: str, dtype: torch.dtype, width: int, masked: bool) -> float:
    """Return the largest error of a backend's output and log-sum-exp, against softmax in float64.

    With a mask, one sample is masked in part and the other altogether.
    """
    generator = torch.Generator().manual_seed(0)  # leaves the user's global generator alone
    shapes = [(2, length, 3, width) for length in (70, 43, 43)]
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    mask = torch.zeros(2, 1, 1, 43, dtype=torch.bool, device=device)
    mask[0, ..., :20] = True
    output, lse = attend(backend, query, key, value, mask if masked else None)
    scores = torch.einsum("blhd,bkhd->bhlk", query.double(), key.double()) / width**0.5
    if masked:
        scores = scores.masked_fill(~mask, -torch.inf)
    expected = torch.einsum("bhlk,bkhd->blhd", scores.softmax(-1).nan_to_num(0), value.double())
    exact = scores.logsumexp(-1).transpose(1, 2).unsqueeze(-1)
    off = (output.double() - expected).abs().max(), (lse.double() - exact).masked_fill(lse == exact, 0).abs().max()
    return torch.stack(off).nan_to_num(torch.inf).max().item()


def attend(backend: LseBackend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> AttentionWithLse:
    """Compute attention of `(B, L, H, D)` tensors: output `(B, L, H, D)`, log-sum-exp of the scores `(B, L, H, 1)`.

    Args:
        mask: boolean (True attends) or additive, broadcastable to `(B, H, L, K)`. In rows without any unmasked key the
            output is 0 and the log-sum-exp minus infinity.
    """
    bias = None if mask is None else additive(mask, query.dtype)
    output, lse = backend.attend(query, key, value, None if bias is None else _aligned(bias, query, key))
    lse = lse[..., : query.shape[1]]
    if bias is not None:  # rows without any unmasked key: backends return arbitrary values
        empty = (bias == -torch.inf).all(-1)
        lse = lse.masked_fill(empty, -torch.inf)
        output = output.masked_fill(empty.transpose(1, 2).unsqueeze(-1), 0)
    return AttentionWithLse(output, lse.transpose(1, 2).unsqueeze(-1))


def _aligned(bias: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Expand a mask to `(B, H, L, K)` without allocating it, with rows aligned as GPU kernels require."""
    keys = key.shape[1]
    if bias.device.type == "cpu":
        return bias
    padded = F.pad(bias, (0, -keys % MASK_ALIGNMENT))[..., :keys]
    return padded.expand(query.shape[0], query.shape[2], query.shape[1], keys)
