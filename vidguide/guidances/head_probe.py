"""Measurement of which heads attend within their frame and which along time, in one unperturbed pass of a run."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call, Correction, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.head_selection import HeadObserver
from vidguide.functional.head_mass import EXTENTS, Grid, has_extent, lift
from vidguide.guidances.base import Guidance


class ProbedError(Exception):
    """Ends a run once it is measured; the measurements are in the probe's `heads`."""


@dataclass(frozen=True)
class HeadMass:
    """Distribution of one head's attention in full 3D attention: see :mod:`vidguide.functional.head_mass`.

    Attributes:
        within_frame, within_column: shares of the mass on other video tokens, means over sampled queries and, where
            several clips are sampled at once, over these.
        grid: the video's token grid (F, H, W).
    """

    layer: int
    head: int
    within_frame: float
    within_column: float
    grid: Grid

    @property
    def lifts(self) -> tuple[float, float]:
        """Shares within the frame and within the column, divided by those of uniform attention."""
        within, along = lift(torch.tensor([self.within_frame, self.within_column]), self.grid).tolist()
        return within, along

    @property
    def extent(self) -> str:
        """ "spatial", "temporal" or "neither": :func:`vidguide.functional.head_mass.has_extent`."""
        lifts = torch.tensor(self.lifts)
        return next(extent for extent in EXTENTS if has_extent(lifts, extent))


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadProbe(Guidance):
    """Measures every head of the video's self-attention in one unperturbed pass, at `start` of a run, and ends the run.

    ::

        probe = HeadProbe(start=0.5)
        with suppress(ProbedError), guide(pipe, probe):
            pipe("a red panda surfing")
        probe.heads

    It costs the scores of 64 queries per layer, 64 / L of those of its attention over L tokens, and the run until then.
    Of two transformers, the one that is called at that step is measured.

    Attributes:
        start: fraction of the run at which to measure.
        heads: the measurements, one entry per layer and head.
        stop, layers: not used.

    Raises:
        ValueError: in `guide`, for a model with separate attention modules for space and time.
    """

    heads: list[HeadMass] = field(default_factory=list)

    @property
    def perturbs(self) -> bool:
        return True  # so that the video's self-attention is intercepted

    def check(self, model: GuidedModel, pipe: Any) -> None:
        super().check(model, pipe)
        if "spatiotemporal" not in model.self_sites:
            raise ValueError(
                f"HeadProbe: {model.family.name} has separate modules for space and time, which locate() lists"
            )

    def observers(self, call: Call) -> dict[int, HeadObserver]:
        """Return one observer for each layer."""
        sites = call.model.self_sites["spatiotemporal"]
        return call.cached(self, lambda: {n: HeadObserver(site, call.grid, call.device) for n, site in sites.items()})

    def plan(self, call: Call) -> AttentionPlan:
        return AttentionPlan(observers={observer.site: (observer,) for observer in self.observers(call).values()})

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        self.heads[:] = [
            HeadMass(layer, head, within_frame, within_column, observer.grid)
            for layer, observer in self.observers(call).items()
            for head, (within_frame, within_column) in enumerate(observer.mass.mean(0).tolist())
        ]
        raise ProbedError
