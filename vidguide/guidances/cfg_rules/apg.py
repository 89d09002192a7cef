"""APG: classifier-free guidance with the update clipped and its component along the prediction reduced."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from vidguide.calls.call import Call
from vidguide.functional.cfg import apg, apg_radius, apg_update
from vidguide.functional.upcast import upcast
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.transformer.prediction_space import X0Conversion, noisy_sample, x0_conversion
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class APG(CFG):
    """Adaptive Projected Guidance (Sadat et al., arXiv 2410.02416): `c + (scale - 1) * update`.

    The update is the difference `c - u`, averaged over the steps, clipped in norm, and with its component parallel to
    `c` reduced. It is computed on x0, as in the paper and in EMAG's reference code, where the scheduler determines x0
    (:func:`vidguide.transformer.prediction_space.x0_conversion`): flow matching, noise and v-prediction. Elsewhere (an
    unknown scheduler or none, timesteps per token, a learned variance) it is computed on the predictions themselves.
    diffusers' guider always does the latter, and by default starts from the unconditional prediction, so that
    `scale=1` does not return the conditional one.

    Attributes:
        scale: guidance scale; 1 is off. A number, a list per step, or a callable of the progress, as in :class:`CFG`.
        eta: share of the update parallel to the conditional prediction, 0 to 1; 1 keeps all of it. Published: 0.
        radius: largest L2 norm of the update of 4 x 128 x 128 values, those of the paper's SDXL latents; other sizes
            scale it by the square root of the number of values. 0 for no limit. Published: 15.
        momentum: beta of the running average over the guided steps, -1 to 1; 0 for none. Published: -0.5. Transformers
            that take turns in a run (Wan 2.2) share the average.
        rescale, negative_prompt, negative_prompt_embeds, every, start, stop: as in :class:`CFG`.

    Examples:
        >>> from vidguide import APG
        >>> APG(scale=8.0).eta  # the part of the update that is parallel to the prediction is left out
        0.0
        >>> APG(scale=1).neutral
        True
    """

    eta: Annotated[float, Range(0, 1)] = 0.0
    radius: Annotated[float, Range(0)] = 15.0
    momentum: Annotated[float, Range(-1, 1)] = 0.0

    @property
    def needs_steps(self) -> bool:
        return super().needs_steps or (self.momentum != 0 and not self.neutral)

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        average, conversion = call.cached(self, RunningAverage, shared=True), x0_conversion_of(call, cond)
        radius, scale = apg_radius(self.radius, cond[0].numel()), self.scale_of(call)
        previous = average.latest("prediction" if conversion is None else "x0")
        if conversion is None:
            guided, value = apg(cond, uncond, scale, self.eta, radius, previous, self.momentum)
            average.value = value.detach()
            return guided
        # Only differences are converted, by the factor alone: near sigma 0, x0 does not determine the prediction.
        prediction, x0 = upcast(cond), conversion.to_x0(cond)
        difference = conversion.factor * (prediction - upcast(uncond))
        update, value = apg_update(difference, x0, self.eta, radius, previous, self.momentum)
        average.value = value.detach()
        return (prediction + (scale - 1) * update / conversion.factor).to(cond.dtype)


class RunningAverage:
    """APG's running average over the steps of a run, which begins anew where the space changes.

    Attributes:
        value: `(B, ...)` of the latest step, None before the first; a constant of the next step's gradient.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self.space = ""

    def latest(self, space: str) -> Tensor | None:
        """Return the latest value if it is of this space, "x0" or "prediction"."""
        value = self.value if self.space == space else None
        self.space = space
        return value


def x0_conversion_of(call: Call, prediction: Tensor) -> X0Conversion | None:
    """Return the conversion for a call, None where its input or the scheduler does not determine it."""
    sample = noisy_sample(call.inputs["hidden_states"], call.model.family.layout, prediction)
    if sample is None:
        return None
    return x0_conversion(call.scheduler, sample, call.inputs.get("timestep"))
