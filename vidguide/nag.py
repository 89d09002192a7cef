"""Normalized Attention Guidance: negative prompts in attention, where classifier-free guidance cannot go."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidguide.formulas import l1_norm, nag_extrapolate, nag_limit
from vidguide.guidance import Guidance, check_number, check_text
from vidguide.seam import Kernel

if TYPE_CHECKING:
    from vidguide.denoiser import Denoiser

SAMPLED_TOKENS = 256  # most tokens per clip whose change is measured for the trace, so that tracing costs no sweep


@dataclass(frozen=True, kw_only=True, eq=False)
class NAG(Guidance):
    """Normalized Attention Guidance (Chen et al. 2025, arXiv 2505.21179).

    At every text attention the video's queries meet the negative prompt's keys and values too; the two outputs
    are extrapolated, held to `tau` times the positive one's L1 norm per token, and blended. No second model
    evaluation, so it works on few-step and guidance-distilled models.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text.
        scale: extrapolation s; 1 is off. Published for Wan: 11.
        tau: most that a token's L1 norm may grow, as a multiple; at least 1.
        alpha: share of the guided features in the result, 0 to 1; 0 is off.
        start, stop: window in fractions of the steps.
        layers: blocks it acts in; None for all.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | None = None
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
        edits = denoiser.kept(self, lambda: self.make_edits(denoiser))
        for layer, site in denoiser.text_sites.items():
            if self.layers is None or layer in self.layers:
                site.edit = edits[layer]

    def make_edits(self, denoiser: "Denoiser") -> dict[int, "CrossAttentionNAG"]:
        """One edit per layer, with the negative's keys and values as the model's own processors make them."""
        text = denoiser.negative_text(self.negative_prompt, self.negative_prompt_embeds)
        captured = denoiser.text_keys_values(text)
        return {layer: CrossAttentionNAG(self, *kept) for layer, kept in captured.items()}


def check_negative(guidance: Any, empty: bool) -> None:
    """Refuse negatives that are neither text nor embeddings, or both."""
    prompt, embeds = guidance.negative_prompt, guidance.negative_prompt_embeds
    name = type(guidance).__name__
    if prompt is not None and embeds is not None:
        raise ValueError(f"{name}: give negative_prompt or negative_prompt_embeds, not both")
    if prompt is not None:
        check_text(guidance, "negative_prompt", prompt, empty)
    if embeds is not None and (not isinstance(embeds, Tensor) or embeds.ndim != 3):
        shape = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise TypeError(f"{name}(negative_prompt_embeds={shape}): must be a tensor (1 or B, L, C)")


class CrossAttentionNAG:
    """NAG at one text cross-attention, for negative keys and values `(1 or B, L, H, D)` that are already there."""

    def __init__(self, nag: NAG, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        self.scale, self.tau, self.alpha = float(nag.scale), float(nag.tau), float(nag.alpha)
        self.key, self.value, self.mask = key, value, mask
        self.measured: Tensor | None = None  # share of tokens held by tau, relative change; read by the trace

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        positive = kernel(query, key, value, kernel.mask)
        repeats = query.shape[0] // self.key.shape[0]
        negative_key, negative_value = (t.repeat_interleave(repeats, 0) for t in (self.key, self.value))
        mask = None if self.mask is None else self.mask.repeat_interleave(repeats, 0)
        negative = kernel(query, negative_key, negative_value, mask)
        guided = nag_extrapolate(positive, negative, self.scale)
        factor = nag_limit(positive, guided, self.tau)
        wide = positive.to(guided.dtype)
        output = torch.lerp(wide, guided * factor, self.alpha)
        self.measured = torch.stack([(factor < 1).float().mean(), change(wide, output)])
        return output.to(positive.dtype)


def change(before: Tensor, after: Tensor) -> Tensor:
    """Relative L1 change of the features, over at most SAMPLED_TOKENS tokens spread evenly."""
    stride = max(before.shape[1] // SAMPLED_TOKENS, 1)
    before, after = before[:, ::stride], after[:, ::stride]
    return (l1_norm(after - before).sum() / l1_norm(before).sum().clamp(min=1e-30)).float()
