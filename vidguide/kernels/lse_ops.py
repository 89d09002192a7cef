"""Attention kernels that tell the log-sum-exp of their scores, of torch and of packages, called in one way."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
Raw = tuple[Tensor, Tensor]  # output (B, L, H, D) and log-sum-exp (B, H, L or longer)
Call = Callable[[Tensor, Tensor, Tensor, Tensor | None], Raw]  # of query, key, value and an additive mask


def of_torch(attention: Callable[..., Any]) -> Call:
    """One of torch's own, which take heads before tokens."""

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Raw:
        output, sums = attention(*(tensor.transpose(1, 2) for tensor in (query, key, value)), bias)[:2]
        return output.transpose(1, 2), sums

    return attend


def of_package(name: str) -> Call:
    """One of a package, as an operator that torch.compile does not look into."""

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Raw:
        output, sums = torch.ops.vidguide.attend(query, key, value, name)
        return output, sums

    return attend


@torch.library.custom_op("vidguide::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, package: str) -> tuple[Tensor, Tensor]:
    output, sums = PACKAGED[package](query, key, value)
    return output.to(query.dtype).contiguous(), sums[..., : query.shape[1]].float().contiguous()


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, package: str) -> tuple[Tensor, Tensor]:
    batch, length, heads, width = query.shape
    return query.new_empty(batch, length, heads, width), query.new_empty(batch, heads, length, dtype=torch.float32)


def _flash(module: str, query: Tensor, key: Tensor, value: Tensor) -> Raw:
    attention = import_module(module).flash_attn_func
    asks = "return_attn_probs" in inspect.signature(attention).parameters  # the first version 3 always tells
    output, sums = attention(query, key, value, **({"return_attn_probs": True} if asks else {}))[:2]
    return output, sums


def _xformers(query: Tensor, key: Tensor, value: Tensor) -> Raw:
    output, sums = import_module("xformers.ops.fmha").memory_efficient_attention_partial(query, key, value)
    return output, sums


PACKAGED: dict[str, Callable[[Tensor, Tensor, Tensor], Raw]] = {
    "flash_attn_interface": functools.partial(_flash, "flash_attn_interface"),
    "flash_attn": functools.partial(_flash, "flash_attn"),
    "xformers": _xformers,
}
