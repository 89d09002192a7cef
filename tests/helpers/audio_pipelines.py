"""Pipelines that make audio with the video: tiny transformers with diffusers' own audio VAEs, vocoders and encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.helpers.tiny_encoders import ENCODERS
from tests.helpers.tiny_families import Values
from tests.helpers.tiny_pipelines import CASES, AveragingVAE


class TimedVAE(AveragingVAE):
    """Averaging VAE whose decoder takes a timestep, as that of LTX-2."""

    def __init__(self, channels: int, frames: int, size: int) -> None:
        super().__init__(channels, frames, size)
        self.config.timestep_conditioning = False

    def decode(self, latents: Tensor, *timestep: Any, return_dict: bool = True) -> tuple[Tensor]:
        return super().decode(latents, return_dict)


def make(model: Callable[..., Any], **config: Any) -> Any:
    torch.manual_seed(0)
    return model(**config).eval().requires_grad_(False)


def ltx2_decoders() -> Values:
    """Return decoders of 16 mel bins, and a vocoder that makes 16 stereo samples of each frame of them."""
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    mel: Values = dict(latent_channels=1, mel_bins=16, base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1)
    vocoder: Values = dict(in_channels=32, hidden_channels=16, upsample_kernel_sizes=[8, 8], upsample_factors=[4, 4])
    vocoder |= dict(resnet_kernel_sizes=[3], resnet_dilations=[[1, 3]], output_sampling_rate=24000)
    return {
        "vae": TimedVAE(4, 8, 32),
        "audio_vae": make(diffusers.AutoencoderKLLTX2Audio, **mel),
        "vocoder": make(LTX2Vocoder, **vocoder),
    }


def kandinsky6_decoders() -> Values:
    """Return decoders of 8 mel bins, and a vocoder that makes 64 mono samples of each frame of them."""
    mel: Values = dict(mel_bins=8, latent_channels=4, hidden_channels=8, channel_multipliers=(1, 1), layers_per_block=1)
    mel |= dict(sample_rate=16000, n_fft=128, hop_length=64)
    vocoder: Values = dict(num_mels=8, upsample_initial_channel=16, upsample_rates=(8, 8))
    vocoder |= dict(upsample_kernel_sizes=(16, 16), resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3),))
    return {
        "vae": AveragingVAE(4),
        "audio_vae": make(diffusers.MMAudioVAE, **mel),
        "vocoder": make(diffusers.MMAudioVocoder, **vocoder),
    }


@dataclass(frozen=True)
class Audible:
    """A pipeline whose frames and audio are decoded.

    Attributes:
        pipeline: class name. decoders: its VAEs and vocoder.
        rate, channels: of its audio. attention: modules where the audio attends to text.
        settings: arguments of `generate` for a short clip.
    """

    pipeline: str
    decoders: Callable[[], Values]
    rate: int
    channels: int
    attention: str
    settings: Values

    def pipe(self) -> Any:
        case = next(case for case in CASES if case.pipeline == self.pipeline)
        parts = case.pipe(False).components | ENCODERS[self.pipeline]() | self.decoders()
        pipe = getattr(diffusers, self.pipeline)(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe


SHORT: Values = dict(steps=2, guidance_scale=1.0, max_sequence_length=128)
ALL_AUDIBLE = [
    Audible(
        pipeline="LTX2Pipeline",
        decoders=ltx2_decoders,
        rate=24000,
        channels=2,
        attention="audio_attn2",
        settings={**SHORT, "height": 64, "width": 96, "frames": 9, "fps": 24},
    ),
    Audible(
        pipeline="Kandinsky6TI2VAPipeline",
        decoders=kandinsky6_decoders,
        rate=16000,
        channels=1,
        attention="audio_dec_block.cross_attention",
        settings={**SHORT, "height": 32, "width": 48, "frames": 5, "fps": 24},
    ),
]
AUDIBLE = [each for each in ALL_AUDIBLE if hasattr(diffusers, each.pipeline)]
