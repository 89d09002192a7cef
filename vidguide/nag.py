"""Normalized Attention Guidance: negative prompts in attention, where classifier-free guidance cannot go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vidguide.guidance import Guidance, check_number, check_text
from vidguide.nag_edits import CrossAttentionNAG, JointAttentionNAG, SplitAttentionNAG

if TYPE_CHECKING:
    from vidguide.denoiser import Denoiser
    from vidguide.joint import Stream


@dataclass(frozen=True, kw_only=True, eq=False)
class NAG(Guidance):
    """Normalized Attention Guidance (Chen et al. 2025, arXiv 2505.21179).

    At every text attention the video's queries meet the negative prompt's keys and values too; the two outputs
    are extrapolated, held to `tau` times the positive one's L1 norm per token, and blended. No second model
    evaluation, so it works on few-step and guidance-distilled models. Where text and video share one attention, the
    negative travels through the blocks as a second text, and the video's keys are attended to once for both.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of all the text
            inputs of the transformer (embeddings, masks, pooled ones) by the names of its arguments.
        scale: extrapolation s; 1 is off. Published for Wan: 11.
        tau: most that a token's L1 norm may grow, as a multiple; at least 1.
        alpha: share of the guided features in the result, 0 to 1; 0 is off.
        start, stop: window in fractions of the steps.
        layers: blocks it acts in; None for all.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | Mapping[str, Tensor] | None = None
    scale: float = 11.0
    tau: float = 2.5
    alpha: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "scale", 1)
        check_number(self, "tau", 1)
        check_number(self, "alpha", 0, 1)
        check_negative(self, empty=False)

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.alpha == 0

    def check(self, denoiser: "Denoiser") -> None:
        super().check(denoiser)
        if self.negative_prompt is None and self.negative_prompt_embeds is None:
            raise ValueError("NAG(negative_prompt=None): say what the clip should not show, as text or as embeddings")
        denoiser.check_negative(self, self.negative_prompt, self.negative_prompt_embeds)

    def prepare(self, denoiser: "Denoiser") -> None:
        edits, denoiser.stream = denoiser.kept(self, lambda: self.make_edits(denoiser), text_varies=True)
        for number, site in denoiser.text_sites.items():
            if denoiser.stream is not None or self.layers is None or site.layer in self.layers:
                site.edit = edits.get(number)
        for edit in edits.values():
            edit.begin()

    def make_edits(self, denoiser: "Denoiser") -> tuple[dict[int, Any], "Stream | None"]:
        """One edit per site: with the negative's keys and values as the model's own processors make them, or in joint
        attention with the negative's stream."""
        text = denoiser.negative_text(self.negative_prompt, self.negative_prompt_embeds)
        if denoiser.family.joint is None:
            captured = denoiser.text_keys_values(text)
            return {number: CrossAttentionNAG(self, denoiser.halved, *kept) for number, kept in captured.items()}, None
        stream = denoiser.text_stream(text)
        edits: dict[int, Any] = {}
        for number, site in denoiser.text_sites.items():
            kind = SplitAttentionNAG if site.name in denoiser.family.joint.split_attention else JointAttentionNAG
            edits[number] = kind(self, stream, self.layers is None or site.layer in self.layers)
        return edits, stream


def check_negative(guidance: Any, empty: bool) -> None:
    """Refuse negatives that are neither text nor embeddings, or both."""
    prompt, embeds = guidance.negative_prompt, guidance.negative_prompt_embeds
    name = type(guidance).__name__
    if prompt is not None and embeds is not None:
        raise ValueError(f"{name}: give negative_prompt or negative_prompt_embeds, not both")
    if prompt is not None:
        check_text(guidance, "negative_prompt", prompt, empty)
    if embeds is None or isinstance(embeds, Mapping):
        return
    if not isinstance(embeds, Tensor) or embeds.ndim != 3:
        shape = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise TypeError(f"{name}(negative_prompt_embeds={shape}): must be a tensor (1 or B, L, C), or a dict of them")
