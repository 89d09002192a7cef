"""Attention kernels of torch and of packages that return the log-sum-exp, behind one signature."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
RawOutput = tuple[Tensor, Tensor]  # output (B, L, H, D) and log-sum-exp (B, H, L or longer)
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], RawOutput]  # of query, key, value and an additive mask


def torch_attention(kernel: Callable[..., Any]) -> Attend:
    """Wrap one of torch's kernels, which take heads before tokens."""

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> RawOutput:
        output, lse = kernel(*(tensor.transpose(1, 2) for tensor in (query, key, value)), bias)[:2]
        return output.transpose(1, 2), lse

    return attend


def package_attention(name: str) -> Attend:
    """Wrap a package's kernel as an operator that torch.compile does not trace into."""

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> RawOutput:
        output, lse = torch.ops.vidguide.attend(query, key, value, name)
        return output, lse

    return attend


@torch.library.custom_op("vidguide::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, package: str) -> tuple[Tensor, Tensor]:
    output, lse = PACKAGES[package](query, key, value)
    return output.to(query.dtype).contiguous(), lse[..., : query.shape[1]].float().contiguous()


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, package: str) -> tuple[Tensor, Tensor]:
    batch, length, heads, width = query.shape
    return query.new_empty(batch, length, heads, width), query.new_empty(batch, heads, length, dtype=torch.float32)


def _flash(module: str, query: Tensor, key: Tensor, value: Tensor) -> RawOutput:
    kernel = import_module(module).flash_attn_func
    optional = "return_attn_probs" in inspect.signature(kernel).parameters  # early versions of 3 always return it
    output, lse = kernel(query, key, value, **({"return_attn_probs": True} if optional else {}))[:2]
    return output, lse


def _xformers(query: Tensor, key: Tensor, value: Tensor) -> RawOutput:
    output, lse = import_module("xformers.ops.fmha").memory_efficient_attention_partial(query, key, value)
    return output, lse


PACKAGES: dict[str, Callable[[Tensor, Tensor, Tensor], RawOutput]] = {
    "flash_attn_interface": functools.partial(_flash, "flash_attn_interface"),
    "flash_attn": functools.partial(_flash, "flash_attn"),
    "xformers": _xformers,
}
