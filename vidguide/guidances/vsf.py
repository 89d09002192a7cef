"""Value Sign Flip: a negative prompt whose values count against what attention adds."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vidguide.attention.site import AttentionSite, Edit
from vidguide.calls.call import Call
from vidguide.edits.vsf_attention import CrossAttentionVSF, JointAttentionVSF, SplitAttentionVSF
from vidguide.guidances.negative_prompt import Negative, NegativePromptGuidance
from vidguide.transformer.text_stream import TextStream
from vidguide.validation import check_number


@dataclass(frozen=True, kw_only=True, eq=False)
class VSF(NegativePromptGuidance):
    """Value Sign Flip (Guo and Du 2025, arXiv 2508.10931): `softmax(q [k+, k-] + [0, -offset]) [v+, -scale v-]`.

    One attention over the prompt's and the negative prompt's text, the negative's values with their sign flipped: it
    subtracts most where a query finds the negative. No second model evaluation. In joint attention the negative travels
    through the blocks as it is, modulated by the prompt's pooled embedding where there is one, and only the video's
    queries see it flipped. Where the model pads text with zeros and attends to them (Wan, Cosmos), the negative's
    padding is left out, as in the published code; elsewhere a negative's padding counts as its text does, unless the
    model masks it.

    Not with NAG: both say what the same attention makes of a negative.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of all the text
            inputs of the transformer by the names of its arguments.
        scale: of the negative's values; no value is off. Published for Wan: 1 to 1.2.
        offset: subtracted from the negative's scores. Published for Wan: 0.1 to 0.2.
        start, stop: window in fractions of the steps.
        layers: blocks it acts in; None for all.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    scale: float = 1.0
    offset: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "scale", 0)
        check_number(self, "offset")

    def cross_edits(self, call: Call, negatives: Mapping[AttentionSite, Negative]) -> dict[AttentionSite, Edit]:
        return {site: self.cross_edit(call, negative) for site, negative in negatives.items()}

    def cross_edit(self, call: Call, negative: Negative) -> Edit:
        """Return the edit of a cross-attention."""
        family = call.model.family
        padding = None if family.text_masks else zero_rows(negative.text[family.text_inputs[0]])
        return CrossAttentionVSF(self, call.model.parallel, (negative.key, negative.value, negative.mask), padding)

    def joint_edit(self, call: Call, site: AttentionSite, stream: TextStream, split: bool, guides: bool) -> Edit:
        return (SplitAttentionVSF if split else JointAttentionVSF)(self, stream, guides)


def zero_rows(embeds: Tensor) -> Tensor | None:
    """Where `(B, L, C)` embeddings are nothing but zero from there to the end, `(B, L)`; None where none are."""
    filled = embeds.flip(1).ne(0).any(-1).cumsum(1).flip(1) > 0  # whether anything follows
    return None if filled.all() or not filled.any() else ~filled
