"""Attention over a union of key sets, from the attention over each: exact, by the logarithms of the sums.

`softmax` over keys A and B together is the average of the attention over A and that over B, weighted by the sums of
their exponentials. So an expensive set (the video's keys) is attended to once, however many texts it is joined with.
"""

import functools
import logging
import math

import torch
from torch import Tensor

from vidguide.formulas import additive

log = logging.getLogger(__name__)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention of `(B, L, H, D)` tensors: output `(B, L, H, D)`, and log-sum-exp of the scores `(B, L, H, 1)`.

    Args:
        mask: boolean (True lets through) or additive, broadcastable to `(B, H, L, K)`; CPU only.
    """
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if query.device.type == "cpu":
        bias = None if mask is None else additive(mask, query.dtype)
        output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias)
        if bias is not None:  # the kernel calls the sum over nothing 1
            sums = sums.masked_fill((bias == -math.inf).all(-1), -math.inf)
    elif mask is None and query.dtype in (torch.float16, torch.bfloat16):
        output, sums = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    elif mask is None:
        output, sums = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[:2]
    else:
        raise NotImplementedError(f"no kernel on {query.device.type} gives log-sum-exp under a mask")
    return output.transpose(1, 2), sums[..., : query.shape[2]].transpose(1, 2).unsqueeze(-1)


def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over both key sets, from outputs `(B, L, H, D)` and log-sum-exps `(B, L, H, 1)` over each.

    The first set must let something through; the second may be masked altogether.
    """
    share = torch.sigmoid(second[1] - first[1])  # of the second set; 0 where it is masked
    return torch.lerp(first[0].to(share.dtype), second[0].to(share.dtype), share).to(first[0].dtype)


@functools.cache
def can_merge(device: str, dtype: torch.dtype, masked: bool) -> bool:
    """Whether a kernel here gives log-sum-exp, and rightly: tried once, on a small example."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 24, 2, 64, generator=generator).to(device, dtype)
    mask = torch.ones(1, 1, 1, 16, dtype=torch.bool, device=device) if masked else None
    try:
        merged = merge(attend(query, key[:, :8], value[:, :8], None), attend(query, key[:, 8:], value[:, 8:], mask))
        whole = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (query, key, value)))
        right = torch.allclose(merged, whole.transpose(1, 2), atol=1e-2 if dtype.itemsize < 4 else 1e-5)
    except (NotImplementedError, RuntimeError) as error:
        log.debug("log-sum-exp on %s in %s: %s", device, dtype, error)
        right = False
    if not right:
        under = " under a mask" if masked else ""
        log.info("no attention kernel on %s in %s gives log-sum-exp%s: two full passes instead", device, dtype, under)
    return right
