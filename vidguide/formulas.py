"""Every formula, as pure functions of tensors. Imports torch and nothing else."""

import torch
from torch import Tensor


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: extrapolation magnifies rounding, and norms over thousands of channels need the digits."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def l1_norm(features: Tensor) -> Tensor:
    """L1 norm per token over all heads and channels: `(B, L, H, D)` to `(B, L, 1, 1)`, at least float32."""
    return _wide(features).abs().sum((-2, -1), keepdim=True)


def nag_extrapolate(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """`g = s z+ - (s - 1) z-` (NAG, arXiv 2505.21179), written so that equal features stay exactly equal."""
    positive, negative = _wide(positive), _wide(negative)
    return positive + (scale - 1) * (positive - negative)


def nag_limit(positive: Tensor, guided: Tensor, tau: float) -> Tensor:
    """`min(r, tau) / r` with `r = |g|_1 / |z+|_1` per token (NAG: normalisation); 1 where the bound holds already.

    Never divides by zero: where it divides, `|g|_1 > tau |z+|_1 >= 0`.
    """
    bound, norm = tau * l1_norm(positive), l1_norm(guided)
    exceeds = norm > bound
    return torch.where(exceeds, bound / torch.where(exceeds, norm, torch.ones_like(norm)), torch.ones_like(norm))


def nag(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """Normalized Attention Guidance of attention features (Chen et al. 2025, arXiv 2505.21179).

    Args:
        positive, negative: `(B, L, H, D)`, attention outputs of the same queries on the prompt's and on the
            negative prompt's keys and values, before the output projection.
        scale: extrapolation s; 1 is off.
        tau: most that a token's L1 norm may grow, as a multiple of the positive norm.
        alpha: share of the guided features in the result; 0 is off.

    Returns:
        `(B, L, H, D)` in the dtype of `positive`; computed in float32, or float64 for float64.
    """
    guided = nag_extrapolate(positive, negative, scale)
    limited = guided * nag_limit(positive, guided, tau)
    return torch.lerp(_wide(positive), limited, alpha).to(positive.dtype)


def ema(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """`E = decay E + (1 - decay) A`, in place and in the average's own dtype (EMAG, arXiv 2512.17303)."""
    return average.lerp_(value.to(average.dtype), 1 - decay)


def attention_gradient(average: Tensor, value: Tensor) -> Tensor:
    """`D = mean |E - A|` of a layer, a scalar (EMAG): how far the live attention is from its average."""
    return (average - value.to(average.dtype)).abs().mean()


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance `u + s (c - u)` (arXiv 2207.12598), rounded as diffusers' pipelines do; 1 is off."""
    return uncond + scale * (cond - uncond)
