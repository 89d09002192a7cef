"""Classifier-free guidance and its variants: rules that combine a conditional and an unconditional prediction.

All rules take predictions `(B, ...)` of any layout and treat each sample of the batch by itself. They compute in
float32 (float64 for float64) and return the dtype of `cond`, except for :func:`cfg`, which rounds as diffusers does.
For every rule `scale -> 1` gives `cond`.
"""

import torch
from torch import Tensor

from vidguide.functional.upcast import upcast

APG_VALUES = 4 * 128 * 128  # values per sample for which APG's published radius was chosen: SDXL's latents


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Compute classifier-free guidance `u + w (c - u)` (Ho and Salimans, arXiv 2207.12598).

    Rounds as diffusers' pipelines do.
    """
    return uncond + scale * (cond - uncond)


def rescale_std(guided: Tensor, cond: Tensor, share: float) -> Tensor:
    """Rescale a guided prediction to the standard deviation of the conditional one (Lin et al., arXiv 2305.08891).

    `phi * guided * std(c) / std(guided) + (1 - phi) * guided` (eq. 15 and 16), standard deviations per sample.

    Args:
        share: phi, 0 to 1; 0 returns `guided`. Published: 0.7.
    """
    if share == 0:
        return guided
    upcast_guided, reference, dims = upcast(guided), upcast(cond), _sample_dims(guided)
    deviation, target = upcast_guided.std(dims, keepdim=True), reference.std(dims, keepdim=True)
    # A constant prediction (CFG-Zero*'s first steps) has no deviation to rescale.
    factor = torch.where(deviation > 0, target / torch.where(deviation > 0, deviation, 1), 1)
    return (upcast_guided * (1 + share * (factor - 1))).to(guided.dtype)


def apg(
    cond: Tensor, uncond: Tensor, scale: float, eta: float, radius: float, average: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    """Compute Adaptive Projected Guidance (Sadat et al., arXiv 2410.02416, algorithm 1).

    `c + (w - 1) * update`: the difference `c - u` enters a running average over the steps, is clipped to an L2 norm,
    and its component parallel to `c` is reduced. diffusers' `normalized_guidance` computes this with
    `use_original_formulation=True` and `guidance_scale = w - 1`; its default, `u + w * update`, does not return `c` at
    `w = 1`.

    Args:
        scale: w.
        eta: share of the parallel component, 0 to 1.
        radius: largest L2 norm of a sample's update, as it is; 0 for no limit. See :func:`apg_radius`.
        average: running average of the previous step, None at the first one.
        momentum: beta, factor of the previous average; published values are negative.

    Returns:
        The guided prediction, and the running average for the next step in the computation dtype.
    """
    conditional = upcast(cond)
    update, average = apg_update(conditional - upcast(uncond), conditional, eta, radius, average, momentum)
    return (conditional + (scale - 1) * update).to(cond.dtype), average


def apg_update(
    difference: Tensor, cond: Tensor, eta: float, radius: float, average: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    """Compute the update of :func:`apg` from the difference `c - u`, both in the computation dtype.

    Returns:
        The update, and the running average for the next step.
    """
    average = difference if average is None else difference + momentum * average
    update, dims = average, _sample_dims(cond)
    if radius > 0:
        norm = torch.linalg.vector_norm(update, dim=dims, keepdim=True)
        update = update * (radius / norm).clamp(max=1)
    length = _dot(cond, cond).clamp_min(torch.finfo(cond.dtype).tiny)
    return update - (1 - eta) * _dot(update, cond) / length * cond, average


def apg_radius(radius: float, values: int) -> float:
    """Scale APG's clipping radius to the size of a sample.

    A norm of independent values grows with the square root of their number. The published radii belong to
    4 x 128 x 128 values: 15 there is 85 for the 2.1 million of a 480p Wan clip of 81 frames.

    Args:
        radius: as published, for 4 x 128 x 128 values.
        values: number of values of one sample.
    """
    return radius * (values / APG_VALUES) ** 0.5


def cfg_zero_star(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Compute CFG-Zero*'s optimized scale (Fan et al., arXiv 2503.18886): CFG from `s u`.

    `s = <c, u> / |u|^2` is the projection of the conditional prediction on the unconditional one, over the whole
    sample. diffusers' `cfg_zero_star_scale` adds 1e-8 to `|u|^2` and takes flattened predictions.
    """
    conditional, unconditional = upcast(cond), upcast(uncond)
    optimal = _dot(conditional, unconditional) / (_dot(unconditional, unconditional) + 1e-8)
    return cfg(conditional, optimal * unconditional, scale).to(cond.dtype)


def tcfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Compute Tangential Damping CFG (Kwon et al., arXiv 2503.18137).

    CFG from `u' = <u, v> v`, where the unit vector v is the first right singular vector of the matrix of rows c and u:
    the component of the unconditional prediction across the direction that both share is removed. The first left
    singular vector of two rows is `(cos a, sin a)` with `tan 2a = 2 <c, u> / (<c, c> - <u, u>)`, so no singular value
    decomposition of long rows is needed.
    """
    conditional, unconditional = upcast(cond), upcast(uncond)
    angle = 0.5 * torch.atan2(
        2 * _dot(conditional, unconditional), _dot(conditional, conditional) - _dot(unconditional, unconditional)
    )
    shared = angle.cos() * conditional + angle.sin() * unconditional
    length = _dot(shared, shared).clamp_min(torch.finfo(conditional.dtype).tiny)
    return cfg(conditional, _dot(unconditional, shared) / length * shared, scale).to(cond.dtype)


def mambo_g(cond: Tensor, uncond: Tensor, scale: float, alpha: float) -> Tensor:
    """Compute MAMBO-G, magnitude-aware guidance (Zhu et al., arXiv 2508.03442).

    CFG at the scale `1 + (w - 1) exp(-alpha r)` with `r = |c - u|_2 / |u|_2` per sample: where guidance would change
    the prediction by a large part of its norm, as in the first steps, it is damped.

    Args:
        alpha: strength of the damping; 0 is CFG. diffusers' default: 8.
    """
    conditional, unconditional, dims = upcast(cond), upcast(uncond), _sample_dims(cond)
    difference = torch.linalg.vector_norm(conditional - unconditional, dim=dims, keepdim=True)
    norm = torch.linalg.vector_norm(unconditional, dim=dims, keepdim=True)
    ratio = difference / norm.clamp_min(torch.finfo(conditional.dtype).tiny)
    damped = 1 + (scale - 1) * torch.exp(-alpha * ratio)
    return (unconditional + damped * (conditional - unconditional)).to(cond.dtype)


def _sample_dims(tensor: Tensor) -> list[int]:
    """List all dimensions but the batch."""
    return list(range(1, tensor.ndim))


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Compute the inner product of each sample, `(B, 1, ...)`."""
    return (first * second).sum(_sample_dims(first), keepdim=True)
