"""Modular pipelines of diffusers at tiny size."""

import copy
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.helpers.tiny_encoders import gemma3_and_connectors
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_pipelines import AveragingVAE, ltx2_parts

ECHO_STEPS = 8
ECHO: dict[str, Any] = dict(height=64, width=96, num_frames=9, max_sequence_length=16, output_type="latent")


def echo(tiny: str = "LTX2VideoTransformer3DModel/modulated", loop: Any = None) -> Any:
    """Return Echo with a tiny transformer, text encoder and connectors, and a VAE that averages.

    Args:
        tiny: name of the transformer. loop: replaces the pipeline's denoising loop.
    """
    parts = {**ltx2_parts(), **gemma3_and_connectors(), "vae": AveragingVAE(4, 8, 32)}
    pipe = diffusers.EchoModularPipeline()  # shares its blocks with all others
    if loop is not None:
        pipe._blocks = copy.deepcopy(pipe._blocks)
        pipe._blocks.sub_blocks["denoise"].sub_blocks["denoise_loop"] = loop
    pipe.update_components(transformer=BY_NAME[tiny].make(), **parts)
    echo_loop(pipe).set_progress_bar_config(disable=True)
    return pipe


def echo_loop(pipe: Any) -> Any:
    return pipe._blocks.sub_blocks["denoise"].sub_blocks["denoise_loop"]


def sample_echo(pipe: Any, **call: Any) -> Tensor:
    """Return the latents of a call, from the noise of seed 0."""
    generator = torch.Generator().manual_seed(0)
    latents: Tensor = pipe(**{"prompt": "blue", **ECHO, **call}, generator=generator, output="videos")
    return latents
