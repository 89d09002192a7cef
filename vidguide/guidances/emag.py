"""Exponential Moving Average Guidance: away from the model whose attention is an average over earlier steps."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call, Correction, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.emag_average import Average, AveragedAttention, AverageQuery
from vidguide.edits.emag_maps import AverageMap, AverageVideoMap, check_maps_fit
from vidguide.edits.head_selection import HeadSelection
from vidguide.functional.emag import emag_correction, mean_of_heads
from vidguide.guidances.schedule import (
    Schedule,
    check_run_scale,
    guided_steps,
    in_window,
    is_constant,
    may_be,
    scale_of,
)
from vidguide.guidances.second_pass import SelfGuidance
from vidguide.tracing.run import SampleChoice
from vidguide.transformer.compile import graph_limit
from vidguide.transformer.context_parallel import ContextParallel
from vidguide.validation import OneOf, Range, check_number

Averages = dict[int, Average]
PUBLISHED_DECAY = 0.988
SD3_STEPS, DIT_STEPS = 28, 250  # of the authors' runs, after which 71% and 5% of the first map are left
GRAPHS = 4  # of a model compiled whole, besides one for each layer that is perturbed: tests/transformer/test_compile.py
SD3_DEPTHS, DIT_DEPTHS = (0.25, 0.35), (0.43, 0.54)  # layers 6 to 8 of 24, and 12 to 15 of 28
SHALLOW = 12  # depth below which all blocks are candidates: three of a few are no middle of the model
STALLED = 0.8  # share of the first step's attention left after the last, above which it warns; published: 0.71, 0.05
SELECTS = ("largest", "previous", "all")
MEASURES = ("absolute", "relative")
VARIANTS: dict[str, type[Average]] = {"query": AverageQuery, "map": AverageMap, "map-video": AverageVideoMap}
PUBLISHED: dict[str, dict[str, Any]] = {  # sources: EMAG.published
    "sd3": dict(scale=1.5, decay=PUBLISHED_DECAY, variant="query", depths=SD3_DEPTHS, start=0.2, stop=0.8),
    "dit": dict(
        scale=3.0, decay=PUBLISHED_DECAY, variant="map", depths=DIT_DEPTHS, average_from=0.4, start=0.6, stop=0.8
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class EMAG(SelfGuidance):
    """Exponential Moving Average Guidance (Yadav, Ta, Liu, arXiv 2512.17303).

    Self-attentions of the candidate layers are averaged over the steps in the unperturbed conditional pass. Within the
    window a second pass replaces the live attention of one layer by the average; the prediction moves away from that
    of the second pass: `c~ + scale (c - c~)` (eq. 14). Blocks before the perturbed layer are not run again.

    The layer is chosen for each sample of a batch, so that a clip does not depend on the others. The defaults are those
    of the authors' text-to-image runs, :meth:`published`, but for shallow models.

    Attributes:
        scale: w_e; 1 is off; a number, a list per step, or a callable of the progress. Published: 1.5 with CFG 7 (SD3,
            28 steps), 3 for class-conditional DiT-XL/2; 5.1 for unconditional generation from an empty prompt, which is
            not a prompted model without CFG.
        decay: beta of the average, 0 to 1, per step. Published: 0.988, in 28 steps of SD3 (71% of the first map is left
            after the last) and in 250 of DiT-XL/2 (5%). "auto" is the decay at which 5% are left after any number of
            steps; of 20, 0.860.
        strength: lambda, share of the average in the perturbed attention, 0 to 1; 0 is off.
        layers: candidate layers; None for those at `depths`.
        depths: the candidates as shares of the depth, the first and the last one, at least three; None for 25% to 35%
            (SD3: 6 to 8 of 24 blocks), and for all blocks of models of fewer than 12 and where select="all". DiT-XL/2:
            43% to 54% (12 to 15 of 28).
        select: "largest" perturbs the layer whose attention is farthest from its average in this step (the paper),
            "previous" in the step before. With queries, "previous" gives the predictions of the authors' code; with
            maps it does not: 14% to 17% of the guidance's effect differ. "all" perturbs all candidates at once, and a
            tuple the layers that it names.
        measure: "absolute" compares D of the layers as it is (the paper), "relative" divides it by the mean magnitude
            of the layer's queries, since those of one layer may be larger than those of another. D of maps, whose rows
            sum to 1, is compared as it is.
        variant: "query" averages the video's queries (EMAG-Q: any length); "map" the attention maps (EMAG), where a
            map of video tokens by all tokens per head and candidate layer fits in memory; "map-video" only the maps'
            part from the video to itself (EMAG-I), which differs where text shares the attention.
        start, stop: window of the second pass, in fractions of the steps; averaging stops with it. Published: 50 to 199
            of 250 steps, 5 to 22 of 28.
        average_from: where averaging begins, in fractions of the steps; at most `start`.
        extent: "spatial" or "temporal" for those heads or modules only; see `SelfGuidance`.
        every: k; a perturbed pass at every k-th guided step, see `SelfGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import EMAG
        >>> EMAG().scale, EMAG().decay
        (1.5, 0.988)
        >>> EMAG(scale=1).neutral  # no extrapolation
        True
    """

    scale: Annotated[Schedule, Range(0)] = 1.5
    decay: Annotated[float | str, Range(0, 1, also=("auto",))] = PUBLISHED_DECAY
    strength: Annotated[float, Range(0, 1)] = 1.0
    depths: tuple[float, float] | None = None
    select: str | tuple[int, ...] = "largest"
    measure: Annotated[str, OneOf(*MEASURES)] = "absolute"
    variant: Annotated[str, OneOf(*VARIANTS)] = "query"
    start: Annotated[float, Range(0, 1)] = 0.2
    stop: Annotated[float, Range(0, 1)] = 0.8
    average_from: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "average_from", 0, self.start)
        self.check_select()
        self.check_depths()

    @classmethod
    def published(cls, name: str, **changes: Any) -> "EMAG":
        """Return EMAG with the settings of one of the authors' runs, for a model of any depth.

        Args:
            name: "sd3": text-to-image, SD3-Medium, 28 steps, CFG 7: EMAG-Q with scale 1.5, decay 0.988, layers 6 to 8
                of 24, steps 5 to 22 (arXiv 2512.17303; github drkkgy/EMAG, `README.md` and `scripts/quickstart.py`).
                "dit": class-conditional, DiT-XL/2, 250 steps, CFG 1.5: maps with scale 3, decay 0.988, layers 12 to 15
                of 28; averaging begins at 40% of the steps and guidance at 60%, and both end at 80% (`dit/README.md`,
                `dit/models.py`). Maps of a long video do not fit in memory: `published("dit", variant="query")`.
            changes: other values of parameters; `layers`, or a tuple as `select`, replaces the published layers.

        Raises:
            TypeError, ValueError: an unknown name, or as the constructor.
        """
        if name not in PUBLISHED:
            raise ValueError(f"EMAG.published({name!r}): must be one of {', '.join(PUBLISHED)}")
        settings = {**PUBLISHED[name], **changes}
        if settings.get("layers") is not None or isinstance(settings.get("select"), tuple):
            settings["depths"] = changes.get("depths")
        return cls(**settings)

    def check_select(self) -> None:
        """Refuse a selection that is none, or names layers that are no candidates.

        Raises:
            ValueError: naming the parameters and what would be right.
        """
        fixed = isinstance(self.select, tuple) and self.select and all(type(layer) is int for layer in self.select)
        if self.select not in SELECTS and not fixed:
            raise ValueError(f"EMAG(select={self.select!r}): must be {', '.join(SELECTS)} or a tuple of layers")
        if fixed and self.layers is not None and not set(self.select) <= set(self.layers):
            raise ValueError(f"EMAG(select={self.select}, layers={self.layers}): select must be among layers")

    def check_depths(self) -> None:
        """Refuse shares of the depth that are none, or come with layers by index.

        Raises:
            ValueError: naming the parameters and what would be right.
        """
        if self.depths is None:
            return
        shares = isinstance(self.depths, tuple) and all(isinstance(share, int | float) for share in self.depths)
        if not shares or len(self.depths) != 2 or not 0 <= self.depths[0] <= self.depths[1] <= 1:
            raise ValueError(f"EMAG(depths={self.depths!r}): must be two numbers, 0 to 1, the lower one first")
        if self.layers is not None or isinstance(self.select, tuple):
            named = f"layers={self.layers}" if self.layers is not None else f"select={self.select}"
            raise ValueError(f"EMAG(depths={self.depths}, {named}): both name the candidates; leave one out")

    @property
    def neutral(self) -> bool:
        return is_constant(self.scale, 1) or self.strength == 0

    @property
    def pauses(self) -> bool:
        return super().pauses or (not self.neutral and may_be(self.scale, 1))

    @property
    def before_cfg(self) -> bool:
        return True

    @property
    def needs_steps(self) -> bool:
        return not self.neutral  # the average is over the steps

    def active(self, step: int, steps: int | None) -> bool:
        """Return whether it averages or guides at a step: averaging begins before the window of the second pass."""
        return not self.neutral and in_window(step, steps, self.average_from, self.stop)

    @property
    def selects(self) -> bool:
        """Whether it selects a layer in each step."""
        return self.select in ("largest", "previous")

    def candidates(self, depth: int) -> tuple[int, ...]:
        """Return the layers whose attention is averaged."""
        if isinstance(self.select, tuple):
            return self.select
        if self.layers is not None:
            return self.layers
        if self.depths is None and (self.select == "all" or depth < SHALLOW):
            return tuple(range(depth))
        return layers_at(self.depths or SD3_DEPTHS, depth)

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
        graphs = GRAPHS + (len(self.candidates(model.depth)) if self.selects else 1)
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
        samples, relative = call.conditional_rows, self.measure == "relative"
        return {layer: kind(sites[layer], decay, self.strength, samples, relative) for layer in layers}

    def state(self, call: Call) -> "RunState":
        """Return the averages and choices of this run."""

        def new() -> RunState:
            averages = self.averages(call)
            return RunState(averages, self.head_selection(call, tuple(averages)), guided_steps(self, call.steps, 1))

        return call.cached(self, new)

    def plan(self, call: Call) -> AttentionPlan:
        state = self.state(call)
        averages, heads = state.averages, state.heads
        for average in averages.values():
            average.begin_step()
        plan = AttentionPlan(observers={average.site: (average,) for average in averages.values()})
        if heads is not None:
            plan |= AttentionPlan(observers=heads.observers())
        guides = in_window(call.step, call.steps, self.start, self.stop) and scale_of(self, call, 0) != 1
        if not guides or not self.interval.is_due(call, state.guided_steps):
            return plan
        rerun_from = frozenset(a.site.execution_index for a in averages.values())
        return plan | AttentionPlan(rerun_from=rerun_from, notes=self.interval_notes)

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        if not in_window(call.step, call.steps, self.start, self.stop) or (scale := scale_of(self, call, 0)) == 1:
            return None
        state = self.state(call)
        perturbed = self.weaker_prediction(call, prediction, state.guided_steps, lambda: self.perturbed(call, rerun))
        value = emag_correction(prediction, perturbed, scale).to(prediction.dtype)
        return Correction(value, before_cfg=self.before_cfg, rescale=self.rescale)

    def perturbed(self, call: Call, rerun: Rerun) -> Tensor:
        """Return the perturbed prediction, after the choice of layers for each sample."""
        state, parallel = self.state(call), call.model.parallel
        averages = state.averages
        choices = [self.choose(gradients) for gradients in self.gradients(state, parallel)]
        self.check_choices(state, choices, call.step)
        layers = self.perturbed_layers(choices, call.model, tuple(averages))
        chosen = {layer: [layer in choice.layers for choice in choices] for layer in layers}

        def perturbation(layer: int) -> AveragedAttention:
            different = self.selects and len(choices) > 1  # whether they may differ: one graph of a compiled model
            return averages[layer].perturbation(torch.tensor(chosen[layer], device=call.device) if different else None)

        return self.perturbed_prediction(call, rerun, layers, perturbation, state.heads, choices)

    def gradients(self, state: "RunState", parallel: ContextParallel) -> list[dict[int, float]]:
        """Return, for each sample, D of the candidate layers that have heads of `extent`.

        Raises:
            RuntimeError: the blocks did not run.
        """
        layers = tuple(state.averages) if state.heads is None else state.heads.layers()
        values, units = [], []
        for layer in layers:
            measured = state.averages[layer].measured(self.select == "previous")
            if measured is None:
                raise RuntimeError(
                    "EMAG observed no attention in this step: a cache skipped the blocks; switch the cache off"
                )
            heads = None if state.heads is None else state.heads.chosen(layer)
            values.append(mean_of_heads(measured[0], heads))
            units.append(torch.ones_like(values[-1]) if measured[1] is None else mean_of_heads(measured[1], heads))
        means = torch.stack([*values, *units])
        tokens = state.averages[layers[0]].tokens
        means = parallel.mean(means.flatten(), tokens).view_as(means)  # so that all ranks choose the same layers
        distances, magnitudes = means.chunk(2)
        by_sample = (distances / magnitudes.clamp_min(torch.finfo(means.dtype).tiny)).T.tolist()
        return [
            {layer: value for layer, value in zip(layers, row, strict=True) if not math.isnan(value)}
            for row in by_sample
        ]

    def choose(self, gradients: dict[int, float]) -> SampleChoice:
        """Return the layers to perturb for a sample, from D of its candidates."""
        layers = (max(gradients, key=gradients.__getitem__),) if self.selects else tuple(gradients)
        return SampleChoice(layers, gradients)

    def perturbed_layers(
        self, choices: Sequence[SampleChoice], model: GuidedModel, candidates: Sequence[int]
    ) -> tuple[int, ...]:
        """Return the layers that a second pass perturbs, for some sample.

        In a model that is compiled whole, all candidates from the first of them on: one graph for each first layer, not
        for each set of layers.
        """
        layers = dict.fromkeys(layer for choice in choices for layer in choice.layers)
        if self.selects and len(choices) > 1 and graph_limit(model.transformer) is not None:
            return tuple(layer for layer in candidates if layer >= min(layers))
        return tuple(layer for layer in candidates if layer in layers)

    def check_choices(self, state: "RunState", choices: Sequence[SampleChoice], step: int) -> None:
        """Record which layers a step chose; after the run's last guided step, warn if they were always one."""
        state.chosen.append({layer for choice in choices for layer in choice.layers})
        layers = set.union(*state.chosen)
        passes = state.guided_steps[:: self.every]
        last = passes[-1:] == [step] and len(state.chosen) == len(passes) > 1
        if self.selects and last and len(layers) == 1 and len(state.averages) > 1:
            (layer,) = layers
            warnings.warn(
                f"EMAG(select={self.select!r}) chose layer {layer} of {tuple(state.averages)} in each of "
                f"{len(state.chosen)} steps: select=({layer},) is cheaper and equal"
                + (", and measure='relative' may choose others" if self.measure == "absolute" else ""),
                stacklevel=2,
            )


@dataclass(eq=False)
class RunState:
    """What EMAG remembers of a run.

    Attributes:
        averages: by candidate layer. heads: selection of the heads of `extent`; None for all heads.
        guided_steps: steps at which it guides. chosen: the layers that the passes so far chose, for any sample.
    """

    averages: Averages
    heads: HeadSelection | None
    guided_steps: list[int]
    chosen: list[set[int]] = field(default_factory=list)


def layers_at(depths: tuple[float, float], depth: int) -> tuple[int, ...]:
    """Return the layers between two shares of the depth, at least three if possible: 6 to 8 of 24 from 25% to 35%."""
    first = round(depths[0] * depth)
    last = min(max(round(depths[1] * depth), first + 2), depth - 1)
    return tuple(range(max(min(first, last - 2), 0), last + 1))
