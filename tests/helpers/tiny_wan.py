"""A small random Wan transformer and its calls."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel


def tiny_wan(**changes: Any) -> WanTransformer3DModel:
    """Return a Wan transformer of three blocks with the same random weights at each call."""
    torch.manual_seed(0)
    config = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4)
    config |= dict(text_dim=16, freq_dim=32, ffn_dim=32, num_layers=3, rope_max_seq_len=32)
    return WanTransformer3DModel(**config | changes).eval().requires_grad_(False)


def wan_inputs(batch: int = 2, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the keyword arguments of a call of `tiny_wan`."""
    random = torch.Generator().manual_seed(seed)
    return dict(
        hidden_states=torch.randn(batch, 4, 2, 8, 8, generator=random).to(dtype),
        timestep=torch.full((batch,), 500),
        encoder_hidden_states=torch.randn(batch, 7, 16, generator=random).to(dtype),
        return_dict=False,
    )


def negative_text(batch: int = 1, length: int = 9, seed: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return embeddings of a negative prompt for `tiny_wan`."""
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)
