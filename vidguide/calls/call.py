"""One conditional call of a guided transformer, as a value: its inputs, and the passes that a guidance may run."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite
from vidguide.calls.guided_model import GuidedModel
from vidguide.calls.run_cache import RunCache
from vidguide.functional.cfg import rescale_std
from vidguide.tracing.run import SampleChoice
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.family import Inputs
from vidguide.transformer.lists import tensors_in
from vidguide.transformer.model_state import computation_state, input_state, loras_of
from vidguide.transformer.negative_text import repeat_rows, text_shape
from vidguide.transformer.token_grid import grid

AUDIO, VIDEO = 1, 2  # of `Call.media`
STEP_INPUTS = ("hidden_states", "timestep")  # that each step of a run changes

Cached = TypeVar("Cached")
Recorded = dict[AttentionSite, tuple[Tensor, Tensor, Tensor | None]]  # key, value and mask of a kernel call, by site


class AuxiliaryForward(Protocol):
    """Runs an eager forward pass, only to record activations under a plan."""

    def __call__(self, plan: AttentionPlan, inputs: Inputs) -> Recorded: ...


class NegativeText(Protocol):
    """Encodes a negative as the pipeline encodes its prompt; returns its text inputs by name.

    Args:
        prompt, embeds: of a guidance; both None for the negative prompt of the pipeline's call, or the empty text.
    """

    def __call__(self, prompt: str | list[str] | None, embeds: Tensor | Mapping[str, Tensor] | None) -> Inputs: ...


class Rerun(Protocol):
    """Runs the conditional call once more, a plan on top of the call's edits; returns its prediction.

    Args:
        layers, samples: which layers the plan perturbs, and the choice for each sample, for the trace.
    """

    def __call__(
        self, plan: AttentionPlan, layers: Sequence[int] = (), samples: Sequence[SampleChoice] = ()
    ) -> Tensor: ...


class Unconditional(Protocol):
    """Runs the call without any plan and with another text; returns all predictions, the video's first."""

    def __call__(self, text: Inputs) -> list[Any]: ...


@dataclass(frozen=True, eq=False)
class Call:
    """One conditional call of a guided transformer.

    Attributes:
        model: the transformer's family and attention sites.
        inputs: arguments of the call, by name.
        batch: which rows are conditional. conditional_rows: their number.
        step, steps: index of the step from 0, and the number of steps; None for a bare transformer without scheduler.
        pipeline_guides: whether the pipeline applies classifier-free guidance.
        scheduler: the pipeline's, or the one given for a bare transformer; None without.
        encode_negative: encodes a negative prompt; results are cached for the length of `guide`, or of an attachment.
        auxiliary_forward: runs a pass that records activations; not to be called while a plan is installed.
        cache, run: cache of the run, and the run's number.
        shared_cache: the same for all transformers that take turns in a run.
    """

    model: GuidedModel
    inputs: Inputs
    batch: Batch
    conditional_rows: int
    step: int
    steps: int | None
    pipeline_guides: bool
    scheduler: Any
    encode_negative: NegativeText
    auxiliary_forward: AuxiliaryForward
    cache: RunCache
    shared_cache: RunCache
    run: int

    @property
    def progress(self) -> float:
        """Completed fraction of the run, 0 to 1; 0 where the number of steps is unknown."""
        return self.step / self.steps if self.steps else 0.0

    @property
    def device(self) -> torch.device:
        """Device of the video."""
        device: torch.device = self.inputs["hidden_states"].device
        return device

    @functools.cached_property
    def grid(self) -> tuple[int, int, int]:
        """The video's token grid (F, H, W)."""
        return grid(self.model.family, self.model.original, self.inputs)

    @functools.cached_property
    def media(self) -> tuple[int, int, int] | None:
        """Lengths of conditions, audio and video in a packed sequence; None where the tokens are not packed."""
        joint = self.model.family.joint
        return None if joint is None or joint.packed is None else joint.packed.media(self.inputs)

    def generated(self, prediction: Tensor, medium: int = VIDEO) -> Tensor:
        """Return the generated part of a prediction: without the conditions, the first rows of a packed one."""
        return prediction if self.media is None else prediction[:, prediction.shape[1] - self.media[medium] :]

    def with_generated(self, prediction: Tensor, generated: Tensor, medium: int = VIDEO) -> Tensor:
        """Return a prediction with another generated part."""
        if self.media is None:
            return generated
        return torch.cat([prediction[:, : prediction.shape[1] - self.media[medium]], generated], 1)

    def rescale(self, guided: Tensor, cond: Tensor, share: float, medium: int = VIDEO) -> Tensor:
        """Rescale the generated part of a prediction: :func:`vidguide.functional.cfg.rescale_std`."""
        if share == 0:
            return guided
        part = rescale_std(self.generated(guided, medium), self.generated(cond, medium), share)
        return self.with_generated(guided, part, medium)

    def repeat(self, text: Inputs) -> Inputs:
        """Repeat a text's inputs for every conditional row."""
        return {name: repeat_rows(value, self.conditional_rows) for name, value in text.items()}

    def cached(self, owner: object, factory: Callable[[], Cached], shared: bool = False, extra: Any = None) -> Cached:
        """Cache the factory's result for the run; call it again when a shape, or the prompt's dtype or device, changes.

        Args:
            shared: whether transformers that take turns in a run have one value, rather than one each.
            extra: what else the result is valid for.
        """
        # Not every dtype: HunyuanVideo's pipeline passes its first timestep in another dtype than the others.
        shapes = [tuple(value.shape) for value in self.inputs.values() if isinstance(value, Tensor)]
        cache = self.shared_cache if shared else self.cache
        return cache.get(owner, (self.run, shapes, text_shape(self.model.family, self.inputs), extra), factory)

    def cached_plan(
        self,
        owner: object,
        factory: Callable[[], AttentionPlan],
        embeds: Tensor | Mapping[str, Tensor] | None = None,
        of_prompt: bool = False,
    ) -> AttentionPlan:
        """Cache a plan with a text's keys and values for the run; where these depend on the step, for the step,
        and while the model's LoRAs are as they were.

        A plan with a graph is made again for each call: backward frees the graph, and an optimizer changes the weights.

        Args:
            embeds: the text's embeddings, where they are all that it depends on. Calls of a bare transformer without a
                scheduler, of which each is a run, then share a plan while all that it is made from is unchanged.
            of_prompt: whether the plan depends on the prompt too, which may change within a run.
        """
        varies, with_gradients = self.model.family.text_varies(self.model.original.config), torch.is_grad_enabled()
        alone = self.scheduler is None and self.steps is None
        if embeds is not None and alone and not (varies or with_gradients) and self._counts_changes(embeds):
            return self._plan_across_runs(owner, factory, embeds)
        step = self.step if varies else None
        texts = {name: self.inputs.get(name) for name in self.model.family.text_inputs} if of_prompt else None
        plan = self.cached(owner, factory, extra=(step, self._lora(), with_gradients, input_state(texts)))
        if with_gradients and plan.requires_grad:
            self.cache.discard(owner)
        return plan

    def _counts_changes(self, embeds: Any) -> bool:
        """Return whether torch counts changes of embeddings and inputs in place, unlike those of inference mode."""
        inputs = {name: value for name, value in self.inputs.items() if name not in STEP_INPUTS}
        return not any(tensor.is_inference() for tensor in tensors_in((embeds, inputs)))

    def _plan_across_runs(
        self, owner: object, factory: Callable[[], AttentionPlan], embeds: Tensor | Mapping[str, Tensor]
    ) -> AttentionPlan:
        """Return the plan of an earlier call with the same embeddings, weights, and arguments but the noisy video and
        its timestep, on which a text does not depend; the plan then has a note of that."""
        made: list[AttentionPlan] = []

        def make() -> AttentionPlan:
            made.append(factory())
            return made[0]

        inputs = {name: value for name, value in self.inputs.items() if name not in STEP_INPUTS}
        shape = tuple(self.inputs["hidden_states"].shape), torch.is_inference_mode_enabled()
        processors = [site.attention.processor for site in self.model.text_sites.values()]
        key = computation_state(self.model.original, (inputs, embeds, shape, processors))
        plan = self.cache.get(owner, key, make)
        note = f"{type(owner).__name__}: the negative's keys of an earlier call"
        return plan if made else dataclasses.replace(plan, notes=(*plan.notes, note))

    def _lora(self) -> tuple[Any, ...]:
        """Return the state of the transformer's LoRAs, and the call's own factor of their strength."""
        arguments = self.inputs.get("attention_kwargs")
        scale = arguments.get("scale") if isinstance(arguments, Mapping) else None
        return scale, *loras_of(self.model.original)


@dataclass(frozen=True)
class Correction:
    """What a guidance adds to a prediction.

    Attributes:
        value: of the shape of the conditional prediction.
        before_cfg: whether it is added to the conditional prediction before classifier-free guidance scales that (EMAG,
            eq. 15); otherwise it is added to the guided prediction (STG, PAG, SEG): `u + w (c - u) + value`.
        rescale: how far the sum is rescaled to the standard deviation of the unperturbed conditional prediction, 0 to 1
            (phi of arXiv 2305.08891).
    """

    value: Tensor
    before_cfg: bool = False
    rescale: float = 0.0
