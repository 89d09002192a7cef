"""NAG and EMAG's average in Triton: one pass over memory each. Launched by :mod:`vidguide.kernels.triton_launch`.

What they compute is written in :mod:`vidguide.functional.formulas` and `lse_merge`, which stay the specification. A
program takes one token, or one tile of an average, and computes in float32 whatever the tensors hold. Triton compiles
these functions from their source, and would take annotations other than `tl.constexpr` for values.
"""

import triton
import triton.language as tl


@triton.jit
def load_token(tensor, strides, length, offsets, there):
    """This program's token `(heads, channels)` in float32, 0 where it is not `there`.

    Offsets have 64 bits: a long video of many channels has more than 2**31 elements.
    """
    row = tl.program_id(0)
    start = (row // length).to(tl.int64) * strides[0] + (row % length).to(tl.int64) * strides[1]
    return tl.load(tensor + start + offsets, mask=there, other=0.0).to(tl.float32)


@triton.jit
def merged_token(first, second, share):
    """Attention over two key sets from that over each, as `lse_merge.merge`.

    The second has no share where it is masked altogether, and may then hold anything.
    """
    return tl.where(share > 0, first + share * (second - first), first)


@triton.jit
def nag_token(
    positive,
    negative,
    video,
    sums,
    factors,
    output,
    stats,
    strides,
    sum_strides,
    length,
    heads,
    width,
    scale,
    tau,
    alpha,
    head_block: tl.constexpr,
    width_block: tl.constexpr,
):
    """NAG of one token, as `formulas.nag`; for the trace whether tau held it, |z - z+|, and |z+|.

    With `video`, positive and negative are the attention over each text's keys alone, and `sums` the log-sum-exps of
    the three. With `factors`, the limit is given. Without `output`, |g| is told in place of |z - z+|.
    """
    row = tl.program_id(0)
    head, channel = tl.arange(0, head_block)[:, None].to(tl.int64), tl.arange(0, width_block)[None, :]
    there = (head < heads) & (channel < width)
    one = load_token(positive, strides[0], length, head * strides[0][2] + channel, there)
    two = load_token(negative, strides[1], length, head * strides[1][2] + channel, there)
    if video is not None:
        both = load_token(video, strides[2], length, head * strides[2][2] + channel, there)
        known = load_token(sums[2], sum_strides[2], length, head * sum_strides[2][2], head < heads)
        beside = load_token(sums[0], sum_strides[0], length, head * sum_strides[0][2], head < heads)
        one = merged_token(both, one, tl.sigmoid(beside - known))
        beside = load_token(sums[1], sum_strides[1], length, head * sum_strides[1][2], head < heads)
        two = merged_token(both, two, tl.sigmoid(beside - known))
    guided = one + (scale - 1) * (one - two)
    own, told = tl.sum(tl.abs(one)), tl.sum(tl.abs(guided))
    if factors is not None:
        factor = tl.load(factors + row)
    else:
        held = told > tau * own
        factor = tl.where(held, tau * own / tl.where(held, told, 1.0), 1.0)
    if output is not None:
        result = one + alpha * (guided * factor - one)
        at = output + row.to(tl.int64) * heads * width + head * width + channel
        tl.store(at, result.to(output.dtype.element_ty), mask=there)
        told = tl.sum(tl.abs(result - one))
    tl.store(stats + 3 * row, (factor < 1).to(tl.float32))
    tl.store(stats + 3 * row + 1, told)
    tl.store(stats + 3 * row + 2, own)


@triton.jit
def average_tile(
    average, live, partial, strides, live_strides, sizes, share, row_block: tl.constexpr, width_block: tl.constexpr
):
    """`E += share (A - E)` on a tile of one head, and the tile's sum of `|E - A|`.

    `sizes` and strides are of the heads, of two dimensions whose pairs are the rows, and of the last one.
    """
    head = tl.program_id(2)
    row = tl.program_id(0) * row_block + tl.arange(0, row_block)[:, None]
    column = tl.program_id(1) * width_block + tl.arange(0, width_block)[None, :]
    there = (row < sizes[1] * sizes[2]) & (column < sizes[3])
    outer, inner = (row // sizes[2]).to(tl.int64), (row % sizes[2]).to(tl.int64)
    at = average + head.to(tl.int64) * strides[0] + outer * strides[1] + inner * strides[2] + column
    seen = live + head.to(tl.int64) * live_strides[0] + outer * live_strides[1] + inner * live_strides[2] + column
    old, new = tl.load(at, mask=there, other=0.0), tl.load(seen, mask=there, other=0.0).to(tl.float32)
    mixed = old + share * (new - old)
    tl.store(at, mixed, mask=there)
    tile = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * sizes[0] + head
    tl.store(partial + tile, tl.sum(tl.abs(mixed - new)))
