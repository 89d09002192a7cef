"""Which heads of a model look within their frame and which along time, measured in one clean pass of a run."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidguide.edits.head_selection import HeadWatch
from vidguide.functional.head_mass import EXTENTS, Grid, has_extent, lift
from vidguide.guidances.base import Guidance

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser


class ProbedError(Exception):
    """Ends a run that was only to be measured; the measurements are in the probe's `heads`."""


@dataclass(frozen=True)
class HeadMass:
    """How one head of full 3D attention spreads its attention: see :func:`vidguide.functional.head_mass`.

    Attributes:
        within_frame, within_column: shares of the mass on other video tokens, means over sampled queries.
        grid: the video's token grid (F, H, W).
    """

    layer: int
    head: int
    within_frame: float
    within_column: float
    grid: Grid

    @property
    def lifts(self) -> tuple[float, float]:
        """Shares within the frame and within the column, divided by those of evenly spread attention."""
        within, along = lift(torch.tensor([self.within_frame, self.within_column]), self.grid).tolist()
        return within, along

    @property
    def extent(self) -> str:
        """ "spatial", "temporal" or "neither": :func:`vidguide.functional.head_mass.has_extent`."""
        lifts = torch.tensor(self.lifts)
        return next(extent for extent in EXTENTS if has_extent(lifts, extent))


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadProbe(Guidance):
    """Measures every head of the video's attention to itself in one clean pass, at `start` of a run, and ends the run.

    ::

        probe = HeadProbe(start=0.5)
        with suppress(ProbedError), guide(pipe, probe):
            pipe("a red panda surfing")
        probe.heads

    It costs the scores of 64 queries a layer, 64 / L of those of its attention over L tokens, beside the run until
    there. With two transformers, the one at work is measured.

    Attributes:
        start: fraction of the run at which to measure.
        heads: what was found, one entry per layer and head.
        stop, layers: not used.

    Raises:
        ValueError: in `guide`, for a model whose attention spans space and time by modules of their own.
    """

    heads: list[HeadMass] = field(default_factory=list)

    @property
    def weak(self) -> bool:
        return True  # so that the video's attention is routed to us

    def check(self, denoiser: "Denoiser") -> None:
        super().check(denoiser)
        if "spatiotemporal" not in denoiser.self_sites:
            raise ValueError(
                f"HeadProbe: {denoiser.family.name} has modules of their own for space and time, which locate() lists"
            )

    def watches(self, denoiser: "Denoiser") -> dict[int, HeadWatch]:
        """One for each layer."""
        sites, grid = denoiser.self_sites["spatiotemporal"], denoiser.grid()
        return denoiser.kept(self, lambda: {layer: HeadWatch(site, grid) for layer, site in sites.items()})

    def prepare(self, denoiser: "Denoiser") -> None:
        for watch in self.watches(denoiser).values():
            watch.begin(denoiser.device)

    def correction(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor | None:
        found = [
            HeadMass(layer, head, within, along, watch.grid)
            for layer, watch in self.watches(denoiser).items()
            for head, (within, along) in enumerate(watch.mass.tolist())
        ]
        self.heads[:] = found
        raise ProbedError
