"""NAG and EMAG as guiders of diffusers, for modular pipelines: `pipe.update_components(guider=NAGGuidance())`.

A guider is told the step, and stands before and after each call of the transformer; it is not told of errors. So the
transformer is guided for one call at a time, which itself ends the guiding however it ends.
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
from vidguide.tracing.run import Run
from vidguide.transformer.class_swap import swapped_class
from vidguide.transformer.family import Inputs, family_of


class OneCall:
    """Stands around one call of a transformer, which afterwards is of its own class again."""

    def __init__(self, calls: GuidedForward, leave: Callable[[], None]) -> None:
        self.calls, self.contexts, self.leave = calls, calls.contexts, leave

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self.calls(call, args, kwargs)
        finally:
            self.leave()


class Guider(ClassifierFreeGuidance):
    """Lets a guidance act on the conditional call; classifier-free guidance, on top of it, is diffusers' own."""

    def _set_up(self, guidance_scale: float, enabled: bool) -> None:
        BaseGuidance.__init__(self, enabled=enabled)
        self._cfg = ClassifierFreeGuidance(guidance_scale=guidance_scale)
        self._guided: GuidedForward | None = None
        self._uncond: Inputs = {}  # the text inputs of the unconditional branch
        self._within = ExitStack()
        self._guidance({})  # refuses bad parameters here and now

    def _guidance(self, uncond: Inputs) -> Guidance:
        """The guidance that acts, given the text inputs of the unconditional branch."""
        raise NotImplementedError  # NAG here, EMAG there

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
        self._within.close()
        if self._enabled and self.is_conditional:
            guided = self._calls_of(denoiser)
            guided.run.step = self._step
            call = OneCall(guided, self._within.close)
            self._within.enter_context(guided.intercepted())
            self._within.enter_context(swapped_class(denoiser, guided_class, FORWARD, call))

    def cleanup_models(self, denoiser: Any) -> None:
        self._within.close()
        if self._step == self._num_inference_steps - 1:
            self._guided = None  # and what was kept for the run

    def _calls_of(self, transformer: Any) -> GuidedForward:
        """The run's own, or at the first step that this guider sees of a run, a new one."""
        if self._guided is not None:
            same = self._guided.model.transformer is transformer
            if same and self._guided.run.step < self._step:
                return self._guided
        text = family_of(getattr(transformer, "_orig_mod", transformer)).text_inputs
        given = {name: value for name, value in self._uncond.items() if name in text and value is not None}
        run = Run()
        run.begin(self._num_inference_steps)
        self._guided = GuidedForward(transformer, None, None, (self._guidance(given),), run)
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
    """NAG with the pipeline's own `negative_prompt`, in attention, and where `guidance_scale` is above 1 also in
    classifier-free guidance.

    Args:
        scale, tau, alpha, start, stop, layers: of :class:`vidguide.NAG`.
        guidance_scale: of classifier-free guidance; 1 is off, so that a step takes one call.
        enabled: whether anything is done at all.
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
        self._set_up(guidance_scale, enabled)

    def _guidance(self, uncond: Inputs) -> Guidance:
        return NAG(negative_prompt_embeds=uncond or None, **self._nag)

    @property
    def num_conditions(self) -> int:
        """Two, so that the pipeline encodes the negative prompt also where it is called for one prediction only."""
        return 2 if self._enabled else 1


class EMAGGuidance(Guider):
    """EMAG beside classifier-free guidance.

    Args:
        scale, decay, layers, select, variant, start, stop: of :class:`vidguide.EMAG`.
        guidance_scale: of classifier-free guidance; 1 is off.
        enabled: whether anything is done at all.
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
        self._set_up(guidance_scale, enabled)

    def _guidance(self, uncond: Inputs) -> Guidance:
        return EMAG(**self._emag)
