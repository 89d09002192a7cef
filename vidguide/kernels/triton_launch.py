"""Launch of the Triton kernels. Imported only where Triton is installed; `kernels.dispatch` selects them."""

import torch
import triton
from torch import Tensor

from vidguide.functional.lse_merge import AttentionWithLse
from vidguide.functional.nag import Strength
from vidguide.kernels.triton_kernels import average_tile, nag_token

TILE = 4096  # elements of an average per program


def nag(positive: Tensor, negative: Tensor, strength: Strength, group: int = 1) -> tuple[Tensor, Tensor]:
    """Compute :func:`vidguide.functional.nag.nag` in one pass over memory, two where tokens share norms.

    Args:
        positive, negative: `(B, L, H, D)`, of any strides.
        group: consecutive tokens that share one norm.

    Returns:
        Contiguous features `(B, L, H, D)` in the dtype of `positive`, and means over the tokens `(3,)` for the trace:
        share limited by tau, `|z - z+|_1`, `|z+|_1`.
    """
    return _launch([positive, negative], None, strength, group)


def nag_merged(
    video: AttentionWithLse,
    positive: AttentionWithLse,
    negative: AttentionWithLse,
    strength: Strength,
    group: int = 1,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`nag` of the attention over the video's keys merged with that over either text's, in one pass."""
    parts = (positive, negative, video)
    return _launch([output for output, _ in parts], [lse for _, lse in parts], strength, group)


def _launch(features: list[Tensor], lses: list[Tensor] | None, strength: Strength, group: int) -> tuple[Tensor, Tensor]:
    features = [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in features]
    batch, length, heads, width = features[0].shape
    positive, negative, *video = features
    output = torch.empty(features[0].shape, dtype=positive.dtype, device=positive.device)
    stats = torch.empty(batch, length, 3, dtype=torch.float32, device=positive.device)
    tile = triton.next_power_of_2(heads), triton.next_power_of_2(width)
    inputs = (positive, negative, video[0] if video else None, None if lses is None else tuple(lses))
    layout = (
        tuple(tensor.stride()[:3] for tensor in features),
        None if lses is None else tuple(tensor.stride()[:3] for tensor in lses),
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
    """Compute each token's limit from the norms `|g|` and `|z+|` of its group, the last two of `(B, L, 3)`."""
    _, norm, positive_norm = norms.reshape(-1, group, 3).sum(1, keepdim=True).unbind(-1)
    bound = tau * positive_norm
    return torch.where(norm > bound, bound / norm, 1.0).expand(-1, group).contiguous()


def average(average: Tensor, live: Tensor, decay: float, heads: int) -> Tensor:
    """Compute :func:`vidguide.functional.emag.ema` and its `attention_gradient` D in one pass.

    Args:
        average: of four dimensions and float32, the last one contiguous; changed in place.
        live: of the same shape, of any strides.
        heads: dimension of the heads.

    Returns:
        D of each sample and head, `(B, H)` in float32; the programs' sums are added in a fixed order.
    """
    live = live if live.stride(-1) == 1 else live.contiguous()
    order = (0, heads, 3 - heads, 3)  # the heads are the second or the third dimension
    sizes = tuple(average.shape[dim] for dim in order)
    strides, live_strides = (tuple(tensor.stride(dim) for dim in order[:3]) for tensor in (average, live))
    columns = min(triton.next_power_of_2(sizes[3]), TILE)
    tile = min(triton.next_power_of_2(sizes[2]), TILE // columns), columns
    grid = sizes[0] * sizes[1], triton.cdiv(sizes[2], tile[0]), triton.cdiv(sizes[3], columns)
    partial = torch.empty(grid, dtype=torch.float32, device=average.device)
    with _on(average):
        average_tile[grid](
            average, live, partial, strides, live_strides, sizes, 1 - decay, *tile, num_warps=warps(tile[0] * columns)
        )
    return partial.sum((1, 2)).unflatten(0, sizes[:2]) / (sizes[2] * sizes[3])


def _on(tensor: Tensor) -> torch.cuda.device:
    """Select the tensor's GPU for the launch."""
    return torch.cuda.device(tensor.device.index if tensor.is_cuda else -1)


def warps(elements: int) -> int:
    """Return the number of warps for a program of so many elements, 16 per thread."""
    return min(max(elements // (16 * 32), 1), 16)
