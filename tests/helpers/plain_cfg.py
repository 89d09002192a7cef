"""Rules of classifier-free guidance as the papers' equations, sample by sample."""

import torch
from torch import Tensor


def plain_apg(
    cond: Tensor, uncond: Tensor, scale: float, eta: float, radius: float, average: Tensor | None, momentum: float
) -> Tensor:
    """arXiv 2410.02416, algorithm 1, sample by sample."""
    guided = []
    for row, (c, u) in enumerate(zip(cond, uncond, strict=True)):
        update = c - u + (0 if average is None else momentum * average[row])
        norm = (update**2).sum() ** 0.5
        if radius > 0 and norm > radius:
            update = update * radius / norm
        unit = c / (c**2).sum() ** 0.5
        parallel = (update * unit).sum() * unit
        guided.append(c + (scale - 1) * (update - parallel + eta * parallel))
    return torch.stack(guided)


def plain_tcfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """arXiv 2503.18137: project the unconditional prediction on the first right singular vector of both."""
    guided = []
    for c, u in zip(cond, uncond, strict=True):
        v = torch.linalg.svd(torch.stack([c.flatten(), u.flatten()]), full_matrices=False)[2][0]
        damped = ((u.flatten() @ v) * v).view_as(u)
        guided.append(damped + scale * (c - damped))
    return torch.stack(guided)


def plain_mambo_g(cond: Tensor, uncond: Tensor, scale: float, alpha: float = 8.0) -> Tensor:
    """arXiv 2508.03442: w(r) = 1 + (w - 1) exp(-alpha r)."""
    guided = []
    for c, u in zip(cond, uncond, strict=True):
        ratio = ((c - u) ** 2).sum().sqrt() / (u**2).sum().sqrt()
        guided.append(u + (1 + (scale - 1) * torch.exp(-alpha * ratio)) * (c - u))
    return torch.stack(guided)


def plain_zero_star(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """arXiv 2503.18886: the unconditional prediction scaled to its projection."""
    guided = []
    for c, u in zip(cond, uncond, strict=True):
        s = (c * u).sum() / (u * u).sum()
        guided.append(s * u + scale * (c - s * u))
    return torch.stack(guided)
