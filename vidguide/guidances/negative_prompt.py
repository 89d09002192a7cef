"""The base class of guidances with a negative prompt at every text attention: NAG and VSF."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Edit
from vidguide.calls.call import Call
from vidguide.calls.guided_model import GuidedModel
from vidguide.guidances.base import Guidance
from vidguide.guidances.negative_keys import Negative, distinct_negatives, numbers_of_keys
from vidguide.guidances.text_capture import text_keys_values, text_stream
from vidguide.tracing.run import STREAMS
from vidguide.transformer.family import Family, Inputs, Prompt
from vidguide.transformer.negative_text import check_encodable, check_negative
from vidguide.transformer.text_stream import TextStream
from vidguide.validation import OneOf


@dataclass(frozen=True, kw_only=True, eq=False)
class NegativePromptGuidance(Guidance):
    """A guidance with a negative prompt at every text attention; subclasses define the edits.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt. None for the `negative_prompt` (or
            its embeddings) of each call of the pipeline; a call without one is not guided.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of all the text
            inputs of the transformer (embeddings, masks, pooled ones) by the names of its arguments.
        on: the stream whose attention to text is guided: "video", "audio", or "both".
    """

    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | Mapping[str, Tensor] | None = None
    on: Annotated[str, OneOf(*STREAMS, "both")] = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_negative(self, empty=False)

    @property
    def _on(self) -> str:
        """The parameter `on`, as messages name it."""
        return f"{type(self).__name__}(on={self.on!r})"

    @property
    def edits_attention(self) -> bool:
        return True

    @property
    def negative_modulation(self) -> bool:
        """Whether joint blocks modulate the negative's tokens by its pooled embedding instead of the prompt's."""
        return False

    @property
    def reads_prompt_keys(self) -> bool:
        """Whether the plan has keys of the prompt."""
        return False

    @property
    def reads_negative(self) -> bool:
        return self.negative_prompt is None and self.negative_prompt_embeds is None

    def acts_on(self, negative: Prompt | None) -> bool:
        """Raise ValueError outside of a call of the pipeline if there is no negative prompt."""
        if self.reads_negative and negative is None:
            who = f"{type(self).__name__}(negative_prompt=None)"
            what = "say what the clip should not show, as text or as embeddings"
            raise ValueError(f"{who}: {what}, here or in the call of a pipeline")
        return not self.reads_negative or bool(negative)

    def check(self, model: GuidedModel, pipe: Any) -> None:
        super().check(model, pipe)
        if pipe is None and not self.neutral:
            self.acts_on(None)
        check_encodable(self, pipe)
        self.check_stream(model.family)

    def check_stream(self, family: Family) -> None:
        """Refuse a stream that the family's pipelines do not make, or that attends together with the other.

        Raises:
            ValueError: with the values that are right.
        """
        if self.on == "audio" and family.audio is None:
            raise ValueError(f"{self._on}: {family.name} makes no audio; must be video or both")
        if self.on != "both" and family.audio is not None and not family.audio.text_attention:
            raise ValueError(f"{self._on}: {family.name} attends to text from video and audio at once; must be both")

    def check_run(self, call: Call) -> None:
        audio = call.model.family.audio
        if self.on == "audio" and audio is not None and call.inputs.get(audio.inputs) is None:
            raise ValueError(f"{self._on}: this call makes no audio; must be video or both")
        self.negative_text(call)

    def guides(self, site: AttentionSite) -> bool:
        """Return whether it guides the text attention at a site, by its layer and stream."""
        return (self.layers is None or site.layer in self.layers) and self.on in (site.stream, "both")

    def negative_text(self, call: Call) -> Inputs:
        """Return the text inputs of the negative."""
        return call.encode_negative(self.negative_prompt, self.negative_prompt_embeds)

    def plan(self, call: Call) -> AttentionPlan:
        embeds, of_prompt = self.negative_prompt_embeds, self.reads_prompt_keys
        return call.cached_plan(self, lambda: self.attention_plan(call), embeds, of_prompt)

    def attention_plan(self, call: Call) -> AttentionPlan:
        """Return an edit for each text attention: with the negative's keys and values as the model's processors compute
        them, or in joint attention with the negative's text stream."""
        text = self.negative_text(call)
        return self.cross_plan(call, text) if call.model.family.joint is None else self.joint_plan(call, text)

    def cross_plan(self, call: Call, text: Inputs) -> AttentionPlan:
        """Return the plan for a family of cross-attention."""
        negatives = self.recorded(call, text)
        reduced = distinct_negatives(negatives) if self.counts_equal_keys(call, negatives) else negatives
        notes = tuple(f"{type(self).__name__}: {note}" for note in numbers_of_keys(negatives, reduced))
        return AttentionPlan(edits=self.cross_edits(call, reduced), notes=notes)

    def recorded(self, call: Call, text: Inputs) -> dict[AttentionSite, Negative]:
        """Return keys, values and mask of a text at the cross-attentions that are guided."""
        recorded = text_keys_values(call, text).items()
        return {site: Negative(*values, text) for site, values in recorded if self.guides(site)}

    def counts_equal_keys(self, call: Call, negatives: Mapping[AttentionSite, Negative]) -> bool:
        """Return whether the edits may attend to distinct keys, under a mask that counts them."""
        return True

    def joint_plan(self, call: Call, text: Inputs) -> AttentionPlan:
        """Return the plan for a family of joint attention."""
        stream, joint, edits = text_stream(call, text, self.negative_modulation), call.model.family.joint, {}
        for site in call.model.text_sites.values():
            split = joint is not None and site.name in joint.split_attention
            edits[site] = self.joint_edit(call, site, stream, split, self.guides(site))
        name, before, length = type(self).__name__, stream.captured_length, stream.negative_length
        notes = (f"{name}: negative of {before} tokens, {length} without padding",) if length < before else ()
        return AttentionPlan(edits=edits, second_text=stream, notes=notes)

    def cross_edits(self, call: Call, negatives: Mapping[AttentionSite, Negative]) -> Mapping[AttentionSite, Edit]:
        """Return the edits of some cross-attentions."""
        raise NotImplementedError

    def joint_edit(self, call: Call, site: AttentionSite, stream: TextStream, split: bool, guides: bool) -> Edit:
        """Return the edit of a joint attention.

        Args:
            split: whether the attention's keys are both texts, without the video.
            guides: whether to guide; otherwise the edit only attends to the right tokens of both texts.
        """
        raise NotImplementedError
