"""Tiny random models of every transformer class that has an adapter, and calls as their pipelines make them."""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

Values = dict[str, Any]


def noise(*shape: int, seed: int) -> Tensor:
    """Return random numbers; a row does not depend on the number of rows."""
    rows = [
        torch.randn(shape[1:], generator=torch.Generator().manual_seed(100 * seed + row)) for row in range(shape[0])
    ]
    return torch.stack(rows)


def mask(batch: int, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return masks of valid tokens; each row has one valid token fewer than the row before."""
    return torch.stack([(torch.arange(length) < length - 1 - row).to(dtype) for row in range(batch)])


@dataclass(frozen=True)
class Tiny:
    """A transformer class, a configuration, and its arguments.

    Attributes:
        video: `batch -> arguments` other than the text.
        text: `(batch, length, seed) -> text arguments`.
        length: text length of the negative; 7, the prompt's, if the model requires equal lengths.
        bfloat16: whether the model runs in bfloat16 on a CPU.
        float64: whether the model runs in float64.
        atol: tolerance of comparisons in float32, for models that do not run in float64.
    """

    name: str
    config: Values
    video: Callable[[int], Values]
    text: Callable[[int, int, int], Values]
    length: int = 9
    extra: Values = field(default_factory=dict)
    bfloat16: bool = True
    float64: bool = True
    atol: float = 2e-5

    @property
    def key(self) -> str:
        return self.name.split("/")[0]

    def make(self) -> Any:
        """Return the model. Parameters initialised to zero are randomised, as zero gates would disable blocks."""
        torch.manual_seed(0)
        model = getattr(diffusers, self.key)(**self.config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn_like(parameter))
        return model

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of comparisons, in which rounding does not hide differences."""
        return torch.float64 if self.float64 else torch.float32

    def inputs(self, batch: int) -> Values:
        timestep = {"timestep": torch.full((batch,), 500.0)}
        return {**timestep, **self.video(batch), **self.text(batch, 7, 2), **self.extra, "return_dict": False}

    def negative(self, batch: int = 1) -> Values:
        return self.text(batch, self.length, 5)

    def exact(self, values: Values) -> Values:
        """Return arguments in the dtype of comparisons."""
        return cast(values, self.dtype)

    def assert_equal(self, first: Tensor, second: Tensor) -> None:
        """Assert that two predictions are equal up to rounding; norms and linear attention of many models compute in
        float32 whatever the dtype."""
        assert first.dtype == second.dtype == self.dtype
        torch.testing.assert_close(first, second, atol=1e-6 if self.float64 else self.atol, rtol=0)


def cast(values: Any, dtype: torch.dtype) -> Any:
    """Return arguments with floating-point tensors, also within lists and tuples, in another dtype."""
    if isinstance(values, dict):
        return {name: cast(value, dtype) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(cast(value, dtype) for value in values)
    return values.to(dtype) if isinstance(values, Tensor) and values.dtype.is_floating_point else values


def latents(*shape: int, **more: Callable[[int], Any]) -> Callable[[int], Values]:
    """Return noise `(B, *shape)` as hidden_states, and further arguments by batch."""
    return lambda batch: {
        "hidden_states": noise(batch, *shape, seed=1),
        **{name: make(batch) for name, make in more.items()},
    }


def random(*shape: int, seed: int = 7) -> Callable[[int], Tensor]:
    return lambda batch: noise(batch, *shape, seed=seed)


def embeds(width: int = 16) -> Callable[[int, int, int], Values]:
    return lambda batch, length, seed: {"encoder_hidden_states": noise(batch, length, width, seed=seed)}


def masked(width: int = 16, dtype: torch.dtype = torch.float32, **more: int) -> Callable[[int, int, int], Values]:
    """Return embeddings, their mask, and further embeddings (`pooled_projections=8`) of a width."""
    return lambda batch, length, seed: {
        "encoder_hidden_states": noise(batch, length, width, seed=seed),
        "encoder_attention_mask": mask(batch, length, dtype),
        **{name: noise(batch, size, seed=seed + 1) for name, size in more.items()},
    }


def two_texts(batch: int, length: int, seed: int, width: int = 16) -> Values:
    """Return LTX-2's text for the video and for the audio."""
    return {
        "encoder_hidden_states": noise(batch, length, width, seed=seed),
        "audio_encoder_hidden_states": noise(batch, length, width, seed=seed + 1),
        "encoder_attention_mask": mask(batch, length),
        "audio_encoder_attention_mask": mask(batch, length),
    }


def two_encoders(batch: int, length: int, seed: int) -> Values:
    """Return HunyuanVideo 1.5's texts of two encoders, each with a mask."""
    return {
        "encoder_hidden_states": noise(batch, length, 16, seed=seed),
        "encoder_attention_mask": mask(batch, length),
        "encoder_hidden_states_2": noise(batch, 6, 10, seed=seed + 1),
        "encoder_attention_mask_2": mask(batch, 6),
    }


def kandinsky(batch: int, length: int, seed: int) -> Values:
    return {
        "encoder_hidden_states": noise(batch, length, 16, seed=seed),
        "pooled_projections": noise(batch, 8, seed=seed + 1),
        "text_rope_pos": torch.arange(length),
    }


def fourth_axis(batch: int, length: int, seed: int) -> Values:
    values = masked()(batch, length, seed)
    return {**values, "encoder_hidden_states": values["encoder_hidden_states"].unsqueeze(1)}


def renamed_mask(batch: int, length: int, seed: int) -> Values:
    """Return SANA-WM's text: a fourth axis, and its mask under the name `mask`."""
    values = fourth_axis(batch, length, seed)
    return {"encoder_hidden_states": values["encoder_hidden_states"], "mask": values["encoder_attention_mask"]}


def cameras(frames: int) -> Callable[[int], Tensor]:
    """Return a pose and intrinsics for each frame, with the camera moving to the side."""

    def make(batch: int) -> Tensor:
        poses = torch.eye(4).repeat(batch, frames, 1, 1)
        poses[..., 0, 3] = torch.linspace(0, 1, frames)
        lens = torch.tensor([4.0, 4.0, 3.0, 2.0]).expand(batch, frames, 4)
        return torch.cat([poses.flatten(2), lens], -1)

    return make


HEADS = dict(num_attention_heads=2, attention_head_dim=12)
WAN = dict(**HEADS, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=3)
FACES = {"4": 16, "8": 16, "16": 16}
ANIMATE: Values = dict(motion_encoder_channel_sizes=FACES, motion_encoder_size=16, motion_style_dim=8, motion_dim=4)
ANIMATE |= dict(motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2)
COG = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, num_layers=3)
COG |= dict(text_embed_dim=16, sample_width=8, sample_height=8, sample_frames=9, patch_size=2, max_text_seq_length=7)
HUNYUAN: Values = dict(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_refiner_layers=1
)
HUNYUAN |= dict(patch_size=1, patch_size_t=1, text_embed_dim=16, rope_axes_dim=(2, 4, 4), num_layers=2)
DUAL = dict(num_single_layers=2, pooled_projection_dim=8, guidance_embeds=True)
LTX2 = dict(in_channels=4, out_channels=4, **HEADS, cross_attention_dim=24, audio_in_channels=4, audio_out_channels=4)
LTX2 |= dict(audio_num_attention_heads=2, audio_attention_head_dim=6, audio_cross_attention_dim=12, num_layers=2)
LTX2 |= dict(caption_channels=16, rope_double_precision=False)
MOTIF: Values = dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2)
MOTIF |= dict(num_single_layers=3, patch_size=1, text_embed_dim=16, rope_axes_dim=(4, 6, 6))

H3: Values = dict(num_attention_heads=2, attention_head_dim=14, hidden_size=24, num_layers=3, num_refiner_layers=1)
H3 |= dict(ffn_dim=32, in_channels=4, audio_in_channels=6, text_dim=16, freq_dim=16, time_embed_hidden_dim=24)
H3 |= dict(time_embed_dim=16, rope_freq_dim=2)

WAN_VIDEO = (4, 2, 4, 6)
ROPE = tuple(noise(2 * 4 * 3, 16, seed=3).sin() for _ in range(2))


def packed_call(batch: int, tags: Tensor, keyframes: tuple[str, ...] = (), frames: int = 3) -> Values:
    """Return MiniMax-H3's video of frames of 2 x 3 tokens, its audio, and the rows of both after a text, as its
    pipeline lays them out.

    Args:
        tags: `(L,)`, modality of the text's rows. keyframes: "first", "last".
    """
    from diffusers.modular_pipelines.minimax_h3.before_denoise import (
        MiniMaxH3PrepareLayoutStep,
        MiniMaxH3SetTimestepsStep,
    )

    layout = MiniMaxH3PrepareLayoutStep.build_packed_sequence(tags, frames, 4, 6, 4, (1, 2, 2), 2, 2, 0, keyframes)
    position_ids, token_tags, video_indices, audio_indices, text_indices, conditions, _ = layout
    timestep, timestep_indices = MiniMaxH3SetTimestepsStep.build_row_timesteps(
        video_indices, audio_indices, conditions, 0, len(tags), 0.25, 0.5, 0.999, 1.0
    )
    return {
        "hidden_states": noise(batch, len(video_indices), 16, seed=1),
        "audio_hidden_states": noise(batch, len(audio_indices), 6, seed=7),
        "timestep": torch.cat([timestep, torch.tensor([0.9, 1.0])])[: max(len(timestep), 3)],  # not one for each sample
        "timestep_indices": timestep_indices,
        "token_tags": token_tags,
        "position_ids": position_ids,
        "video_indices": video_indices,
        "audio_indices": audio_indices,
        "text_indices": text_indices,
    }


def far_cache(batch: int) -> dict[int, Values]:
    """Return AnyFlow-FAR's cache of two chunks of 1 and 2 frames, the first of them compressed."""
    sizes = {"full_cache": 2 * 2 * 6, "compressed_cache": 2 * 2}
    return {
        layer: {name: noise(batch, 2, 2, size, 12, seed=20 + layer).transpose(0, 1) for name, size in sizes.items()}
        for layer in range(3)
    }


def module_of(transformer: str) -> Any:
    """Return the module of diffusers that defines a transformer."""
    return sys.modules[getattr(diffusers, transformer).__module__]


def reference_cache(batch: int) -> Any:
    """Return Animate 2's cache of a reference of 2 x 2 x 3 tokens."""
    cache = module_of("WanAnimate2Transformer3DModel").WanAnimate2KVCache(3)
    for seed, layer in enumerate(cache.layer_caches):
        layer.store(*(noise(batch, 12, 2, 16, seed=20 + 2 * seed + part) for part in range(2)))
    return cache


def refiner_cache(batch: int) -> Any:
    """Return the cache of SANA-WM's refiner with a first frame and a previous frame of 4 tokens each."""
    cache = module_of("SanaWMLTX2RefinerTransformer3DModel").SanaWMRefinerKVCache(2)
    for seed, layer in enumerate(cache.layer_caches):
        layer.store_sink(*(noise(batch, 4, 24, seed=20 + 4 * seed + part) for part in range(2)))
        layer.store_history(*(noise(batch, 4, 24, seed=22 + 4 * seed + part) for part in range(2)))
    cache.sink_pe = rotary(4, 8)
    return cache


def without_compilation(create_block_mask: Any) -> Any:
    """Return a `create_block_mask` that computes the mask eagerly; its compilation takes a minute."""
    return lambda *args, **kwargs: create_block_mask(*args, **{**kwargs, "_compile": False})


def rotary(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of random angles for each token."""
    angles = noise(1, tokens, 24, seed=seed)
    return angles.cos(), angles.sin()


def allegro_rope(frames: int, height: int, width: int) -> Any:
    axes = torch.meshgrid(*(torch.arange(size) for size in (frames, height, width)), indexing="ij")
    frequencies = tuple((noise(size, 8, seed=4).cos(),) * 2 for size in (frames, height, width))
    return frequencies, [axis.flatten()[None] for axis in axes]


ALL = [
    Tiny("WanTransformer3DModel", WAN, latents(*WAN_VIDEO), embeds()),
    Tiny(
        "WanTransformer3DModel/image",
        {**WAN, "image_dim": 8, "added_kv_proj_dim": 24},
        latents(*WAN_VIDEO, encoder_hidden_states_image=random(5, 8)),
        lambda batch, length, seed: embeds()(batch, 512, seed),  # the processor assumes this length
    ),
    Tiny(
        "WanVACETransformer3DModel",
        {**WAN, "vace_layers": [0, 2], "vace_in_channels": 6},
        latents(*WAN_VIDEO, control_hidden_states=random(6, 2, 4, 6)),
        embeds(),
    ),
    Tiny(
        "WanAnimateTransformer3DModel",
        {**WAN, "in_channels": 12, "latent_channels": 4, "image_dim": 8, "inject_face_latents_blocks": 3, **ANIMATE},
        latents(12, 3, 4, 6, pose_hidden_states=random(4, 2, 4, 6), face_pixel_values=random(3, 5, 16, 16)),
        embeds(),
    ),
    Tiny(
        "WanAnimate2Transformer3DModel",
        dict(in_dim=12, out_dim=4, dim=32, num_heads=2, num_layers=3, ffn_dim=32, freq_dim=32, text_dim=16, text_len=9),
        latents(
            4,
            3,
            4,
            6,
            condition_latents=random(8, 3, 4, 6),
            encoder_hidden_states_image=random(3, 1280),
            kv_cache=reference_cache,
            reference_grid_sizes=lambda batch: torch.tensor([[2, 2, 3]] * batch),
        ),
        embeds(),
        extra={"kv_cache_mode": "cached", "seq_len": 18, "origin_len": 5, "origin_area": [32, 48]},
        float64=False,  # it returns float32 whatever its dtype
    ),
    Tiny("SkyReelsV2Transformer3DModel", WAN, latents(*WAN_VIDEO), embeds()),
    Tiny(
        "SkyReelsV2Transformer3DModel/forcing",
        WAN,
        latents(*WAN_VIDEO, timestep=lambda batch: torch.tensor([[0, 500]] * batch)),
        embeds(),
        extra={"enable_diffusion_forcing": True},
    ),
    Tiny("ChronoEditTransformer3DModel", WAN, latents(*WAN_VIDEO), embeds()),
    Tiny(
        "AnyFlowTransformer3DModel",
        WAN,
        latents(
            3,
            4,
            4,
            6,
            timestep=lambda batch: torch.full((batch, 3), 500.0),
            r_timestep=lambda batch: torch.full((batch, 3), 250.0),
        ),
        embeds(),
    ),
    Tiny(
        "AnyFlowFARTransformer3DModel",
        {**WAN, "full_chunk_limit": 2},
        latents(
            2,
            4,
            4,
            6,
            timestep=lambda batch: torch.full((batch, 2), 500.0),
            r_timestep=lambda batch: torch.full((batch, 2), 250.0),
            kv_cache=far_cache,
            kv_cache_flag=lambda batch: {"num_cached_chunks": 2, "is_cache_step": False},
        ),
        embeds(),
        extra={"chunk_partition": [1, 2, 2]},
    ),
    Tiny(
        "HeliosTransformer3DModel",
        {**WAN, "rope_dim": (4, 4, 4)},
        latents(
            *WAN_VIDEO,
            indices_hidden_states=lambda batch: torch.arange(3, 5).expand(batch, -1),
            indices_latents_history_short=lambda batch: torch.arange(2, 3).expand(batch, -1),
            latents_history_short=random(4, 1, 4, 6),
        ),
        embeds(),
    ),
    Tiny(
        "LTXVideoTransformer3DModel",
        dict(in_channels=4, out_channels=4, **HEADS, cross_attention_dim=24, num_layers=2, caption_channels=16),
        latents(12, 4),
        masked(),
        extra={"num_frames": 2, "height": 2, "width": 3},
    ),
    Tiny(
        "LTX2VideoTransformer3DModel",
        LTX2,
        latents(12, 4, audio_hidden_states=random(5, 4)),
        two_texts,
        extra={"num_frames": 2, "height": 2, "width": 3, "audio_num_frames": 5},
    ),
    Tiny(
        "LTX2VideoTransformer3DModel/modulated",
        {**LTX2, "cross_attn_mod": True, "audio_cross_attn_mod": True, "gated_attn": True, "audio_gated_attn": True}
        | {"perturbed_attn": True},
        latents(12, 4, audio_hidden_states=random(5, 4), sigma=lambda batch: torch.full((batch,), 500.0)),
        two_texts,
        extra={"num_frames": 2, "height": 2, "width": 3, "audio_num_frames": 5},
    ),
    Tiny(
        "AllegroTransformer3DModel",
        dict(num_attention_heads=2, attention_head_dim=24, num_layers=2, cross_attention_dim=48, caption_channels=16),
        latents(4, 2, 4, 6),
        fourth_axis,
        extra={"image_rotary_emb": allegro_rope(2, 2, 3)},
    ),
    Tiny(
        "LatteTransformer3DModel",
        dict(
            **HEADS,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=24,
            attention_bias=True,
            sample_size=8,
            patch_size=2,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            caption_channels=16,
            video_length=3,
        ),
        latents(4, 3, 8, 8),
        embeds(),
    ),
    Tiny(
        "CosmosTransformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            **HEADS,
            num_layers=2,
            text_embed_dim=16,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            concat_padding_mask=False,  # requires torchvision
        ),
        latents(4, 2, 4, 6),
        embeds(),
        extra={"fps": 30},
        float64=False,  # its norms compute in float32
    ),
    Tiny(
        "SanaVideoTransformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            **HEADS,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=16,
            sample_size=8,
        ),
        latents(4, 2, 4, 6),
        masked(),
    ),
    Tiny(
        "SanaWMTransformer3DModel",
        dict(
            in_channels=4,
            num_layers=2,
            hidden_size=32,
            num_attention_heads=2,
            linear_head_dim=16,
            softmax_every_n=2,
            caption_channels=16,
            chunk_plucker_channels=6,
            chunk_plucker_post_attn_blocks=2,
            image_size=32,
        ),
        latents(
            4,
            2,
            4,
            6,
            timestep=lambda batch: torch.full((batch, 1, 2), 500.0),
            camera_conditions=cameras(2),
            chunk_plucker=random(6, 2, 4, 6),
        ),
        renamed_mask,
        bfloat16=False,  # its camera branch computes in float32 with weights in bfloat16
    ),
    Tiny(
        "SanaWMLTX2RefinerTransformer3DModel",
        LTX2,
        latents(12, 4, timestep=lambda batch: torch.full((batch, 12), 500.0), kv_cache=refiner_cache),
        masked(),
        extra={"video_rotary_emb": rotary(12, 9), "kv_cache_mode": "inject"},
    ),
    Tiny(
        "Kandinsky5Transformer3DModel",
        dict(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=16,
            in_text_dim2=8,
            time_dim=16,
            model_dim=24,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=2,
            axes_dims=(4, 4, 4),
        ),
        latents(2, 4, 6, 4),
        kandinsky,
        extra={"visual_rope_pos": (torch.arange(2), torch.arange(2), torch.arange(3))},
        atol=2e-3,  # its rotary embedding rounds to bfloat16, whatever the model's dtype
        bfloat16=False,  # its time embedding is float32, which requires CUDA's autocast
        float64=False,
    ),
    Tiny(
        "Kandinsky6Transformer3DModel",
        dict(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=16,
            in_text_dim2=8,
            time_dim=16,
            model_dim=24,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=2,
            axes_dims=(4, 4, 4),
            in_audio_dim=4,
            out_audio_dim=4,
            visual_cond=False,
        ),
        latents(2, 4, 6, 4, audio_hidden_states=random(5, 4)),
        masked(dtype=torch.bool, pooled_projections=8),
    ),
    Tiny("CogVideoXTransformer3DModel", COG, latents(3, 4, 8, 8), embeds(), length=7),  # fixed number of text positions
    Tiny(
        "CogVideoXTransformer3DModel/rotary",
        {**COG, "use_rotary_positional_embeddings": True},
        latents(2, 4, 8, 6),
        embeds(),
        extra={"image_rotary_emb": ROPE},
    ),
    Tiny("ConsisIDTransformer3DModel", COG, latents(3, 4, 8, 8), embeds(), length=7),
    Tiny(
        "ConsisIDTransformer3DModel/rotary",
        {**COG, "use_rotary_positional_embeddings": True},
        latents(2, 4, 8, 6),
        embeds(),
        extra={"image_rotary_emb": ROPE},
    ),
    Tiny(
        "HunyuanVideoTransformer3DModel",
        {**HUNYUAN, **DUAL},
        latents(4, 2, 3, 4, guidance=lambda batch: torch.full((batch,), 6000.0)),
        masked(pooled_projections=8),
    ),
    Tiny(
        "HunyuanVideoTransformer3DModel/token_replace",
        {**HUNYUAN, **DUAL, "guidance_embeds": False, "image_condition_type": "token_replace"},
        latents(4, 2, 3, 4),
        masked(pooled_projections=8),
    ),
    Tiny(
        "HunyuanVideoFramepackTransformer3DModel",
        {**HUNYUAN, **DUAL, "has_image_proj": True, "image_proj_dim": 8, "has_clean_x_embedder": True, "patch_size": 2},
        latents(
            4,
            3,
            8,
            8,
            guidance=lambda batch: torch.full((batch,), 6000.0),
            image_embeds=random(4, 8),
            indices_latents=lambda batch: torch.arange(3),
            latents_clean=random(4, 1, 8, 8, seed=8),
            indices_latents_clean=lambda batch: torch.arange(1),
            latents_history_2x=random(4, 4, 8, 8, seed=9),
            indices_latents_history_2x=lambda batch: torch.arange(4),
            latents_history_4x=random(4, 4, 8, 8, seed=10),
            indices_latents_history_4x=lambda batch: torch.arange(4),
        ),
        masked(dtype=torch.int64, pooled_projections=8),
    ),
    Tiny(
        "HunyuanVideo15Transformer3DModel",
        {**HUNYUAN, "text_embed_2_dim": 10, "image_embed_dim": 8, "target_size": 16},
        latents(4, 2, 3, 4, image_embeds=random(4, 8)),
        two_encoders,
    ),
    Tiny(
        "HunyuanVideo15Transformer3DModel/text",
        {**HUNYUAN, "in_channels": 9, "text_embed_2_dim": 10, "image_embed_dim": 8, "target_size": 16},
        latents(9, 2, 3, 4, image_embeds=lambda batch: torch.zeros(batch, 4, 8)),
        two_encoders,
    ),
    Tiny(
        "MochiTransformer3DModel",
        dict(
            patch_size=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=3,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=16,
            time_embed_dim=4,
            max_sequence_length=16,
        ),
        latents(4, 2, 4, 6),
        masked(),
    ),
    Tiny(
        "EasyAnimateTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            num_layers=3,
            mmdit_layers=2,
            time_embed_dim=8,
            text_embed_dim=16,
        ),
        latents(4, 2, 4, 6),
        embeds(),
    ),
    Tiny("MotifVideoTransformer3DModel", MOTIF, latents(4, 2, 3, 4), masked(), float64=False),  # as Kandinsky 5
    Tiny(
        "MotifVideoTransformer3DModel/noisy",
        {**MOTIF, "in_channels": 9},
        latents(9, 2, 3, 4),
        masked(),
        float64=False,
    ),
    Tiny(
        "MotifVideoTransformer3DModel/image",
        {
            **MOTIF,
            "image_embed_dim": 8,
            "num_decoder_layers": 1,
            "enable_text_cross_attention_dual": True,
            "enable_text_cross_attention_single": True,
        },
        latents(4, 2, 3, 4, image_embeds=random(4, 8)),
        masked(),
        float64=False,
    ),
    Tiny(
        "MiniMaxH3Transformer3DModel",
        H3,
        lambda batch: packed_call(batch, torch.ones(7)),
        embeds(),
        length=7,  # a call's rows are laid out for a text of this length; tests/adapters/test_minimax_h3.py has others
    ),
]
TINY = [tiny for tiny in ALL if hasattr(diffusers, tiny.key)]  # older releases of diffusers have fewer classes
if hasattr(diffusers, "WanAnimate2Transformer3DModel"):
    masks = module_of("WanAnimate2Transformer3DModel")
    masks.create_block_mask = without_compilation(masks.create_block_mask)
BY_NAME = {tiny.name: tiny for tiny in TINY}


def row(values: Values, index: int, batch: int, dim: int = 0) -> Values:
    """Return one sample of a batch's arguments; a key-value cache has the batch along its second dimension."""
    return {name: _row(value, index, batch, dim) for name, value in values.items()}


def _row(value: Any, index: int, batch: int, dim: int) -> Any:
    if isinstance(value, dict):
        return row(value, index, batch, 1)
    if hasattr(value, "layer_caches"):
        value = copy.deepcopy(value)
        for layer in value.layer_caches:
            vars(layer).update(row(vars(layer), index, batch))
        return value
    batched = isinstance(value, Tensor) and value.shape[dim : dim + 1] == (batch,)
    return value.narrow(dim, index, 1) if batched else value


def concatenate(first: Values, second: Values, dim: int = 0) -> Values:
    """Concatenate the arguments of two calls of two samples."""
    return {name: _concatenate(first[name], value, dim) for name, value in second.items()}


def _concatenate(first: Any, second: Any, dim: int) -> Any:
    if isinstance(second, dict):
        return concatenate(first, second, 1)
    batched = isinstance(second, Tensor) and second.shape[dim : dim + 1] == (2,)
    return torch.cat([first, second], dim) if batched else second
