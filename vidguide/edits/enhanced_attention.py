"""Self-attention of the video, scaled by how much its frames attend to each other."""

from einops import rearrange
from torch import Tensor

from vidguide.attention.site import AttentionSite, KernelCall
from vidguide.functional.cross_frame import cross_frame_intensity, enhancement


class EnhancedAttention:
    """An output change that multiplies the video's attention output by its clip's enhancement (arXiv 2502.07508).

    Args:
        grid: the clip's token grid (F, H, W).
        weight: enhance temperature, added to the number of frames.
    """

    def __init__(self, site: AttentionSite, grid: tuple[int, int, int], weight: float) -> None:
        self.site, self.grid, self.weight = site, grid, weight

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, output: Tensor) -> Tensor:
        video = self.site.video
        if video is None:
            raise RuntimeError("EnhanceAVideo requires the sites of the video's self-attention")
        query, key = (video.parallel.gather(video.take(tensor, kernel.batch, kernel.index)) for tensor in (query, key))
        part = video.take(output, kernel.batch, kernel.index)
        if not part.shape[0]:
            return output
        factor = self.factor(query, key, kernel.kwargs.get("scale"))
        return video.put(output, part * factor.to(part.dtype)[:, None, None, None])

    def factor(self, query: Tensor, key: Tensor, scale: float | None) -> Tensor:
        """Return the factor of each row, `(B,)`; factorised models have a row for each position of a clip."""
        frames, height, width = self.grid
        positions = height * width
        if self.site.extent == "temporal":
            query, key = (rearrange(tensor, "(b s) f h d -> b (f s) h d", s=positions) for tensor in (query, key))
        first = query.shape[1] - frames * positions  # history, if any, precedes the clip
        intensity = cross_frame_intensity(query[:, first:], key[:, first:], frames, scale)
        factor = enhancement(intensity, frames, self.weight)
        return factor.repeat_interleave(positions) if self.site.extent == "temporal" else factor
