"""The result of a calibration: w* of each setting at each noise level, and the settings that explain most."""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidguide.functional.direction import (
    DIRECTION,
    ERROR,
    ERROR_DIRECTION,
    PREDICTION,
    bootstrap_scales,
    explained_share,
    least_squares_scale,
    percentile_interval,
    relative_size,
)
from vidguide.guidances.direction_probe import neutral_scale
from vidguide.pipelines.calibration.candidates import Candidate, parameters_of
from vidguide.pipelines.request.guidance_spec import name_of

RESAMPLES = 4000
FORMAT = "vidguide settings"


@dataclass(frozen=True)
class Fit:
    """Least squares of the model's error on one direction. Not a number where the direction is zero.

    Attributes:
        scale: w*. low, high: its 95% interval, bootstrapped over clips.
        explained: share of the squared error. size: `|d| / |c|`.
    """

    scale: float
    low: float
    high: float
    explained: float
    size: float

    @property
    def points(self) -> int:
        """1 where the direction points to the truth, -1 where it points away, 0 where the interval contains 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @property
    def cosine(self) -> float:
        """Cosine of the angle between error and direction."""
        return math.copysign(math.sqrt(self.explained), self.scale)

    def to_dict(self) -> dict[str, float | None]:
        """Return the values as JSON has them: None for not a number."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}


def fit(products: Tensor, seed: int = 0) -> Fit:
    """Fit the products of clips, `(N, 4)`; see :func:`vidguide.functional.direction.inner_products`."""
    total = products.sum(0)
    if total[DIRECTION] == 0:
        return Fit(math.nan, math.nan, math.nan, math.nan, 0.0)
    generator = torch.Generator().manual_seed(seed)
    interval = percentile_interval(bootstrap_scales(products, RESAMPLES, generator))
    values = least_squares_scale(total), explained_share(total), relative_size(total)
    scale, explained, size = (float(value) for value in values)
    return Fit(scale, *interval, explained, size)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One noise level: index of its step, and sigma relative to `alpha + sigma = 1`, or to unit variance."""

    step: int
    sigma: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Directions of guidances against the error of a model.

    Attributes:
        model: name. clips: name of the clips. steps: of the run. seed: of the noise.
        levels: the noise levels. candidates: the settings.
        products: sums of each setting, level and clip, `(S, T, N, 4)`, float64; columns as in
            :mod:`vidguide.functional.direction`.
        notes: settings that were left out, with the reason.
    """

    model: str
    clips: str
    steps: int
    seed: int
    levels: tuple[Level, ...]
    candidates: tuple[Candidate, ...]
    products: Tensor
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def fits(self) -> list[list[Fit]]:
        """By setting, the fits at each level and, last, at all levels together."""
        return [[*map(fit, by_level), fit(by_level.sum(0))] for by_level in self.products]

    def best(self) -> dict[str, int]:
        """Return, by name of a guidance, the index of the setting that explains most of the error over all levels.

        Only settings that point to the truth there; a guidance without one is left out.
        """
        chosen: dict[str, int] = {}
        for index, candidate in enumerate(self.candidates):
            name, overall = name_of(candidate.guidance), self.fits[index][-1]
            if overall.points == 1 and (
                name not in chosen or overall.explained > self.fits[chosen[name]][-1].explained
            ):
                chosen[name] = index
        return chosen

    def settings_file(self) -> dict[str, Any]:
        """Return the content of a settings file: the parameters of the best setting of each guidance.

        The scale is in the guidance's units: EMAG's and CFG's is `1 + w*`.
        """
        return {
            "format": FORMAT,
            "model": self.model,
            "clips": self.clips,
            "compared": len(self.candidates),
            "guidances": {name: self.parameters(index) for name, index in self.best().items()},
        }

    def parameters(self, index: int) -> dict[str, Any]:
        """Return the parameters of a setting as JSON values, with its scale at all levels together."""
        guidance = self.candidates[index].guidance
        scale = round(neutral_scale(guidance) + self.fits[index][-1].scale, 4)
        return {"scale": scale, **{name: plain(value) for name, value in parameters_of(guidance).items()}}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, with the sums of each level and clip."""
        return {
            "model": self.model,
            "clips": self.clips,
            "number_of_clips": self.products.shape[2],
            "steps": self.steps,
            "seed": self.seed,
            **self.settings,
            "levels": [vars(level) for level in self.levels],
            "notes": list(self.notes),
            "error_error": rounded(self.products[0, ..., ERROR]),
            "prediction_prediction": rounded(self.products[0, ..., PREDICTION]),
            "settings": [
                {
                    "spec": candidate.spec,
                    "group": candidate.group,
                    "layers": candidate.layers,
                    "levels": [each.to_dict() for each in fits[:-1]],
                    "all": fits[-1].to_dict(),
                    "error_direction": rounded(sums[..., ERROR_DIRECTION]),
                    "direction_direction": rounded(sums[..., DIRECTION]),
                }
                for candidate, fits, sums in zip(self.candidates, self.fits, self.products, strict=True)
            ],
        }


def rounded(sums: Tensor) -> list[list[float]]:
    """Return sums of each level and clip with six digits."""
    return [[float(f"{value:.6g}") for value in level] for level in sums.tolist()]


def plain(value: Any) -> Any:
    """Return a parameter as JSON has it."""
    return list(value) if isinstance(value, tuple) else value
