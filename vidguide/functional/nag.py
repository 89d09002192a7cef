"""Normalized Attention Guidance (Chen et al. 2025, arXiv 2505.21179)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vidguide.functional.upcast import upcast

Strength = tuple[float, float, float]  # scale, tau, alpha


class NAGOutput(NamedTuple):
    """Guided attention features and the limit of their norms.

    Attributes:
        output: `(B, L, H, D)`; of :func:`nag` not rounded to the dtype of the inputs yet.
        factor: `(B, L, 1, 1)`, `min(r, tau) / r` of each token.
    """

    output: Tensor
    factor: Tensor

    @property
    def clamped(self) -> Tensor:
        """Share of the tokens whose norm tau limits, a scalar in float32."""
        return (self.factor < 1).float().mean()


def nag(
    positive: Tensor,
    negative: Tensor,
    scale: float,
    tau: float,
    alpha: float,
    group: int = 1,
    limit: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> NAGOutput:
    """Combine attention features of a prompt and of a negative prompt.

    `g = s z+ - (s - 1) z-`, `g' = g min(r, tau) / r` with `r = |g|_1 / |z+|_1`, `z = alpha g' + (1 - alpha) z+`.
    Computed in float32, or float64 for float64.

    Args:
        positive, negative: `(B, L, H, D)`, attention outputs of the same queries on the prompt's and on the
            negative prompt's keys and values, before the output projection.
        scale: extrapolation s; 1 is off.
        tau: largest ratio of a token's L1 norm to that of the positive features.
        alpha: share of the guided features in the result; 0 is off.
        group: consecutive tokens that share one norm; 1 as published.
        limit: replaces :func:`norm_limit` where tokens that share a norm are on several devices: from the norms of
            `z+` and `g`, `(B, L, 1, 1)` each, to the factor.
    """
    positive, negative = upcast(positive), upcast(negative)
    guided = nag_extrapolate(positive, negative, scale)
    norms = l1_norm(positive), l1_norm(guided)
    factor = norm_limit(*norms, tau, group) if limit is None else limit(*norms)
    return NAGOutput(nag_blend(positive, guided, factor, alpha), factor)


def l1_norm(features: Tensor) -> Tensor:
    """Compute the L1 norm of each token over all heads and channels, `(B, L, H, D)` to `(B, L, 1, 1)`."""
    return upcast(features).abs().sum((-2, -1), keepdim=True)


def nag_extrapolate(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Compute `g = s z+ - (s - 1) z-` in one pass, as a lerp; equal features stay exactly equal."""
    return torch.lerp(upcast(negative), upcast(positive), scale)


def nag_blend(positive: Tensor, guided: Tensor, factor: Tensor, alpha: float) -> Tensor:
    """Compute `alpha g' + (1 - alpha) z+` with `g' = g factor`, as a lerp."""
    return torch.lerp(upcast(positive), guided * factor, alpha)


def norm_limit(positive: Tensor, guided: Tensor, tau: float, group: int = 1) -> Tensor:
    """Compute `min(r, tau) / r` with `r = |g|_1 / |z+|_1`; 1 where r is at most tau.

    Never divides by zero: a division happens only where `|g|_1 > tau |z+|_1 >= 0`.

    Args:
        positive, guided: norms `(B, L, 1, 1)` of z+ and g.
        group: consecutive tokens (of a frame or a clip) whose norms are summed and that share a factor.
    """
    bound, norm = tau * sum_groups(positive, group), sum_groups(guided, group)
    exceeds = norm > bound
    return torch.where(exceeds, bound / torch.where(exceeds, norm, torch.ones_like(norm)), torch.ones_like(norm))


def sum_groups(norms: Tensor, group: int) -> Tensor:
    """Sum norms `(B, L, 1, 1)` over each `group` of consecutive tokens, for every token of the group.

    A group longer than L spans several rows of the batch: in factorised models a clip has a row per frame.
    """
    if group == 1:
        return norms
    return norms.reshape(-1, group).sum(1, keepdim=True).expand(-1, group).reshape(norms.shape)
