"""NAG and EMAG's average in Triton, one pass over memory each. Launched by :mod:`vidguide.kernels.triton_launch`.

:mod:`vidguide.functional.nag`, `emag` and `lse_merge` are their specification. A program processes one token, or one
tile of an average, in float32. Triton compiles these functions from their source and interprets annotations other than
`tl.constexpr` as values, so there are none.
"""

import triton
import triton.language as tl


@triton.jit
def load_token(tensor, strides, length, offsets, mask):
    """Load this program's token `(heads, channels)` in float32, 0 where `mask` is false.

    Offsets have 64 bits: a long video of many channels has more than 2**31 elements.
    """
    row = tl.program_id(0)
    start = (row // length).to(tl.int64) * strides[0] + (row % length).to(tl.int64) * strides[1]
    return tl.load(tensor + start + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def merged_token(first, second, share):
    """Merge attention over two key sets, as `lse_merge.merge`.

    Where the second is masked altogether its share is 0, and its values may be arbitrary.
    """
    return tl.where(share > 0, first + share * (second - first), first)


@triton.jit
def nag_token(
    positive,
    negative,
    video,
    lses,
    factors,
    output,
    stats,
    strides,
    lse_strides,
    length,
    heads,
    width,
    scale,
    tau,
    alpha,
    head_block: tl.constexpr,
    width_block: tl.constexpr,
):
    """Compute NAG of one token, and its statistics: whether tau limits it, |z - z+|, and |z+|.

    With `video`, positive and negative are the attention over each text's keys alone, and `lses` the log-sum-exps of
    the three. With `factors`, the limit is read from there. Without `output`, |g| is stored in place of |z - z+|.
    """
    row = tl.program_id(0)
    head, channel = tl.arange(0, head_block)[:, None].to(tl.int64), tl.arange(0, width_block)[None, :]
    mask = (head < heads) & (channel < width)
    positive_token = load_token(positive, strides[0], length, head * strides[0][2] + channel, mask)
    negative_token = load_token(negative, strides[1], length, head * strides[1][2] + channel, mask)
    if video is not None:
        video_token = load_token(video, strides[2], length, head * strides[2][2] + channel, mask)
        video_lse = load_token(lses[2], lse_strides[2], length, head * lse_strides[2][2], head < heads)
        text_lse = load_token(lses[0], lse_strides[0], length, head * lse_strides[0][2], head < heads)
        positive_token = merged_token(video_token, positive_token, tl.sigmoid(text_lse - video_lse))
        text_lse = load_token(lses[1], lse_strides[1], length, head * lse_strides[1][2], head < heads)
        negative_token = merged_token(video_token, negative_token, tl.sigmoid(text_lse - video_lse))
    guided = positive_token + (scale - 1) * (positive_token - negative_token)
    positive_norm, guided_norm = tl.sum(tl.abs(positive_token)), tl.sum(tl.abs(guided))
    if factors is not None:
        factor = tl.load(factors + row)
    else:
        exceeds = guided_norm > tau * positive_norm
        factor = tl.where(exceeds, tau * positive_norm / tl.where(exceeds, guided_norm, 1.0), 1.0)
    if output is not None:
        result = positive_token + alpha * (guided * factor - positive_token)
        target = output + row.to(tl.int64) * heads * width + head * width + channel
        tl.store(target, result.to(output.dtype.element_ty), mask=mask)
        guided_norm = tl.sum(tl.abs(result - positive_token))
    tl.store(stats + 3 * row, (factor < 1).to(tl.float32))
    tl.store(stats + 3 * row + 1, guided_norm)
    tl.store(stats + 3 * row + 2, positive_norm)


@triton.jit
def average_tile(
    average, live, partial, strides, live_strides, sizes, share, row_block: tl.constexpr, width_block: tl.constexpr
):
    """Update `E += share (A - E)` on a tile of one head of one sample, and store the tile's sum of `|E - A|`.

    Dimensions in `sizes` and strides: samples, heads, rows, columns.
    """
    sample, head = (tl.program_id(0) // sizes[1]).to(tl.int64), (tl.program_id(0) % sizes[1]).to(tl.int64)
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)[:, None].to(tl.int64)
    column = tl.program_id(2) * width_block + tl.arange(0, width_block)[None, :]
    mask = (row < sizes[2]) & (column < sizes[3])
    target = average + sample * strides[0] + head * strides[1] + row * strides[2] + column
    source = live + sample * live_strides[0] + head * live_strides[1] + row * live_strides[2] + column
    old, new = tl.load(target, mask=mask, other=0.0), tl.load(source, mask=mask, other=0.0).to(tl.float32)
    mixed = old + share * (new - old)
    tl.store(target, mixed, mask=mask)
    tile = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    tl.store(partial + tile, tl.sum(tl.abs(mixed - new)))
