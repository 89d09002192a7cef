"""Exponential Moving Average Guidance: away from the model whose attention is an average over earlier steps."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call, Correction, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.emag_average import Average, AverageQuery
from vidguide.edits.emag_maps import AverageMap, AverageVideoMap, check_maps_fit
from vidguide.edits.head_selection import HeadSelection
from vidguide.functional.emag import emag_correction
from vidguide.guidances.schedule import (
    Schedule,
    check_run_scale,
    check_schedule,
    in_window,
    is_constant,
    may_be,
    scale_of,
)
from vidguide.guidances.second_pass import SelfGuidance
from vidguide.transformer.compile import graph_limit
from vidguide.transformer.context_parallel import ContextParallel
from vidguide.validation import check_number

Averages = dict[int, Average]
PUBLISHED_DECAY = 0.988
SD3_STEPS, DIT_STEPS = 28, 250  # of the authors' runs, after which 71% and 5% of the first map are left
GRAPHS = 4  # of a model compiled whole, besides one for each layer that is perturbed: tests/transformer/test_compile.py
STALLED = 0.8  # share of the first step's attention left after the last, above which it warns; published: 0.71, 0.05
SELECTS = ("largest", "previous")
VARIANTS: dict[str, type[Average]] = {"query": AverageQuery, "map": AverageMap, "map-video": AverageVideoMap}


@dataclass(frozen=True, kw_only=True, eq=False)
class EMAG(SelfGuidance):
    """Exponential Moving Average Guidance (Yadav, Ta, Liu, arXiv 2512.17303).

    Self-attentions of the candidate layers are averaged over the steps in the unperturbed conditional pass. Within the
    window a second pass replaces the live attention of one layer by the average; the prediction moves away from that
    of the second pass: `c~ + scale (c - c~)` (eq. 14). Blocks before the perturbed layer are not run again.

    The defaults are those of the authors' text-to-image runs (SD3, CFG 7, 28 steps): scale, decay, layers and window.

    Attributes:
        scale: w_e; 1 is off; a number, a list per step, or a callable of the progress. Published: 1.5 with CFG 7 (SD3,
            28 steps), 3 for class-conditional DiT-XL/2; 5.1 for unconditional generation from an empty prompt, which is
            not a prompted model without CFG.
        decay: beta of the average, 0 to 1, per step. Published: 0.988, in 28 steps of SD3 (71% of the first map is left
            after the last) and in 250 of DiT-XL/2 (5%). "auto" is the decay at which 5% are left after any number of
            steps; of 20, 0.860.
        strength: lambda, share of the average in the perturbed attention, 0 to 1; 0 is off.
        layers: candidate layers; None for those from 25% to 35% of the depth (SD3: 6 to 8 of 24), at least three. DiT's
            are 43% to 54% of it (12 to 15 of 28).
        select: "largest" perturbs the layer whose attention is farthest from its average in this step (the paper),
            "previous" in the step before. With queries, "previous" gives the predictions of the authors' code; with
            maps it does not: 14% to 17% of the guidance's effect differ. A tuple names the layers to perturb at once.
        variant: "query" averages the video's queries (EMAG-Q: any length); "map" the attention maps (EMAG), where a
            map of video tokens by all tokens per head and candidate layer fits in memory; "map-video" only the maps'
            part from the video to itself (EMAG-I), which differs where text shares the attention.
        start, stop: window of the second pass, in fractions of the steps; averaging stops with it. Published: 50 to 199
            of 250 steps, 5 to 22 of 28.
        average_from: where averaging begins, in fractions of the steps; at most `start`.
        extent: "spatial" or "temporal" for those heads or modules only; see `SelfGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    scale: Schedule = 1.5
    decay: float | str = PUBLISHED_DECAY
    strength: float = 1.0
    select: str | tuple[int, ...] = "largest"
    variant: str = "query"
    start: float = 0.2
    stop: float = 0.8
    average_from: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule(self, "scale", 0)
        check_number(self, "strength", 0, 1)
        check_number(self, "average_from", 0, self.start)
        if self.decay != "auto":
            check_number(self, "decay", 0, 1)
        if self.variant not in tuple(VARIANTS):
            raise ValueError(f"EMAG(variant={self.variant!r}): must be one of {', '.join(VARIANTS)}")
        fixed = isinstance(self.select, tuple) and self.select and all(type(layer) is int for layer in self.select)
        if self.select not in SELECTS and not fixed:
            raise ValueError(f"EMAG(select={self.select!r}): must be largest, previous or a tuple of layers")
        if fixed and self.layers is not None and not set(self.select) <= set(self.layers):
            raise ValueError(f"EMAG(select={self.select}, layers={self.layers}): select must be among layers")

    @property
    def neutral(self) -> bool:
        return is_constant(self.scale, 1) or self.strength == 0

    @property
    def pauses(self) -> bool:
        return not self.neutral and may_be(self.scale, 1)

    @property
    def before_cfg(self) -> bool:
        return True

    @property
    def needs_steps(self) -> bool:
        return not self.neutral  # the average is over the steps

    def active(self, step: int, steps: int | None) -> bool:
        """Return whether it averages or guides at a step: averaging begins before the window of the second pass."""
        return not self.neutral and in_window(step, steps, self.average_from, self.stop)

    def candidates(self, depth: int) -> tuple[int, ...]:
        """Return the layers whose attention is averaged."""
        if isinstance(self.select, tuple):
            return self.select
        return self.layers if self.layers is not None else default_layers(depth)

    def check(self, model: GuidedModel, pipe: Any) -> None:
        super().check(model, pipe)
        if isinstance(self.select, tuple) and not set(self.select) <= set(range(model.depth)):
            raise ValueError(f"EMAG(select={self.select}): the model's blocks are 0 to {model.depth - 1}")
        self.warn_of_graphs(model)

    def check_run(self, call: Call) -> None:
        check_run_scale(self, call, 0)
        if call.model.parallel.active and self.variant != "query":
            raise ValueError(
                f"EMAG(variant={self.variant!r}) under context parallel: a map's rows and columns lie on several "
                "ranks; use variant='query'"
            )

    def warn_of_graphs(self, model: GuidedModel) -> None:
        """Warn where torch.compile may give up: a whole model is compiled again for each layer that is perturbed."""
        limit = graph_limit(model.transformer)
        graphs = GRAPHS + (1 if isinstance(self.select, tuple) else len(self.candidates(model.depth)))
        if limit is not None and graphs > limit and not self.neutral:
            warnings.warn(
                f"EMAG in a model of {model.depth} blocks that is compiled whole may take {graphs} graphs, and "
                f"torch._dynamo.config.recompile_limit is {limit}: beyond it torch stops compiling, or with "
                "fullgraph=True fails; use compile_repeated_blocks(), name fewer layers, or raise the limit",
                stacklevel=2,
            )

    def decay_for(self, steps: int) -> float:
        """Return the decay per step of a run of `steps` steps."""
        return PUBLISHED_DECAY ** (DIT_STEPS / steps) if isinstance(self.decay, str) else float(self.decay)

    def averages(self, call: Call) -> Averages:
        """Return new averages, one per candidate layer."""
        layers, steps = self.candidates(call.model.depth), call.steps or 1
        decay = self.decay_for(steps)
        if decay**steps > STALLED and not isinstance(self.decay, str):
            warnings.warn(
                f"EMAG(decay={decay}) over {steps} steps: after the last one, {decay**steps:.0%} of the average is "
                "still the first step's; published are 71% (SD3, 28 steps) and 5% (DiT-XL/2, 250 "
                f"steps), here decay={PUBLISHED_DECAY ** (SD3_STEPS / steps):.3f} and decay='auto'",
                stacklevel=2,
            )
        if self.variant != "query":
            check_maps_fit(call, len(layers))
        sites, kind = self.sites(call.model), VARIANTS[self.variant]
        return {layer: kind(sites[layer], decay, self.strength) for layer in layers}

    def state(self, call: Call) -> tuple[Averages, HeadSelection | None]:
        """Return the averages of this run, and the selection of the heads of `extent`, None for all heads."""
        layers = self.candidates(call.model.depth)
        return call.cached(self, lambda: (self.averages(call), self.head_selection(call, layers)))

    def plan(self, call: Call) -> AttentionPlan:
        averages, heads = self.state(call)
        for average in averages.values():
            average.begin_step()
        plan = AttentionPlan(observers={average.site: (average,) for average in averages.values()})
        if heads is not None:
            plan |= AttentionPlan(observers=heads.observers())
        if not in_window(call.step, call.steps, self.start, self.stop) or scale_of(self, call, 0) == 1:
            return plan
        return plan | AttentionPlan(rerun_from=frozenset(a.site.execution_index for a in averages.values()))

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        if not in_window(call.step, call.steps, self.start, self.stop) or (scale := scale_of(self, call, 0)) == 1:
            return None
        averages, heads = self.state(call)
        layers, gradients = self.choose(averages, heads, call.model.parallel)
        perturbed = self.perturbed_prediction(
            call, rerun, layers, lambda layer: averages[layer].perturbation(), heads, gradients
        )
        return Correction(
            emag_correction(prediction, perturbed, scale), before_cfg=self.before_cfg, rescale=self.rescale
        )

    def choose(
        self, averages: Averages, heads: HeadSelection | None, parallel: ContextParallel
    ) -> tuple[tuple[int, ...], dict[int, float]]:
        """Return the layers to perturb, and D of each candidate."""
        layers = tuple(averages) if heads is None else heads.layers()
        by_layer = [averages[layer].gradients[self.select == "previous"] for layer in layers]
        gradients = [gradient for gradient in by_layer if gradient is not None]
        if len(gradients) < len(by_layer):
            raise RuntimeError(
                "EMAG observed no attention in this step: a cache skipped the blocks; switch the cache off"
            )
        if heads is not None:
            gradients = [gradient[heads.chosen(layer)] for layer, gradient in zip(layers, gradients, strict=True)]
        means = torch.stack([gradient.mean() for gradient in gradients])
        values = parallel.mean(means, averages[layers[0]].tokens).tolist()  # so that all ranks choose the same layer
        by_value = dict(zip(layers, values, strict=True))
        if isinstance(self.select, tuple):
            return layers, by_value
        return (max(by_value, key=by_value.__getitem__),), by_value


def default_layers(depth: int) -> tuple[int, ...]:
    """Return the layers from 25% to 35% of the depth, as for SD3 (6 to 8 of 24), at least three if possible."""
    first = round(0.25 * depth)
    last = min(max(round(0.35 * depth), first + 2), depth - 1)
    return tuple(range(max(min(first, last - 2), 0), last + 1))
