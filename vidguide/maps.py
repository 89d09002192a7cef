"""Averages of whole attention maps, where a map of tokens by tokens fits in memory."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidguide.average import Average
from vidguide.seam import Kernel, Site
from vidguide.tokens import grid

if TYPE_CHECKING:
    from vidguide.denoiser import Denoiser

SHARE = 0.5  # of the free memory that maps may take


def attention_map(kernel: Kernel, query: Tensor, key: Tensor) -> Tensor:
    """`softmax(q k^T / sqrt(D) + mask)`, `(B, H, L, L)` in at least float32."""
    if kernel.kwargs.get("is_causal"):
        raise ValueError("EMAG(variant='map'): this model's attention is causal; use variant='query'")
    wide = torch.promote_types(query.dtype, torch.float32)
    scale = kernel.kwargs.get("scale") or query.shape[-1] ** -0.5
    logits = torch.einsum("bqhd,bkhd->bhqk", query.to(wide) * scale, key.to(wide))
    if kernel.mask is not None:
        boolean = kernel.mask.dtype == torch.bool
        logits = logits.masked_fill(~kernel.mask, -torch.inf) if boolean else logits + kernel.mask
    return logits.softmax(-1)


class AverageMap(Average):
    """EMAG at one layer: the average of its attention map `(B, H, L, L)`."""

    def watch(self, site: Site) -> None:
        site.edit = self.update

    def perturb(self, site: Site) -> None:
        site.edit = self.replace

    def leave(self, site: Site) -> None:
        site.edit = None

    def update(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Take a step's map into the average; the attention itself stays as it is."""
        self.take(attention_map(kernel, query, key))
        return kernel(query, key, value, kernel.mask)

    def replace(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention by the live map mixed with its average."""
        mixed = self.mixed(attention_map(kernel, query, key))
        return torch.einsum("bhqk,bkhd->bqhd", mixed, value.to(mixed.dtype)).to(value.dtype)


def check_map_fits(denoiser: "Denoiser", layers: int) -> None:
    """Refuse maps that would not fit, naming what they take, before the first is made.

    Raises:
        ValueError: with the memory it would take, what there is, and what to do.
    """
    tokens = 1
    for size in grid(denoiser.family, denoiser.original, denoiser.inputs):
        tokens *= size
    hidden = denoiser.inputs["hidden_states"]
    heads = next(iter(denoiser.self_sites.values())).attention.heads
    needed = (layers + 2) * hidden.shape[0] * heads * tokens**2 * 4  # two more while one is compared with its average
    free = free_memory(hidden.device)
    if needed > SHARE * free:
        raise ValueError(
            f"EMAG(variant='map'): maps of {tokens} x {tokens} tokens, {heads} heads and {layers} layers take "
            f"{needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. Use variant='query', or fewer layers"
        )


def free_memory(device: torch.device) -> int:
    """Bytes free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
