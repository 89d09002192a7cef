"""The phases of a call of a Wan-shaped pipeline on fake tensors: text encoder, image, denoiser, and VAE decode."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from vidguide.guidances.base import Guidance
from vidguide.guiding.guide import guide
from vidguide.pipelines.loading.assemble import diffusers_class
from vidguide.pipelines.planning.counters import Cost, Counter

SUPPORTED = ("WanTransformer3DModel", "AnyFlowTransformer3DModel")
IMAGE_TOKENS = 257  # of CLIP ViT-H/14: a class token, and 16 x 16 patches


@dataclass(frozen=True)
class Size:
    """Size of a call.

    Attributes:
        height, width: pixels. frames: number of frames.
        text: tokens of the text. steps: denoising steps.
        image: whether the clip starts from an image.
    """

    height: int
    width: int
    frames: int
    text: int
    steps: int
    image: bool


def check_family(transformer: str) -> None:
    """Refuse a transformer whose inputs are not declared here, with a ValueError."""
    if transformer not in SUPPORTED:
        raise ValueError(f"{transformer}: cannot be planned yet; what can be planned is {', '.join(SUPPORTED)}")


def latent_shape(vae: Any, size: Size) -> tuple[int, int, int, int, int]:
    """Return the shape `(1, C, F, H, W)` of the latents."""
    config = vae.config
    frames = (size.frames - 1) // config.scale_factor_temporal + 1
    return (
        *(1, config.z_dim, frames),
        *(size.height // config.scale_factor_spatial, size.width // config.scale_factor_spatial),
    )


def grid_of(transformer: Any, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the token grid `(F, H, W)` of latents `(B, C, F, H, W)`."""
    frames, height, width = (
        size // patch for size, patch in zip(shape[2:], transformer.config.patch_size, strict=True)
    )
    return frames, height, width


def encode_text(encoder: Any, size: Size) -> Cost:
    """Return the cost of encoding the prompt."""
    with Counter() as counter:
        ids = torch.zeros(1, size.text, dtype=torch.long)
        mask = torch.ones(1, size.text, dtype=torch.long)
        state = encoder(ids, mask).last_hidden_state
        torch.stack([torch.cat([state[0], state[0].new_zeros(0, state.shape[2])])])  # padded with zeros
    return counter.cost


def encode_image(encoder: Any, dtype: torch.dtype) -> Cost:
    """Return the cost of the image encoder."""
    with Counter() as counter:
        side = encoder.config.image_size
        encoder(torch.empty(1, 3, side, side, dtype=dtype), output_hidden_states=True)
    return counter.cost


def encode_first_frame(vae: Any, size: Size) -> Cost:
    """Return the cost of encoding the first frame, followed by empty ones, as Wan's image-to-video does."""
    with Counter() as counter:
        image = torch.empty(1, 3, 1, size.height, size.width)
        black = image.new_zeros(1, 3, size.frames - 1, size.height, size.width)
        vae.encode(torch.cat([image, black], 2)).latent_dist.mode()
    return counter.cost


def decode(vae: Any, size: Size) -> Cost:
    """Return the cost of decoding the latents, and of scaling the frames to 0..1."""
    with Counter() as counter:
        shape = latent_shape(vae, size)
        mean, deviation = torch.empty(1, shape[1], 1, 1, 1), torch.empty(1, shape[1], 1, 1, 1)
        video = vae.decode(torch.empty(shape) / deviation + mean, return_dict=False)[0]
        torch.stack([(each.permute(1, 0, 2, 3) * 0.5 + 0.5).clamp(0, 1) for each in video])
    return counter.cost


def denoise(
    transformer: Any, vae: Any, size: Size, dtype: torch.dtype, per_token: bool, guidances: Sequence[Guidance] = ()
) -> list[Cost]:
    """Return the cost of a call; under guidances of two successive ones, the first with what is computed once a run.

    Args:
        transformer, vae: fake ones; of the VAE only the sizes are used.
        size: of the call.
        dtype: of the model.
        per_token: whether each token has a timestep of its own, as in Wan 2.2 5B.
        guidances: guidances, whose texts are real tensors, as they check them.
    """
    scheduler, timesteps = stepping_scheduler(size.steps)
    costs = []
    with guide(transformer, *guidances, scheduler=scheduler) if guidances else nullcontext():
        for timestep in timesteps[: 2 if guidances else 1]:
            with Counter() as counter:
                inputs = inputs_of(transformer, latent_shape(vae, size), size, dtype, per_token)
                transformer(**inputs, return_dict=False)
            costs.append(counter.cost)
            with _disable_current_modes():
                scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    return costs


def stepping_scheduler(steps: int) -> tuple[Any, list[Tensor]]:
    """Return a scheduler of real tensors, whose steps guidances count, and its timesteps."""
    with _disable_current_modes():
        scheduler = diffusers_class("FlowMatchEulerDiscreteScheduler")()
        scheduler.set_timesteps(steps)
        return scheduler, list(scheduler.timesteps)


def inputs_of(
    transformer: Any, shape: Sequence[int], size: Size, dtype: torch.dtype, per_token: bool
) -> dict[str, Tensor]:
    """Return the arguments of a call, as the pipelines of Wan and AnyFlow give them; raises as :func:`check_family`."""
    kind, config = type(transformer).__name__, transformer.config
    check_family(kind)
    batch, _, frames, height, width = shape
    inputs = {"encoder_hidden_states": torch.empty(batch, size.text, config.text_dim, dtype=dtype)}
    if kind == "AnyFlowTransformer3DModel":
        video = torch.empty(batch, frames, config.in_channels, height, width, dtype=dtype)
        times = torch.empty(batch, frames)
        return {**inputs, "hidden_states": video, "timestep": times, "r_timestep": times}
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = torch.empty(batch, IMAGE_TOKENS, config.image_dim, dtype=dtype)
    times = torch.empty(batch, math.prod(grid_of(transformer, shape))) if per_token else torch.empty(batch)
    return {
        **inputs,
        "hidden_states": torch.empty(batch, config.in_channels, frames, height, width, dtype=dtype),
        "timestep": times,
    }
