"""Every formula, as pure functions of tensors. Imports torch and nothing else."""

import torch
from torch import Tensor

from vidguide.functional.masks import additive


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: extrapolation magnifies rounding, and norms over thousands of channels need the digits."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def l1_norm(features: Tensor) -> Tensor:
    """L1 norm per token over all heads and channels: `(B, L, H, D)` to `(B, L, 1, 1)`, at least float32."""
    return _wide(features).abs().sum((-2, -1), keepdim=True)


def nag_extrapolate(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """`g = s z+ - (s - 1) z-` (NAG, arXiv 2505.21179); equal features stay exactly equal.

    That is `z+ + (s - 1) (z+ - z-)`, which is how `lerp` computes it, in one pass instead of three.
    """
    return torch.lerp(_wide(negative), _wide(positive), scale)


def grouped(norms: Tensor, group: int) -> Tensor:
    """Norms `(B, L, 1, 1)` summed over each `group` of consecutive tokens, for every token of the group.

    A group that is longer than L spans as many rows of the batch as it takes (one per frame in factorised models).
    """
    if group == 1:
        return norms
    return norms.reshape(-1, group).sum(1, keepdim=True).expand(-1, group).reshape(norms.shape)


def nag_limit(positive: Tensor, guided: Tensor, tau: float, group: int = 1) -> Tensor:
    """`min(r, tau) / r` with `r = |g|_1 / |z+|_1` per token (NAG: normalisation); 1 where the bound holds already.

    Norms may be taken over `group` consecutive tokens, of a frame or of the whole clip, so that the factor is one for
    all of them.
    """
    return norm_limit(l1_norm(positive), l1_norm(guided), tau, group)


def norm_limit(positive: Tensor, guided: Tensor, tau: float, group: int = 1) -> Tensor:
    """:func:`nag_limit` of the norms `(B, L, 1, 1)` of the tokens.

    Never divides by zero: where it divides, `|g|_1 > tau |z+|_1 >= 0`.
    """
    bound, norm = tau * grouped(positive, group), grouped(guided, group)
    exceeds = norm > bound
    return torch.where(exceeds, bound / torch.where(exceeds, norm, torch.ones_like(norm)), torch.ones_like(norm))


def nag(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float, group: int = 1) -> Tensor:
    """Normalized Attention Guidance of attention features (Chen et al. 2025, arXiv 2505.21179).

    Args:
        positive, negative: `(B, L, H, D)`, attention outputs of the same queries on the prompt's and on the
            negative prompt's keys and values, before the output projection.
        scale: extrapolation s; 1 is off.
        tau: most that a token's L1 norm may grow, as a multiple of the positive norm.
        alpha: share of the guided features in the result; 0 is off.
        group: consecutive tokens that share one norm; 1 is the paper's.

    Returns:
        `(B, L, H, D)` in the dtype of `positive`; computed in float32, or float64 for float64.
    """
    guided = nag_extrapolate(positive, negative, scale)
    limited = guided * nag_limit(positive, guided, tau, group)
    return torch.lerp(_wide(positive), limited, alpha).to(positive.dtype)


Attended = tuple[Tensor, Tensor, Tensor | None]  # keys and values (B, L, H, D), mask broadcastable to (B, H, Q, L)


def vsf(positive: Attended, negative: Attended, scale: float, offset: float) -> Attended:
    """Value Sign Flip (Guo and Du 2025, arXiv 2508.10931): what one attention sees in place of the prompt's text.

    `softmax(q [k+, k-]^T / sqrt(D) + [0, -offset]) [v+, -scale v-]`: wherever a query finds the negative's tokens,
    what they say is subtracted.

    Args:
        positive, negative: keys, values and mask, of the same batch.
        scale: of the negative's values; there is no value that is off, since its keys still take their share.
        offset: subtracted from the negative's scores.

    Returns:
        Keys, values and additive mask (None where nothing is masked or offset) for an attention of the same queries.
    """
    key, value = torch.cat([positive[0], negative[0]], 1), torch.cat([positive[1], -scale * negative[1]], 1)
    if positive[2] is None and negative[2] is None and offset == 0:
        return key, value, None
    masks = []
    for (keys, _, mask), shift in ((positive, 0.0), (negative, offset)):
        open_mask = torch.zeros(1, 1, 1, keys.shape[1], dtype=keys.dtype, device=keys.device)
        masks.append((open_mask if mask is None else additive(mask, keys.dtype)) - shift)
    shape = [max(sizes) for sizes in zip(*(mask.shape[:-1] for mask in masks), strict=True)]
    return key, value, torch.cat([mask.expand(*shape, -1) for mask in masks], -1)


def ema(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """`E = decay E + (1 - decay) A`, in place and in the average's own dtype (EMAG, arXiv 2512.17303)."""
    return average.lerp_(value.to(average.dtype), 1 - decay)


def attention_gradient(average: Tensor, value: Tensor, heads: int) -> Tensor:
    """`D = mean |E - A|` of a layer (EMAG), how far the live attention is from its average: for each head, `(H,)`.

    Args:
        heads: which dimension is the heads'.
    """
    difference = (average - value).abs_()  # what it subtracts is converted on the way
    return difference.mean([dim for dim in range(difference.ndim) if dim != heads])


def cads_share(progress: float, full: float, none: float) -> float:
    """The prompt's share gamma (CADS, arXiv 2310.17347, eq. 4) at a fraction of the run: 0 until `full`, then linear
    to 1 from `none` on."""
    if progress >= none:
        return 1.0
    return 0.0 if progress <= full else (progress - full) / (none - full)


def cads(prompt: Tensor, noise: Tensor, share: float, scale: float, mixing: float) -> Tensor:
    """Embeddings `(B, ...)` with annealed noise (CADS, arXiv 2310.17347): `sqrt(gamma) y + s sqrt(1 - gamma) n`.

    Args:
        noise: standard normal, of the same shape.
        share: gamma; 1 leaves the prompt as it is.
        scale: s.
        mixing: psi, how much of the result is brought back to each sample's own mean and standard deviation.
    """
    own, dims = _wide(prompt), list(range(1, prompt.ndim))
    noisy = share**0.5 * own + scale * (1 - share) ** 0.5 * noise.to(own.dtype)
    deviation, mean = torch.std_mean(noisy, dims, keepdim=True)
    own_deviation, own_mean = torch.std_mean(own, dims, keepdim=True)
    rescaled = (noisy - mean) / deviation * own_deviation + own_mean
    return torch.lerp(noisy, rescaled, mixing).to(prompt.dtype)
