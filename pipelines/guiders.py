"""Guidances as a guider of diffusers, for modular pipelines: `pipe.update_components(guider=VideoGuidance([NAG()]))`.

A modular pipeline calls its guider with each step, and before and after each call of the transformer, but not after an
error. So the transformer is guided for one call at a time, and the call itself ends the guidance, even by an error.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import BaseGuidance

from vidguide.guidances.base import Guidance
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.second_pass import SelfGuidance
from vidguide.guiding.forward import GuidedForward
from vidguide.guiding.guide import FORWARD, check_guidances, guided_class
from vidguide.guiding.ownership import Ownership, claimed, wait_for_calls
from vidguide.guiding.step_counter import StepCounter
from vidguide.pipelines.request.guidance_spec import from_json
from vidguide.restoration import holding
from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import swapped_class
from vidguide.transformer.family import Inputs, family_of


class OneCall:
    """Guided forward pass of one call, after which the transformer is restored.

    Args:
        branch: of the call, "cond" or "uncond".
    """

    def __init__(self, guided: GuidedForward, branch: str, restore: Callable[[], None]) -> None:
        self.guided, self.contexts, self.branch, self.restore = guided, guided.contexts, branch, restore
        self.ownership = guided.ownership

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with holding(self.ownership.lock):
            if not self.ownership.owns():
                return self.guided(call, args, kwargs)  # which does not guide it
            try:
                self.guided.branches.given = self.branch
                return self.guided(call, args, kwargs)
            finally:
                self.restore()


class VideoGuidance(ClassifierFreeGuidance):
    """Any guidances of vidguide on the conditional call, and classifier-free guidance of diffusers.

    Its configuration is plain values: `save_pretrained` and `from_pretrained` of the guider keep it. Modular pipelines
    of diffusers 0.42 save no guider, whatever its kind: give it again after loading one.

    Args:
        guidances: each kind once. Those with a negative prompt take the pipeline's, which it encodes itself.
        guidance_scale: scale of classifier-free guidance; 1 switches it off, so that a step takes one call.
        enabled: False switches the guider off.

    Raises:
        TypeError, ValueError: not guidances, texts of their own, which a guider cannot encode, or combinations that are
            refused by `guide` too.
    """

    def __init__(
        self,
        guidances: Sequence[Guidance | Mapping[str, Any]] = (),
        guidance_scale: float = 1.0,
        enabled: bool = True,
    ) -> None:
        BaseGuidance.__init__(self, enabled=enabled)
        self.guidances = tuple(from_json(one) if isinstance(one, Mapping) else one for one in guidances)
        check_guidances(self.guidances)
        check_in_guider(self.guidances, guidance_scale)
        described = json.loads(json.dumps([guidance.describe() for guidance in self.guidances]))
        self.register_to_config(guidances=described, guidance_scale=guidance_scale, enabled=enabled)
        self._cfg = ClassifierFreeGuidance(guidance_scale=guidance_scale)
        self._guided: GuidedForward | None = None
        self._uncond: Inputs = {}  # text inputs of the unconditional branch
        self._interception = ExitStack()

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self._cfg.set_state(step, num_inference_steps, timestep)

    def prepare_inputs(self, data: Any) -> Any:
        check_fields(data)
        self._uncond = {name: value[1] for name, value in data.items() if isinstance(value, tuple)}
        return self._cfg.prepare_inputs(data)

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> Any:
        check_fields(input_fields)
        pairs = {name: fields[1] for name, fields in input_fields.items() if isinstance(fields, tuple)}
        self._uncond = {name: getattr(data, field, None) for name, field in pairs.items()}
        return self._cfg.prepare_inputs_from_block_state(data, input_fields)

    def prepare_models(self, denoiser: Any) -> None:
        super().prepare_models(denoiser)
        self._interception.close()
        if not self._enabled:
            return
        ownership = Ownership() if self._guided is None else self._guided.ownership
        with ExitStack() as stack:
            stack.enter_context(claimed([denoiser], ownership))
            guided = self._forward_of(denoiser, ownership)
            guided.run.step = self._step
            call = OneCall(guided, "cond" if self.is_conditional else "uncond", self._restore)
            stack.enter_context(guided.intercepted())
            stack.enter_context(swapped_class(denoiser, guided_class, FORWARD, call))
            stack.enter_context(ownership.owning())
            wait_for_calls([denoiser])
            self._interception = stack.pop_all()

    def cleanup_models(self, denoiser: Any) -> None:
        self._restore()
        last = self._step == self._num_inference_steps - 1
        if last and self._count_prepared == self._cfg.num_conditions:
            self._guided = None  # releases the values cached for the run

    def _restore(self) -> None:
        self._interception.close()

    def _forward_of(self, transformer: Any, ownership: Ownership) -> GuidedForward:
        """Return the guided forward of the run, a new one at the first step of this guider in a run."""
        guided = self._guided
        same = guided is not None and guided.model.transformer is transformer
        if guided is not None and same and (guided.run.step < self._step or not self.is_conditional):
            return guided
        text = family_of(getattr(transformer, "_orig_mod", transformer)).text_inputs
        negative = {name: value for name, value in self._uncond.items() if name in text and value is not None}
        steps = StepCounter(Run())
        steps.run.begin(self._num_inference_steps)
        guidances = [with_negative(guidance, negative) for guidance in self.guidances]
        self._guided = GuidedForward(transformer, guidances, steps, ownership)
        self._guided.check()
        return self._guided

    def __call__(self, data: list[Any]) -> Any:
        return self._cfg(data)

    @property
    def is_conditional(self) -> bool:
        return bool(self._count_prepared == 1)

    @property
    def num_conditions(self) -> int:
        """Two where a guidance takes the negative prompt, so that the pipeline encodes it even for one call a step."""
        reads = self._enabled and any(guidance.reads_negative for guidance in self.guidances)
        return 2 if reads else int(self._cfg.num_conditions)


def with_negative(guidance: Guidance, negative: Inputs) -> Guidance:
    """Return a guidance with the encoded negative prompt of the pipeline, if it takes one."""
    if not guidance.reads_negative:
        return guidance
    taken: Any = guidance
    return dataclasses.replace(taken, negative_prompt_embeds=negative or None)


def check_in_guider(guidances: Sequence[Any], guidance_scale: float) -> None:
    """Refuse guidances that do not work in a guider.

    Raises:
        ValueError: naming the guidance and the cure.
    """
    for guidance in guidances:
        name = type(guidance).__name__
        if getattr(guidance, "negative_prompt", None) is not None:
            what = f"{name}(negative_prompt={guidance.negative_prompt!r}) in a guider"
            raise ValueError(f"{what}: leave it out, and pass negative_prompt to the pipeline")
        if guidance_scale != 1 and isinstance(guidance, CFG):
            raise ValueError(f"{name} and guidance_scale={guidance_scale}: both combine two predictions; keep one")
        outside = isinstance(guidance, SelfGuidance) and not guidance.before_cfg
        if guidance_scale != 1 and outside and guidance.rescale > 0:
            what = f"{name}(rescale={guidance.rescale}) and guidance_scale={guidance_scale}"
            raise ValueError(f"{what}: the guider combines after it; add CFG(scale={guidance_scale}) to the guidances")


def check_fields(fields: Mapping[str, Any]) -> None:
    """Refuse a pipeline with other passes than a conditional and an unconditional one.

    Args:
        fields: of the guider's input, by argument of the transformer; a tuple has one for each pass.

    Raises:
        ValueError: with the cure.
    """
    passes = max((len(value) for value in fields.values() if isinstance(value, tuple)), default=2)
    if passes != 2:
        raise ValueError(
            f"VideoGuidance: this pipeline has inputs for {passes} passes, and takes no guider but its own "
            "(LTX2Guidance); use guide(pipe, ...) or attach(pipe, ...) in place of a guider"
        )
