"""Normalized Attention Guidance: negative prompts in attention, without classifier-free guidance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Edit
from vidguide.calls.call import Call
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.nag_attention import CrossAttentionNAG, JointAttentionNAG, SplitAttentionNAG
from vidguide.edits.nag_combine import NORMS, Combination, Group, PackedCombination
from vidguide.guidances.negative_keys import Negative, distinct_negatives, numbers_of_keys
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.transformer.family import Inputs
from vidguide.transformer.text_stream import TextStream
from vidguide.validation import OneOf, Range


@dataclass(frozen=True, kw_only=True, eq=False)
class NAG(NegativePromptGuidance):
    """Normalized Attention Guidance (Chen et al. 2025, arXiv 2505.21179).

    At every text attention the video's queries also attend to the negative prompt; the two outputs are extrapolated,
    limited to `tau` times the positive one's L1 norm per token, and blended. There is no second model evaluation, so it
    works on few-step and guidance-distilled models. In joint attention the negative passes through the blocks as a
    second text stream, modulated by its pooled embedding where there is one (HunyuanVideo, Framepack, Mochi), and
    attention to the video's keys is computed once for both.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of all the text
            inputs of the transformer (embeddings, masks, pooled ones) by the names of its arguments.
        scale: extrapolation s; 1 is off. Published for Wan: 11.
        tau: largest ratio of the L1 norms after and before; at least 1.
        alpha: share of the guided features in the result, 0 to 1; 0 is off.
        norm: the tokens that share a norm: each "token" (the paper), a "frame", or the "clip", so that the limit is the
            same for all frames. On the shipped model this does not reduce flicker (docs/results.md). An audio stream
            has one token per frame, and is one clip; conditions in a packed sequence (MiniMax-H3) keep those of tokens.
        distinct_prompt: whether the video attends to the distinct keys of the prompt too, instead of to those of every
            padding token, in cross-attention. The result is equal up to rounding, which changes the part of the
            unguided model: so it is off by default.
        start, stop: window in fractions of the steps.
        layers: blocks it acts in; None for all.
        on: the stream whose attention to text is guided, where a model makes audio with the video: "video", "audio", or
            "both".

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import NAG
        >>> NAG(negative_prompt="blurry", alpha=0.5).neutral
        False
        >>> NAG(alpha=0).neutral  # nothing of the guided features: the clip of the unguided model
        True
        >>> NAG(tau=0.5)
        Traceback (most recent call last):
        ValueError: NAG(tau=0.5): must be at least 1
    """

    scale: Annotated[float, Range(1)] = 11.0
    tau: Annotated[float, Range(1)] = 2.5
    alpha: Annotated[float, Range(0, 1)] = 0.25
    norm: Annotated[str, OneOf(*NORMS)] = "token"
    distinct_prompt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.distinct_prompt, bool):
            raise TypeError(f"NAG(distinct_prompt={self.distinct_prompt!r}): must be True or False")

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.alpha == 0

    @property
    def negative_modulation(self) -> bool:
        return True

    @property
    def reads_prompt_keys(self) -> bool:
        return self.distinct_prompt

    def check(self, model: GuidedModel, pipe: Any) -> None:
        super().check(model, pipe)
        if self.distinct_prompt and model.family.joint is not None:
            who = f"NAG(distinct_prompt={self.distinct_prompt})"
            raise ValueError(f"{who}: {model.family.name} attends to text and video at once; leave it out")

    def cross_plan(self, call: Call, text: Inputs) -> AttentionPlan:
        plan = super().cross_plan(call, text)
        if not self.distinct_prompt:
            return plan
        inputs = call.batch.conditional_inputs(call.inputs)
        prompts = self.recorded(call, {name: inputs[name] for name in call.model.family.text_inputs if name in inputs})
        reduced = distinct_negatives(prompts)
        edits: dict[AttentionSite, Any] = dict(plan.edits)
        edits |= {
            site: replace(edits[site], prompt=(prompt.key, prompt.value, prompt.mask))
            for site, prompt in reduced.items()
            if prompt.distinct
        }
        notes = tuple(f"NAG: {note}" for note in numbers_of_keys(prompts, reduced, "prompt"))
        return replace(plan, edits=edits, notes=(*plan.notes, *notes))

    def cross_edits(self, call: Call, negatives: Mapping[AttentionSite, Negative]) -> dict[AttentionSite, Edit]:
        combinations = self.combinations(call)
        return {
            site: CrossAttentionNAG(
                combinations[site.stream], negative.key, negative.value, negative.mask, negative.distinct > 0
            )
            for site, negative in negatives.items()
        }

    def joint_edit(self, call: Call, site: AttentionSite, stream: TextStream, split: bool, guides: bool) -> Edit:
        combinations, attention = self.combinations(call), site.attention
        video = combinations[site.stream]
        if split:
            return SplitAttentionNAG(video, stream, guides)
        combine: Combination | PackedCombination = video
        if self.norm != "token" and call.media is not None:
            combine = PackedCombination(self.packed_parts(call.media, combinations))
        return JointAttentionNAG(combine, stream, guides, attention.inner_dim // attention.heads)

    def packed_parts(
        self, media: tuple[int, int, int], combinations: dict[str, Combination]
    ) -> list[tuple[int, Combination]]:
        """Return the combinations of conditions, audio and video in a packed sequence; conditions have token norms."""
        audio, video = combinations["audio"], combinations["video"]
        return list(zip(media, (Combination(video.strength), audio, video), strict=True))

    def combinations(self, call: Call) -> dict[str, Combination]:
        """Return the combination of features at attentions of the video, and of the audio, by stream."""
        strength = float(self.scale), float(self.tau), float(self.alpha)
        by_frame, rows = self.norm == "frame", call.conditional_rows
        parallel = call.model.parallel if self.norm != "token" and call.model.parallel.active else None
        video = Group(self.norm, rows, call.grid if by_frame else (1, 1, 1), parallel)
        audio = Group("token" if by_frame else self.norm, rows, parallel=None if by_frame else parallel)
        return {"video": Combination(strength, video), "audio": Combination(strength, audio)}
