"""Clips as the latents that a pipeline denoises: encoded by its VAE, normalized and laid out as its transformer's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidguide.transformer.family import family_of


def by_statistics(vae: Any, latents: Tensor) -> Tensor:
    """Normalize latents `(B, C, F, H, W)` by the mean and deviation of each channel, then scale them."""
    mean, deviation = (
        torch.as_tensor(value).reshape(1, -1, 1, 1, 1).to(latents) for value in statistics(vae, latents.shape[1])
    )
    return (latents - mean) * (getattr(vae.config, "scaling_factor", None) or 1.0) / deviation


def statistics(vae: Any, channels: int) -> tuple[Any, Any]:
    """Return mean and deviation of each channel; those of LTX-Video are buffers, Mochi's may be None."""
    mean, deviation = (
        getattr(vae.config, name, None) if getattr(vae.config, name, None) is not None else getattr(vae, name, None)
        for name in ("latents_mean", "latents_std")
    )
    if mean is None or deviation is None:
        return [0.0] * channels, [1.0] * channels
    return mean, deviation


def by_scale(vae: Any, latents: Tensor) -> Tensor:
    """Multiply latents by the VAE's scaling factor."""
    scaled: Tensor = latents * vae.config.scaling_factor
    return scaled


# How pipelines normalize the latents of a VAE of diffusers. Each is the inverse of the lines before `vae.decode` in
# WanPipeline (SkyReelsV2Pipeline), LTXPipeline, MochiPipeline, CogVideoXPipeline and HunyuanVideoPipeline.
NORMALIZATIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "AutoencoderKLWan": by_statistics,
    "AutoencoderKLLTXVideo": by_statistics,
    "AutoencoderKLMochi": by_statistics,
    "AutoencoderKLCogVideoX": by_scale,
    "AutoencoderKLHunyuanVideo": by_scale,
}
LAYOUTS = ("BCFHW", "BFCHW", "BLC")


def check_encodable(pipe: Any) -> None:
    """Refuse a pipeline whose latents cannot be made from clips.

    Raises:
        ValueError: naming the pipeline, its VAE or layout, and what is supported.
    """
    name, vae = type(pipe).__name__, type(getattr(pipe, "vae", None)).__name__
    if vae not in NORMALIZATIONS:
        raise ValueError(f"{name}: its VAE is {vae}; clips can be encoded by {', '.join(NORMALIZATIONS)}")
    layout = layout_of(pipe)
    if layout not in LAYOUTS or (layout == "BLC" and not hasattr(pipe, "_pack_latents")):
        raise ValueError(f"{name}: its transformer's layout is {layout}; supported are {', '.join(LAYOUTS)}")


def encode(pipe: Any, frames: np.ndarray) -> Tensor:
    """Encode clips to the latents x_0 of a pipeline, by the mode of its VAE's distribution.

    Args:
        frames: `(B, F, H, W, 3)`, uint8.

    Returns:
        float32, `(B, C, F, H, W)` or the transformer's layout, on the pipeline's device.

    Raises:
        ValueError: the VAE or the layout is not supported.
    """
    check_encodable(pipe)
    video = torch.from_numpy(frames).to(pipe._execution_device, torch.float32).permute(0, 4, 1, 2, 3) / 127.5 - 1
    with torch.no_grad():
        encoded = pipe.vae.encode(video.to(pipe.vae.dtype)).latent_dist.mode()
    return lay_out(pipe, NORMALIZATIONS[type(pipe.vae).__name__](pipe.vae, encoded.float()))


def lay_out(pipe: Any, latents: Tensor) -> Tensor:
    """Return latents `(B, C, F, H, W)` in the layout of the pipeline's transformer."""
    layout = layout_of(pipe)
    if layout == "BLC":
        sizes = pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
        packed: Tensor = pipe._pack_latents(latents, *sizes)
        return packed
    return latents.permute([*map("BCFHW".index, layout)]).contiguous()


def layout_of(pipe: Any) -> str:
    """Return the axes of the latents that the pipeline's transformer receives."""
    return family_of(getattr(pipe.transformer, "_orig_mod", pipe.transformer)).layout
