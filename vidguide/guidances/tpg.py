"""Token Perturbation Guidance: away from the model with shuffled video tokens."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.head_selection import HeadSelection
from vidguide.edits.shuffled_tokens import ShuffledTokens
from vidguide.functional.seeds import generator_at
from vidguide.functional.shuffle import random_order
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.guidances.schedule import Schedule
from vidguide.validation import Range

PUBLISHED = (6 / 70, 24 / 70)  # of SDXL's blocks in the order in which they run: the authors' d6 to d23


@dataclass(frozen=True, kw_only=True, eq=False)
class TPG(LayerPerturbation):
    """Token Perturbation Guidance (Rajabi et al., arXiv 2506.10036): `c + scale (c - c_p)`.

    The perturbed pass shuffles the video's tokens before each chosen block; the order of text is unchanged. Each block
    has a different random order at each step, the same for all clips. With classifier-free guidance, `u + w (c - u) +
    scale (c - c_p)`, as in the authors' pipeline (github TaatiTeam/Token-Perturbation-Guidance).

    What differs from that: it perturbs a U-Net, whose skip connections carry the unshuffled tokens x around each
    transformer, so that it never restores the order. A video transformer has no such connection, and its prediction
    would be the video's noise in another order. So a block's update f is computed from shuffled tokens, and is added to
    the unshuffled tokens: `x + f(P x)`.

    Attributes:
        scale: 0 is off; a number, a list per step, or a callable of the progress. Published: 3.
        seed: of the orders.
        layers: shuffled blocks; None for the share of the depth that the authors' layers have in SDXL, 9% to 34%.
        start, stop: window in fractions of the steps.
        extent: "temporal" moves whole frames, "spatial" moves tokens within their frame, in every frame alike; in the
            temporal or spatial blocks, where space and time have separate ones. None moves all.
        every: k; a perturbed pass at every k-th guided step, see `SelfGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import TPG
        >>> TPG(scale=1.0, extent="temporal").extent  # whole frames
        'temporal'
        >>> TPG(scale=0).neutral
        True
    """

    scale: Annotated[Schedule, Range(0)] = 3.0
    seed: Annotated[int, Range()] = 0

    @property
    def needs_steps(self) -> bool:
        return not self.neutral

    def chosen_layers(self, model: GuidedModel) -> tuple[int, ...]:
        if self.layers is not None:
            return self.layers
        first, stop = (round(share * model.depth) for share in PUBLISHED)
        return tuple(range(first, max(stop, first + 1)))

    def selected_heads(self, call: Call) -> HeadSelection | None:
        return None  # whole tokens are moved

    def perturbed(self, call: Call, rerun: Rerun) -> Tensor:
        generator, layers, sites = generator_at(self.seed, call.step), self.layers_at(call), self.sites(call.model)
        inputs = {}
        for layer in layers:
            site = sites[layer]
            order = random_order(site.grid_of(call.grid), self.extent, generator)
            inputs[site.execution_index] = ShuffledTokens(order.to(call.device), call.model.parallel)
        return rerun(AttentionPlan(block_inputs=inputs), layers)
