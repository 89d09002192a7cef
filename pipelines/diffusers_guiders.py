"""NAG and EMAG as guiders of diffusers, for modular pipelines: `pipe.update_components(guider=NAGGuidance())`.

A modular pipeline calls its guider with each step, and before and after each call of the transformer, but not after an
error. So the transformer is guided for one call at a time, and the call itself ends the guidance, even by an error.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import BaseGuidance

from vidguide.guidances.base import Guidance
from vidguide.guidances.emag import EMAG, PUBLISHED_DECAY
from vidguide.guidances.nag import NAG
from vidguide.guiding.forward import GuidedForward
from vidguide.guiding.guide import FORWARD, guided_class
from vidguide.guiding.step_counter import StepCounter
from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import swapped_class
from vidguide.transformer.family import Inputs, family_of


class OneCall:
    """Guided forward pass of one call, after which the transformer is restored."""

    def __init__(self, guided: GuidedForward, restore: Callable[[], None]) -> None:
        self.guided, self.contexts, self.restore = guided, guided.contexts, restore

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self.guided(call, args, kwargs)
        finally:
            self.restore()


class Guider(ClassifierFreeGuidance):
    """Base class of guiders: a guidance on the conditional call, and classifier-free guidance of diffusers."""

    def _initialise(self, guidance_scale: float, enabled: bool) -> None:
        BaseGuidance.__init__(self, enabled=enabled)
        self._cfg = ClassifierFreeGuidance(guidance_scale=guidance_scale)
        self._guided: GuidedForward | None = None
        self._uncond: Inputs = {}  # text inputs of the unconditional branch
        self._interception = ExitStack()
        self._guidance({})  # raises on bad parameters

    def _guidance(self, uncond: Inputs) -> Guidance:
        """Return the guidance to apply, for the text inputs of the unconditional branch."""
        raise NotImplementedError

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self._cfg.set_state(step, num_inference_steps, timestep)

    def prepare_inputs(self, data: Any) -> Any:
        self._uncond = {name: value[1] for name, value in data.items() if isinstance(value, tuple)}
        return self._cfg.prepare_inputs(data)

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> Any:
        pairs = {name: fields[1] for name, fields in input_fields.items() if isinstance(fields, tuple)}
        self._uncond = {name: getattr(data, field, None) for name, field in pairs.items()}
        return self._cfg.prepare_inputs_from_block_state(data, input_fields)

    def prepare_models(self, denoiser: Any) -> None:
        super().prepare_models(denoiser)
        self._interception.close()
        if self._enabled and self.is_conditional:
            guided = self._forward_of(denoiser)
            guided.run.step = self._step
            call = OneCall(guided, self._interception.close)
            self._interception.enter_context(guided.intercepted())
            self._interception.enter_context(swapped_class(denoiser, guided_class, FORWARD, call))

    def cleanup_models(self, denoiser: Any) -> None:
        self._interception.close()
        if self._step == self._num_inference_steps - 1:
            self._guided = None  # releases the values cached for the run

    def _forward_of(self, transformer: Any) -> GuidedForward:
        """Return the guided forward of the run, a new one at the first step of this guider in a run."""
        if self._guided is not None:
            same = self._guided.model.transformer is transformer
            if same and self._guided.run.step < self._step:
                return self._guided
        text = family_of(getattr(transformer, "_orig_mod", transformer)).text_inputs
        negative = {name: value for name, value in self._uncond.items() if name in text and value is not None}
        steps = StepCounter(Run())
        steps.run.begin(self._num_inference_steps)
        self._guided = GuidedForward(transformer, (self._guidance(negative),), steps)
        self._guided.check()
        return self._guided

    def __call__(self, data: list[Any]) -> Any:
        return self._cfg(data)

    @property
    def is_conditional(self) -> bool:
        return bool(self._count_prepared == 1)

    @property
    def num_conditions(self) -> int:
        return int(self._cfg.num_conditions)


class NAGGuidance(Guider):
    """NAG with the pipeline's `negative_prompt`, which also serves classifier-free guidance if `guidance_scale` > 1.

    Args:
        scale, tau, alpha, start, stop, layers: as for :class:`vidguide.NAG`.
        guidance_scale: scale of classifier-free guidance; 1 switches it off, so that a step takes one call.
        enabled: False switches the guider off.
    """

    @register_to_config
    def __init__(
        self,
        scale: float = 11.0,
        tau: float = 2.5,
        alpha: float = 0.25,
        start: float = 0.0,
        stop: float = 1.0,
        layers: tuple[int, ...] | None = None,
        guidance_scale: float = 1.0,
        enabled: bool = True,
    ) -> None:
        self._nag: dict[str, Any] = dict(scale=scale, tau=tau, alpha=alpha, start=start, stop=stop, layers=layers)
        self._initialise(guidance_scale, enabled)

    def _guidance(self, uncond: Inputs) -> Guidance:
        return NAG(negative_prompt_embeds=uncond or None, **self._nag)

    @property
    def num_conditions(self) -> int:
        """Two, so that the pipeline encodes the negative prompt even if a step takes one call."""
        return 2 if self._enabled else 1


class EMAGGuidance(Guider):
    """EMAG together with classifier-free guidance.

    Args:
        scale, decay, layers, select, variant, start, stop: as for :class:`vidguide.EMAG`.
        guidance_scale: scale of classifier-free guidance; 1 switches it off.
        enabled: False switches the guider off.
    """

    @register_to_config
    def __init__(
        self,
        scale: float = 1.5,
        decay: float | str = PUBLISHED_DECAY,
        layers: tuple[int, ...] | None = None,
        select: str | tuple[int, ...] = "largest",
        variant: str = "query",
        start: float = 0.2,
        stop: float = 0.8,
        guidance_scale: float = 5.0,
        enabled: bool = True,
    ) -> None:
        self._emag: dict[str, Any] = dict(scale=scale, decay=decay, layers=layers, select=select, variant=variant)
        self._emag |= dict(start=start, stop=stop)
        self._initialise(guidance_scale, enabled)

    def _guidance(self, uncond: Inputs) -> Guidance:
        return EMAG(**self._emag)
