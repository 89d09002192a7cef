"""Checkpoints of a few hundred kilobytes in published file layouts: pipeline folders, LoRA files, single files.

Text encoder, tokenizer and, for Wan, the VAE are the shipped model's; other weights are random.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5EncoderModel,
)

from vidguide.pipelines.models.spec import SHIPPED

TINY = SHIPPED["tiny"].path
SIZE: dict[str, Any] = dict(height=32, width=32, frames=5, fps=8)
RANK = 2


def wan_transformer(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=12, in_channels=8, out_channels=8)
    config |= dict(text_dim=96, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32)
    return diffusers.WanTransformer3DModel(**config | changes)


def wan_parts() -> dict[str, Any]:
    """Return tokenizer, text encoder, VAE and scheduler of a Wan folder."""
    return dict(
        tokenizer=AutoTokenizer.from_pretrained(TINY / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(TINY / "text_encoder"),
        vae=diffusers.AutoencoderKLWan.from_pretrained(TINY / "vae"),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def wan_folder(folder: Path, **config: Any) -> Path:
    """Write a text-to-video pipeline of one transformer, or of two if there is a boundary."""
    second = wan_transformer(1) if "boundary_ratio" in config else None
    parts = dict(transformer=wan_transformer(), transformer_2=second)
    diffusers.WanPipeline(**wan_parts(), **parts, **config).save_pretrained(folder)
    return folder


def wan_image_folder(folder: Path, encoder: bool) -> Path:
    """Write an image-to-video pipeline: with an image encoder as Wan 2.1, or with two experts as Wan 2.2."""
    parts = wan_parts()
    if encoder:
        torch.manual_seed(2)
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
        parts["image_encoder"] = CLIPVisionModel(vision)
        parts["image_processor"] = CLIPImageProcessor(size=32, crop_size=32)
        parts["transformer"] = wan_transformer(in_channels=18, image_dim=16, added_kv_proj_dim=24)
    else:
        parts |= dict(transformer=wan_transformer(in_channels=18), transformer_2=wan_transformer(1, in_channels=18))
        parts["boundary_ratio"] = 0.9
    diffusers.WanImageToVideoPipeline(**parts).save_pretrained(folder)
    return folder


def cogvideox_image_folder(folder: Path) -> Path:
    torch.manual_seed(4)
    blocks = 4
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * blocks,
        up_block_types=("CogVideoXUpBlock3D",) * blocks,
        block_out_channels=(8,) * blocks,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    config: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=4)
    config |= dict(time_embed_dim=2, text_embed_dim=32, num_layers=2, sample_width=4, sample_height=4, sample_frames=9)
    config |= dict(patch_size=2, max_text_seq_length=16, use_rotary_positional_embeddings=True)
    diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(TINY / "tokenizer"),
        text_encoder=t5(),
        vae=vae,
        transformer=diffusers.CogVideoXTransformer3DModel(**config, use_learned_positional_embeddings=True),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    ).save_pretrained(folder)
    return folder


def t5() -> Any:
    torch.manual_seed(3)
    return T5EncoderModel(T5Config(vocab_size=29, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2))


def ltx_transformer(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config: dict[str, Any] = dict(in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8)
    config |= dict(cross_attention_dim=16, num_layers=2, caption_channels=32)
    return diffusers.LTXVideoTransformer3DModel(**config)


def ltx_folder(folder: Path, pipeline: str = "LTXPipeline") -> Path:
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    getattr(diffusers, pipeline)(
        tokenizer=AutoTokenizer.from_pretrained(TINY / "tokenizer"),
        text_encoder=t5(),
        vae=vae,
        transformer=ltx_transformer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)
    return folder


def ltx_single_file(path: Path, seed: int = 5) -> Any:
    """Write a transformer to one file with the names of Lightricks' code, and return it."""
    names = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}
    transformer = ltx_transformer(seed)
    state: dict[str, Tensor] = {}
    for key, value in transformer.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[f"model.diffusion_model.{key}"] = value.contiguous()
    save_file(state, path)
    return transformer


def lora(transformer: Any, names: tuple[str, ...], seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return random factors `(down, up)` for the linear layers of a transformer whose names have one of these
    endings."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(RANK, layer.in_features, generator=random) * 0.3,
            torch.randn(layer.out_features, RANK, generator=random) * 0.3,
        )
        for name, layer in transformer.named_modules()
        if name.endswith(names)
    }


ATTENTION = tuple(f"{attn}.{name}" for attn in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0"))
ORIGINAL = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}


def peft_lora(path: Path, transformer: Any, seed: int) -> dict[str, Tensor]:
    """Write a LoRA file with diffusers' names, and return its change of each weight at strength 1."""
    factors = lora(transformer, ATTENTION, seed)
    state: dict[str, Tensor] = {}
    for name, (down, up) in factors.items():
        state |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_file(state, path)
    return {f"{name}.weight": up @ down for name, (down, up) in factors.items()}


def original_lora(path: Path, transformer: Any, seed: int, alpha: float = 1.0) -> dict[str, Tensor]:
    """Write a LoRA file with the names and the alpha of Wan's code, as lightx2v's files."""
    factors = lora(transformer, ATTENTION, seed)
    state: dict[str, Tensor] = {}
    for name, (down, up) in factors.items():
        for ours, theirs in ORIGINAL.items():
            name = name.replace(ours, theirs)
        state |= {f"diffusion_model.{name}.lora_down.weight": down, f"diffusion_model.{name}.lora_up.weight": up}
        state[f"diffusion_model.{name}.alpha"] = torch.tensor(alpha)
    save_file(state, path)
    return {f"{name}.weight": alpha / RANK * up @ down for name, (down, up) in factors.items()}
