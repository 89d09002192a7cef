"""Attention of the video whose map is the identity."""

from torch import Tensor

from vidguide.attention.site import AttentionSite, EditedAttention


class IdentityAttention:
    """A perturbation that replaces the video's attention map by the identity: each token returns its own value."""

    def __init__(self, site: AttentionSite) -> None:
        self.site = site

    def __call__(self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        video, kernel = self.site.video, attention.kernel
        if video is None or video.joint is None:
            return value
        return video.put(attention(query, key, value), video.take(value, kernel.batch, kernel.index))
