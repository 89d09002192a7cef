"""Perturbed-Attention Guidance: away from the model with identity attention maps."""

from dataclasses import dataclass
from typing import Annotated

from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call
from vidguide.edits.identity_attention import IdentityAttention
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.guidances.schedule import Schedule
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class PAG(LayerPerturbation):
    """Perturbed-Attention Guidance (Ahn et al., arXiv 2403.17377): `c + scale (c - c_p)`.

    The perturbed pass has the identity in place of self-attention maps; in joint attention, of the video's rows.

    Attributes:
        scale: 0 is off; a number, a list per step, or a callable of the progress. Published: 3.
        layers: perturbed blocks; None for the middle one.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those heads or modules only; see `SelfGuidance`.
        every: k; a perturbed pass at every k-th guided step, see `SelfGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import PAG
        >>> PAG(scale=0.25, stop=0.5).neutral  # in the first half of the run
        False
        >>> PAG(scale=0).neutral
        True
    """

    scale: Annotated[Schedule, Range(0)] = 3.0

    def perturbation(self, call: Call, site: AttentionSite) -> Perturbation:
        return IdentityAttention(site)
