"""Averages of whole attention maps, where a map of tokens by tokens fits in memory."""

import math

import torch
from torch import Tensor

from vidguide.attention.site import EditedAttention, KernelCall
from vidguide.calls.call import Call
from vidguide.edits.emag_average import Average, AveragedAttention, Averages
from vidguide.functional.attention_map import apply_map, attention_map
from vidguide.functional.emag import replace_columns
from vidguide.functional.masks import masked, rows_of
from vidguide.transformer.cfg_batch import ALL_CONDITIONAL

SHARE = 0.5  # of the free memory that maps may take


class AverageMap(Average):
    """EMAG at one layer: the average of the video's rows of its attention map `(B, H, Q, K)`, text among the keys."""

    heads_dim, scale_free = 1, True  # the rows of every map sum to 1

    def map_rows(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        """Return the video's rows of the map, of the conditional rows of a batch."""
        if kernel.kwargs.get("is_causal"):
            raise ValueError("EMAG(variant='map'): this model's attention is causal; use variant='query'")
        rows, tokens = self.video.rows(kernel.batch, kernel.index, query.shape[0]), self.video.tokens(query.shape[1])
        mask = masked(rows_of(kernel.mask, rows.start, rows.stop), tokens)
        return attention_map(query[rows, tokens], key[rows], kernel.kwargs.get("scale"), mask)

    def live(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        return self.map_rows(kernel, query, key)

    def perturbed(self, averages: Averages, kernel: KernelCall, weights: Tensor) -> Tensor:
        """Return the perturbed rows of the map, from the live ones."""
        return self.mixed(averages, kernel, weights, self.strength)

    def perturb(
        self, past: AveragedAttention, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        kernel = attention.kernel
        output = apply_map(self.perturbed(past.averages, kernel, self.map_rows(kernel, query, key)), value)
        if self.video.joint is None and past.chosen is None:
            return output
        unperturbed = attention(query, key, value)
        if past.chosen is not None:
            live = self.video.take(unperturbed, ALL_CONDITIONAL, kernel.index)
            output = torch.where(self.rows(kernel, past.chosen, live), output, live)
        return self.video.put(unperturbed, output)


class AverageVideoMap(AverageMap):
    """EMAG-I at one layer: only the map from the video to itself is averaged, and rows are renormalised to sum 1."""

    def live(self, kernel: KernelCall, query: Tensor, key: Tensor) -> Tensor:
        return self.map_rows(kernel, query, key)[..., self.video.tokens(query.shape[1])]

    def perturbed(self, averages: Averages, kernel: KernelCall, weights: Tensor) -> Tensor:
        keys = self.video.tokens(weights.shape[-1])
        return replace_columns(weights, self.mixed(averages, kernel, weights[..., keys], self.strength), keys)


def check_maps_fit(call: Call, layers: int) -> None:
    """Refuse maps that would not fit in memory, before the first is made.

    Raises:
        ValueError: with the memory they would take, what is free, and the cure.
    """
    tokens, family = math.prod(call.grid), call.model.family
    text = call.inputs[family.text_inputs[0]].shape[-2] if family.joint else 0
    text += sum(call.media[:-1]) if call.media else 0  # conditions and audio in a packed sequence
    heads = next(iter(call.model.self_sites[family.extent].values())).attention.heads
    maps = (layers + 2) * call.conditional_rows  # two more while one is compared with its average
    needed = maps * heads * tokens * (tokens + text) * 4
    free = free_memory(call.device)
    if needed > SHARE * free:
        raise ValueError(
            f"EMAG(variant='map'): maps of {tokens} x {tokens + text} tokens, {heads} heads and {layers} layers take "
            f"{needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. Use variant='query', or fewer layers"
        )


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
