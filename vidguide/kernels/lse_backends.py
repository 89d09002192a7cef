"""Attention that tells the log-sum-exp of its scores: the kernels that do, in the order in which they are asked.

diffusers' dispatcher does not hand the log-sum-exp on, so it is asked of the kernels beneath. Which of them are there
and take a dtype and a head width is a matter of the machine; :func:`candidates` is a pure function of all that, and
:func:`source` tries its answers once, each against softmax in float64, before one is relied on. The order of those on
a GPU is one of expectation, and not measured: `benchmarks/gpu.py` does that.
"""

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from vidguide.functional.lse_merge import Told
from vidguide.functional.masks import additive
from vidguide.kernels.lse_ops import PACKAGED, Call, aten, of_package, of_torch

log = logging.getLogger(__name__)
HALF = (torch.float16, torch.bfloat16)
EVERY = (*HALF, torch.float32, torch.float64)
ALIGNED = 16  # to a multiple of which the rows of a mask are padded, as torch's own kernels want it


@dataclass(frozen=True)
class Source:
    """An attention kernel that tells its log-sum-exp.

    Attributes:
        attend: `(query, key, value, bias)`, of `(B, L, H, D)` and an additive mask `(B, H, L, K)`.
        device: type of device.
        width, multiple: widest head, and what a width is a multiple of.
        masks: whether it takes a mask.
        module: the package it is in, besides torch.
    """

    name: str
    attend: Call
    device: str = "cuda"
    dtypes: Collection[torch.dtype] = HALF
    width: int = 256
    multiple: int = 8
    masks: bool = False
    module: str | None = None


SOURCES = (
    Source("flash-attn 3", of_package("flash_attn_interface"), module="flash_attn_interface"),
    Source("flash-attn 2", of_package("flash_attn"), module="flash_attn"),
    Source("aten flash", of_torch(lambda q, k, v, _: aten._scaled_dot_product_flash_attention(q, k, v))),
    Source(
        "aten cuDNN",
        of_torch(lambda q, k, v, bias: aten._scaled_dot_product_cudnn_attention(q, k, v, bias, True)),
        width=128,
        masks=True,
    ),
    Source(
        "aten efficient",
        of_torch(lambda q, k, v, bias: aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)),
        dtypes=(*HALF, torch.float32),
        width=1 << 16,
        masks=True,
    ),
    Source("xformers", of_package("xformers"), module="xformers"),
    Source(
        "aten CPU",
        of_torch(lambda q, k, v, bias: aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)),
        device="cpu",
        dtypes=EVERY,
        width=1 << 16,
        multiple=1,
        masks=True,
    ),
)


def candidates(
    device: str, dtype: torch.dtype, width: int, masked: bool, modules: Collection[str]
) -> tuple[Source, ...]:
    """The sources that ought to work, best first.

    Args:
        device: type of device, "cuda" or "cpu".
        width: of a head.
        masked: whether there is a mask.
        modules: the packages that are installed.
    """
    return tuple(
        source
        for source in SOURCES
        if source.device == device
        and dtype in source.dtypes
        and width <= source.width
        and width % source.multiple == 0
        and (source.masks or not masked)
        and (source.module is None or source.module in modules)
    )


def installed() -> list[str]:
    """The packages with such kernels that are there."""
    return [name for name in PACKAGED if find_spec(name) is not None]


@functools.cache
def source(device: str, dtype: torch.dtype, width: int, masked: bool) -> Source | None:
    """The first candidate that works here, None where none does: then attention takes two full passes."""
    for found in candidates(device, dtype, width, masked, installed()):
        try:
            error = deviation(found, device, dtype, width, masked)
        except (ImportError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as failure:
            log.info("%s on %s in %s: %s", found.name, device, dtype, failure)
            continue
        if error < (1e-2 if dtype in HALF else 1e-4):
            return found
        log.warning("%s on %s in %s is off by %g: not used", found.name, device, dtype, error)
    under = " under a mask" if masked else ""
    log.info("no attention kernel on %s in %s gives log-sum-exp%s: two full passes instead", device, dtype, under)
    return None


def pair(device: str, dtype: torch.dtype, width: int, masked: bool) -> tuple[Source, Source] | None:
    """A source without a mask, and one with where there is one; None where one is lacking."""
    plain = source(device, dtype, width, False)
    if plain is None:
        return None
    other = source(device, dtype, width, True) if masked else plain
    return None if other is None else (plain, other)


def in_use() -> dict[str, str]:
    """Which source serves heads of 128 channels on this machine's devices, for people."""
    asked = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        asked += [("cuda", dtype) for dtype in (torch.bfloat16, torch.float32)]
    told = {}
    for device, dtype in asked:
        found = [source(device, dtype, 128, masked) for masked in (False, True)]
        names = ["two full passes" if one is None else one.name for one in found]
        key = f"joint attention, {device}, {str(dtype).removeprefix('torch.')}"
        told[key] = names[0] if names[0] == names[1] else f"{names[0]}; under a mask {names[1]}"
    return told


def deviation(source: Source, device: str, dtype: torch.dtype, width: int, masked: bool) -> float:
    """How far a source is from softmax in float64, at most: output and log-sum-exp, with a sample masked altogether."""
    generator = torch.Generator().manual_seed(0)  # the global one is the user's
    shapes = [(2, length, 3, width) for length in (70, 43, 43)]
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    mask = torch.zeros(2, 1, 1, 43, dtype=torch.bool, device=device)
    mask[0, ..., :20] = True
    output, sums = attend(source, query, key, value, mask if masked else None)
    scores = torch.einsum("blhd,bkhd->bhlk", query.double(), key.double()) / width**0.5
    if masked:
        scores = scores.masked_fill(~mask, -torch.inf)
    expected = torch.einsum("bhlk,bkhd->blhd", scores.softmax(-1).nan_to_num(0), value.double())
    exact = scores.logsumexp(-1).transpose(1, 2).unsqueeze(-1)
    off = (output.double() - expected).abs().max(), (sums.double() - exact).masked_fill(sums == exact, 0).abs().max()
    return torch.stack(off).nan_to_num(torch.inf).max().item()


def attend(source: Source, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Told:
    """Attention of `(B, L, H, D)` tensors: output `(B, L, H, D)`, and log-sum-exp of the scores `(B, L, H, 1)`.

    Args:
        mask: boolean (True lets through) or additive, broadcastable to `(B, H, L, K)`. Where it lets nothing through
            the output is 0 and the log-sum-exp minus infinity.
    """
    bias = None if mask is None else additive(mask, query.dtype)
    output, sums = source.attend(query, key, value, None if bias is None else _aligned(bias, query, key))
    sums = sums[..., : query.shape[1]]
    if bias is not None:  # of nothing, kernels say what they like
        empty = (bias == -torch.inf).all(-1)
        sums = sums.masked_fill(empty, -torch.inf)
        output = output.masked_fill(empty.transpose(1, 2).unsqueeze(-1), 0)
    return output, sums.transpose(1, 2).unsqueeze(-1)


def _aligned(bias: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """A mask of full shape `(B, H, L, K)`, without the memory of it, in rows that begin where kernels want them."""
    keys = key.shape[1]
    if bias.device.type == "cpu":
        return bias
    return F.pad(bias, (0, -keys % ALIGNED))[..., :keys].expand(query.shape[0], query.shape[2], query.shape[1], keys)
