"""Least squares of an error on a direction, against loops over clips and a regression."""

import math

import numpy as np
import pytest
import torch

from vidguide.functional.direction import (
    bootstrap_scales,
    explained_share,
    inner_products,
    least_squares_scale,
    percentile_interval,
    relative_size,
)


def fields(clips: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    error, direction, prediction = (torch.randn(clips, 3, 2, 5, dtype=torch.float64) for _ in range(3))
    return error, direction, prediction


def test_the_scale_is_that_of_a_regression_over_all_clips() -> None:
    error, direction, prediction = fields()
    total = inner_products(error, direction, prediction).sum(0)
    solution = torch.linalg.lstsq(direction.reshape(-1, 1), error.reshape(-1, 1)).solution.item()
    assert least_squares_scale(total).item() == pytest.approx(solution, rel=1e-12)
    remaining = (error - solution * direction).square().sum() / error.square().sum()
    assert explained_share(total).item() == pytest.approx(1 - remaining.item(), rel=1e-10)
    assert relative_size(total).item() == pytest.approx((direction.norm() / prediction.norm()).item(), rel=1e-12)


def test_products_are_of_each_clip_and_in_float64() -> None:
    error, direction, prediction = (field.float() for field in fields())
    products = inner_products(error, direction, prediction)
    assert products.dtype == torch.float64
    for clip, (e, d, c) in enumerate(zip(error.double(), direction.double(), prediction.double(), strict=True)):
        expected = [(e * d).sum(), (d * d).sum(), (e * e).sum(), (c * c).sum()]
        torch.testing.assert_close(products[clip], torch.stack(expected), rtol=1e-13, atol=0)


def test_each_resample_is_the_scale_of_the_clips_that_were_drawn() -> None:
    products = inner_products(*fields(5))
    scales = bootstrap_scales(products, 40, torch.Generator().manual_seed(3))
    drawn = torch.randint(5, (40, 5), generator=torch.Generator().manual_seed(3))
    expected = [(products[row, 0].sum() / products[row, 1].sum()).item() for row in drawn]
    np.testing.assert_allclose(scales.numpy(), expected, rtol=1e-12)


def test_the_interval_covers_the_scale_as_often_as_it_says() -> None:
    random, covered = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        direction = torch.randn(40, 8, generator=random, dtype=torch.float64)
        error = 0.7 * direction + torch.randn(40, 8, generator=random, dtype=torch.float64)
        scales = bootstrap_scales(inner_products(error, direction, error), 400, random)
        low, high = percentile_interval(scales)
        covered += low <= 0.7 <= high
    assert 176 <= covered <= 198  # 95% of 200, two-sided binomial range at 1 in 10,000, less the bootstrap's bias


def test_without_a_direction_the_scale_is_not_a_number() -> None:
    error, direction, prediction = fields(3)
    products = inner_products(error, 0 * direction, prediction)
    assert math.isnan(least_squares_scale(products.sum(0)).item())
    assert all(map(math.isnan, percentile_interval(bootstrap_scales(products, 10, torch.Generator()))))
