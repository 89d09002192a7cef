"""Averages of whole attention maps, where a map of tokens by tokens fits in memory."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidguide.attention.interception import Attention, Kernel
from vidguide.edits.emag_average import Average
from vidguide.functional.attention_map import apply_map, attention_map
from vidguide.functional.emag import replace_columns
from vidguide.functional.masks import masked, rows_of

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser

SHARE = 0.5  # of the free memory that maps may take


class AverageMap(Average):
    """EMAG at one layer: the average of the video's rows of its attention map `(B, H, Q, K)`, text among the keys."""

    heads_dim = 1

    def rows(self, kernel: Kernel, query: Tensor, key: Tensor) -> Tensor:
        """The video's rows of the map, of the conditional rows of a batch."""
        if kernel.kwargs.get("is_causal"):
            raise ValueError("EMAG(variant='map'): this model's attention is causal; use variant='query'")
        rows, tokens = self.video.rows(query.shape[0]), self.video.tokens(query.shape[1])
        mask = masked(rows_of(kernel.mask, rows.start, rows.stop), tokens)
        return attention_map(query[rows, tokens], key[rows], kernel.kwargs.get("scale"), mask)

    def live(self, kernel: Kernel, query: Tensor, key: Tensor) -> Tensor:
        return self.rows(kernel, query, key)

    def weights(self, weights: Tensor) -> Tensor:
        """The perturbed rows of the map, from the live ones."""
        return self.mixed(weights)

    def perturb(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = self.weights(self.rows(attention.kernel, query, key))
        output = apply_map(weights, value)
        return output if self.video.joint is None else self.video.put(attention(query, key, value), output)


class AverageVideoMap(AverageMap):
    """EMAG-I at one layer: only the map from the video to itself is averaged, and rows are brought back to sum 1."""

    def live(self, kernel: Kernel, query: Tensor, key: Tensor) -> Tensor:
        return self.rows(kernel, query, key)[..., self.video.tokens(query.shape[1])]

    def weights(self, weights: Tensor) -> Tensor:
        keys = self.video.tokens(weights.shape[-1])
        return replace_columns(weights, self.mixed(weights[..., keys]), keys)


def check_map_fits(denoiser: "Denoiser", layers: int) -> None:
    """Refuse maps that would not fit, naming what they take, before the first is made.

    Raises:
        ValueError: with the memory it would take, what there is, and what to do.
    """
    tokens = math.prod(denoiser.grid())
    family = denoiser.family
    text = denoiser.inputs[family.text_inputs[0]].shape[-2] if family.joint else 0
    heads = next(iter(denoiser.self_sites[family.extent].values())).attention.heads
    maps = (layers + 2) * denoiser.conditional  # two more while one is compared with its average
    needed = maps * heads * tokens * (tokens + text) * 4
    free = free_memory(denoiser.device)
    if needed > SHARE * free:
        raise ValueError(
            f"EMAG(variant='map'): maps of {tokens} x {tokens + text} tokens, {heads} heads and {layers} layers take "
            f"{needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. Use variant='query', or fewer layers"
        )


def free_memory(device: torch.device) -> int:
    """Bytes free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
