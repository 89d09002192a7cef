"""Correction away from a perturbed prediction, shared by PAG, STG and SEG."""

from torch import Tensor


def perturbation_correction(cond: Tensor, perturbed: Tensor, scale: float) -> Tensor:
    """Compute `s (c - p)`.

    Of PAG (Ahn et al., arXiv 2403.17377), STG (Hyung et al., arXiv 2411.18664) and SEG (Hong, arXiv 2408.00760), which
    differ in how the prediction p is perturbed.
    """
    return scale * (cond - perturbed)
