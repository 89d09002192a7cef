"""The base class of self-guidance (EMAG, PAG, STG, SEG, TPG, S2Guidance): a second forward pass, perturbed."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.calls.pass_interval import PassInterval
from vidguide.edits.head_selection import HeadSelection
from vidguide.guidances.base import Guidance
from vidguide.tracing.run import SampleChoice
from vidguide.validation import OneOf, Range

EXTENTS = (None, "spatial", "temporal")


@dataclass(frozen=True, kw_only=True, eq=False)
class SelfGuidance(Guidance):
    """A guidance whose second pass is perturbed in some layers.

    Attributes:
        extent: "spatial" or "temporal" perturbs only the attention of that extent: the modules, where space and time
            have separate ones; otherwise the heads of each sample that are of that extent in the run's first guided
            step, see :func:`vidguide.functional.head_mass.has_extent`. None for all heads, and the spatial modules.
        rescale: phi of Lin et al. (arXiv 2305.08891, eq. 15 and 16), 0 to 1: how far the prediction with the correction
            is rescaled to the standard deviation of the unperturbed conditional one; 0 is off. With several guidances
            it is one value, for the sum of their corrections.
        every: k, at least 1: a perturbed pass at every k-th guided step, whose difference from the conditional
            prediction the steps in between use again, at their own scale. 1, as published, is the default.
    """

    extent: Annotated[str | None, OneOf(*EXTENTS)] = None
    rescale: Annotated[float, Range(0, 1)] = 0.0
    every: Annotated[int, Range(1)] = 1

    @functools.cached_property
    def interval(self) -> PassInterval:
        """Which guided steps make a perturbed pass."""
        return PassInterval(self.every)

    @property
    def needs_steps(self) -> bool:
        return super().needs_steps or (self.every > 1 and not self.neutral)

    @property
    def pauses(self) -> bool:
        return self.every > 1 and not self.neutral

    @property
    def interval_notes(self) -> tuple[str, ...]:
        """For the trace, which passes are left out."""
        name = type(self).__name__
        return (f"{name}: a pass at every {self.every} guided steps, its difference reused",) if self.every > 1 else ()

    def weaker_prediction(self, call: Call, prediction: Tensor, guided: list[int], run: Callable[[], Tensor]) -> Tensor:
        """Return the prediction of a perturbed pass, or its estimate from the latest one.

        Args:
            guided: steps of the run at which this guidance acts. run: runs the pass.
        """
        if not self.interval.is_due(call, guided):
            (estimate,) = self.interval.reused(call, [prediction])
            return cast(Tensor, estimate)
        perturbed = run()
        self.interval.store(call, [prediction], [perturbed])
        return perturbed

    @property
    def once_a_step(self) -> bool:
        return True

    @property
    def perturbs(self) -> bool:
        return not self.neutral

    @property
    def before_cfg(self) -> bool:
        """Whether its correction is added before classifier-free guidance; see `Correction`."""
        return False

    def sites(self, model: GuidedModel) -> Mapping[int, AttentionSite]:
        """Return the sites of the video's self-attention, by layer: those of `extent` where it has separate modules."""
        return model.self_sites.get(self.extent or "") or model.self_sites[model.family.extent]

    def head_selection(self, call: Call, layers: Sequence[int]) -> HeadSelection | None:
        """Return the selection of the heads of `extent` where one attention spans space and time; None otherwise."""
        if self.extent is None or self.extent in call.model.self_sites:
            return None
        sites = self.sites(call.model)
        return HeadSelection(self.extent, {layer: sites[layer] for layer in layers}, call.grid, call.device)

    def execution_indices(self, model: GuidedModel, layers: Sequence[int]) -> frozenset[int]:
        """Return which blocks, in execution order, some layers are."""
        sites = self.sites(model)
        return frozenset(sites[layer].execution_index for layer in layers)

    def check_extent_of_blocks(self, model: GuidedModel) -> None:
        """Refuse an extent that no block of the model has, for guidances that change whole blocks."""
        if self.extent is not None and self.extent not in model.self_sites:
            who = f"{type(self).__name__}(extent={self.extent!r})"
            raise ValueError(f"{who}: {model.family.name} has no {self.extent} blocks; leave extent out")

    def perturbed_prediction(
        self,
        call: Call,
        rerun: Rerun,
        layers: Sequence[int],
        perturbation: Callable[[int], Perturbation],
        heads: HeadSelection | None = None,
        samples: Sequence[SampleChoice] = (),
    ) -> Tensor:
        """Return the prediction of a rerun with the attention of some layers perturbed.

        Args:
            samples: the choice for each sample, for the trace.
        """
        sites = self.sites(call.model)
        chosen = {layer: perturbation(layer) for layer in layers}
        if heads is not None:
            chosen = {layer: heads.restrict(layer, change) for layer, change in chosen.items()}
        plan = AttentionPlan(perturbations={sites[layer]: change for layer, change in chosen.items()})
        return rerun(plan, layers, samples)
