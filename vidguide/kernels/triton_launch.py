"""Launching the Triton kernels. Imported only where Triton is there; `kernels.dispatch` says when they fit."""

import torch
import triton
from torch import Tensor

from vidguide.functional.lse_merge import Told
from vidguide.kernels.dispatch import Strength
from vidguide.kernels.triton_kernels import average_tile, nag_token

TILE = 4096  # elements of an average that a program takes


def nag(positive: Tensor, negative: Tensor, strength: Strength, group: int = 1) -> tuple[Tensor, Tensor]:
    """:func:`vidguide.functional.formulas.nag`, in one pass; norms of groups of tokens take another before it.

    Args:
        positive, negative: `(B, L, H, D)`, of any strides.
        group: consecutive tokens that share one norm.

    Returns:
        Contiguous features `(B, L, H, D)` in the dtype of `positive`, and means over the tokens for the trace: share
        held by tau, `|z - z+|_1`, `|z+|_1`.
    """
    return _launch([positive, negative], None, strength, group)


def nag_merged(
    video: Told, positive: Told, negative: Told, strength: Strength, group: int = 1
) -> tuple[Tensor, Tensor]:
    """:func:`nag` of `lse_merge.merge` of the video's keys with either text's, still in one pass."""
    parts = (positive, negative, video)
    return _launch([output for output, _ in parts], [sums for _, sums in parts], strength, group)


def _launch(features: list[Tensor], sums: list[Tensor] | None, strength: Strength, group: int) -> tuple[Tensor, Tensor]:
    features = [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in features]
    batch, length, heads, width = features[0].shape
    positive, negative, *video = features
    output = torch.empty(features[0].shape, dtype=positive.dtype, device=positive.device)
    stats = torch.empty(batch, length, 3, dtype=torch.float32, device=positive.device)
    tile = triton.next_power_of_2(heads), triton.next_power_of_2(width)
    inputs = (positive, negative, video[0] if video else None, None if sums is None else tuple(sums))
    layout = (
        tuple(tensor.stride()[:3] for tensor in features),
        None if sums is None else tuple(tensor.stride()[:3] for tensor in sums),
        length,
        heads,
        width,
    )
    grid, settings = (batch * length,), dict(num_warps=warps(tile[0] * tile[1]))
    with _on(positive):
        factors = None
        if group > 1:
            nag_token[grid](*inputs, None, None, stats, *layout, *strength, *tile, **settings)
            factors = _factors(stats, strength[1], group)
        nag_token[grid](*inputs, factors, output, stats, *layout, *strength, *tile, **settings)
    return output, stats.mean((0, 1))


def _factors(norms: Tensor, tau: float, group: int) -> Tensor:
    """The limit of every token of a group, from all tokens' `|g|` and `|z+|`, the last of `(B, L, 3)`."""
    _, norm, own = norms.reshape(-1, group, 3).sum(1, keepdim=True).unbind(-1)
    bound = tau * own
    return torch.where(norm > bound, bound / norm, 1.0).expand(-1, group).contiguous()


def average(average: Tensor, live: Tensor, decay: float, heads: int) -> Tensor:
    """`formulas.ema` and its D, `formulas.attention_gradient`, in one pass.

    Args:
        average: of four dimensions and float32, the last one contiguous; changed in place.
        live: of the same shape, of any strides.
        heads: which dimension is the heads'.

    Returns:
        D of each head, `(H,)` in float32: one sum per program, added up in a fixed order.
    """
    live = live if live.stride(-1) == 1 else live.contiguous()
    first, second = (dim for dim in range(3) if dim != heads)
    order = (heads, first, second, 3)
    sizes = tuple(average.shape[dim] for dim in order)
    strides, live_strides = (tuple(tensor.stride(dim) for dim in order[:3]) for tensor in (average, live))
    columns = min(triton.next_power_of_2(sizes[3]), TILE)
    tile = TILE // columns, columns
    grid = triton.cdiv(sizes[1] * sizes[2], tile[0]), triton.cdiv(sizes[3], columns), sizes[0]
    partial = torch.empty(grid, dtype=torch.float32, device=average.device)
    with _on(average):
        average_tile[grid](
            average, live, partial, strides, live_strides, sizes, 1 - decay, *tile, num_warps=warps(TILE)
        )
    return partial.sum((0, 1)) * (sizes[0] / average.numel())


def _on(tensor: Tensor) -> torch.cuda.device:
    """The tensor's GPU as the one to launch on."""
    return torch.cuda.device(tensor.device.index if tensor.is_cuda else -1)


def warps(elements: int) -> int:
    """Warps that share a program of so many elements, 16 a thread."""
    return min(max(elements // (16 * 32), 1), 16)
