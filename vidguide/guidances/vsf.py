"""Value Sign Flip: a negative prompt whose values are subtracted in attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from vidguide.attention.site import AttentionSite, Edit
from vidguide.calls.call import Call
from vidguide.edits.vsf_attention import CrossAttentionVSF, JointAttentionVSF, SplitAttentionVSF
from vidguide.guidances.negative_keys import Negative
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.transformer.text_stream import TextStream
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class VSF(NegativePromptGuidance):
    """Value Sign Flip (Guo and Du 2025, arXiv 2508.10931): `softmax(q [k+, k-] + [0, -offset]) [v+, -scale v-]`.

    One attention over the prompt and the negative prompt, whose values have their sign flipped: it subtracts most where
    a query attends most to the negative. There is no second model evaluation. In joint attention the negative passes
    through the blocks unchanged, modulated by the prompt's pooled embedding where there is one; its values are flipped
    for the video's queries only. Where the model pads text with zeros and attends to them (Wan, Cosmos), the negative's
    padding is masked, as in the published code; elsewhere the padding is attended to as the text is, unless the model
    masks it.

    Cannot be combined with NAG: both edit the same attention.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of all the text
            inputs of the transformer by the names of its arguments.
        scale: factor of the negative's values; no value switches VSF off. Published for Wan: 1 to 1.2.
        offset: subtracted from the negative's scores. Published for Wan: 0.1 to 0.2.
        start, stop: window in fractions of the steps.
        layers: blocks it acts in; None for all.
        on: the stream whose attention to text is guided, where a model makes audio with the video: "video", "audio", or
            "both".

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import VSF
        >>> VSF(negative_prompt="blurry", scale=0.5).scale
        0.5
    """

    scale: Annotated[float, Range(0)] = 1.0
    offset: Annotated[float, Range()] = 0.1

    def counts_equal_keys(self, call: Call, negatives: Mapping[AttentionSite, Negative]) -> bool:
        """Return whether there is a mask already. Elsewhere the kernel may take none, and padding is cut off anyway."""
        masked = all(negative.mask is not None for negative in negatives.values())
        return masked and bool(call.model.family.text_masks)

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
    """Return which tokens `(B, L)` of embeddings `(B, L, C)` are trailing zeros; None if none or all are."""
    is_text = embeds.flip(1).ne(0).any(-1).cumsum(1).flip(1) > 0  # whether a later token, or this one, is not zero
    return None if is_text.all() or not is_text.any() else ~is_text
