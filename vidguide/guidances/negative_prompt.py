"""A negative prompt that acts wherever the video attends to text: what NAG and VSF share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from vidguide.attention.interception import Edit, Site
from vidguide.guidances.base import Guidance
from vidguide.guidances.text_capture import text_keys_values, text_stream
from vidguide.transformer.negative_text import check_encodable, check_negative

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser
    from vidguide.transformer.text_stream import Stream


class Negative(NamedTuple):
    """A negative at one text cross-attention: keys and values `(1 or B, L, H, D)` and mask as the model's own
    processor made them, and the text inputs that they were made of."""

    key: Tensor
    value: Tensor
    mask: Tensor | None
    text: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextGuidance(Guidance):
    """A guidance with a negative prompt at every text attention; subclasses say what the attention makes of it.

    Attributes:
        negative_prompt: what the clip should not show; a text, or one per prompt.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of all the text
            inputs of the transformer (embeddings, masks, pooled ones) by the names of its arguments.
    """

    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_negative(self, empty=False)

    @property
    def attends(self) -> bool:
        return True

    def check(self, denoiser: "Denoiser") -> None:
        super().check(denoiser)
        if self.negative_prompt is None and self.negative_prompt_embeds is None:
            who = f"{type(self).__name__}(negative_prompt=None)"
            raise ValueError(f"{who}: say what the clip should not show, as text or as embeddings")
        check_encodable(self, denoiser.pipe)

    def check_run(self, denoiser: "Denoiser") -> None:
        denoiser.negative_text(self.negative_prompt, self.negative_prompt_embeds)

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
        text, joint = denoiser.negative_text(self.negative_prompt, self.negative_prompt_embeds), denoiser.family.joint
        sites = denoiser.text_sites
        if joint is None:
            captured = text_keys_values(denoiser, text)
            return {n: self.cross_edit(denoiser, sites[n], Negative(*kept, text)) for n, kept in captured.items()}, None
        stream = text_stream(denoiser, text)
        edits = {}
        for number, site in sites.items():
            guides = self.layers is None or site.layer in self.layers
            edits[number] = self.joint_edit(denoiser, site, stream, site.name in joint.split_attention, guides)
        return edits, stream

    def cross_edit(self, denoiser: "Denoiser", site: Site, negative: Negative) -> Edit:
        """What to do at a cross-attention."""
        raise NotImplementedError

    def joint_edit(self, denoiser: "Denoiser", site: Site, stream: "Stream", split: bool, guides: bool) -> Edit:
        """What to do in a joint attention, or (`split`) at one that gets the carried texts as its keys; without
        `guides`, only what carrying them takes."""
        raise NotImplementedError
