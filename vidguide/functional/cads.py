"""Condition-Annealed Diffusion Sampling (Sadat et al., arXiv 2310.17347)."""

import torch
from torch import Tensor

from vidguide.functional.upcast import upcast


def cads_share(progress: float, full: float, none: float) -> float:
    """Compute the prompt's share gamma (eq. 4) at a fraction of the run.

    0 until `full`, then linear to 1 from `none` on.
    """
    if progress >= none:
        return 1.0
    return 0.0 if progress <= full else (progress - full) / (none - full)


def cads(prompt: Tensor, noise: Tensor, share: float, scale: float, mixing: float) -> Tensor:
    """Add annealed noise to embeddings `(B, ...)`: `sqrt(gamma) y + s sqrt(1 - gamma) n`.

    Args:
        noise: standard normal, of the same shape.
        share: gamma; 1 returns the prompt.
        scale: s.
        mixing: psi, share of the result rescaled to each sample's mean and standard deviation before the noise.
    """
    original, dims = upcast(prompt), list(range(1, prompt.ndim))
    noisy = share**0.5 * original + scale * (1 - share) ** 0.5 * noise.to(original.dtype)
    deviation, mean = torch.std_mean(noisy, dims, keepdim=True)
    original_deviation, original_mean = torch.std_mean(original, dims, keepdim=True)
    rescaled = (noisy - mean) / deviation * original_deviation + original_mean
    return torch.lerp(noisy, rescaled, mixing).to(prompt.dtype)
