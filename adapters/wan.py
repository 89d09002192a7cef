"""Wan 2.1 and 2.2, and models based on them: full 3D self-attention, and cross-attention to text without a mask."""

from typing import Any

from vidguide.adapters._encode_prompt import embeds_only
from vidguide.transformer.family import Family, Inputs


def two_frames(transformer: Any, inputs: Inputs, small: Inputs) -> Inputs:
    """Return inputs with two frames: Animate adds poses to all frames except the first, the reference."""
    height, width = small["hidden_states"].shape[-2:]
    return {**small, "hidden_states": inputs["hidden_states"][:, :, :2, :height, :width]}


def blank_face(inputs: Inputs, text: Inputs) -> Inputs:
    """Return inputs with another text and a black face (-1), as Animate's pipeline does in the unconditional branch."""
    face = inputs.get("face_pixel_values")
    black = {} if face is None else {"face_pixel_values": face * 0 - 1}
    return {**inputs, **text, **black}


STATE_FIELDS = {"encoder_hidden_states": "prompt_embeds"}


def denoises_chunk(inputs: Inputs) -> bool:
    """Return whether a call of AnyFlow-FAR denoises a chunk, and does not write the cache of the previous ones."""
    flag = inputs.get("kv_cache_flag") if inputs.get("kv_cache") is not None else None
    return not (flag or {}).get("is_cache_step", False)


def denoises_segment(inputs: Inputs) -> bool:
    """Return whether a call of Animate 2 denoises under the prompt: not on the reference, whose cache others read."""
    return inputs["kv_cache_mode"] == "cached" and not inputs.get("is_uncondtion", False)


def new_reference(transformer: Any, inputs: Inputs, small: Inputs) -> Inputs:
    """Return inputs of a call of Animate 2 on one token of a reference, which writes a cache that no other reads."""
    cache = type(inputs["kv_cache"])(len(transformer.blocks))
    grid = {"seq_len": 1, "offset_grid_sizes": inputs["reference_grid_sizes"]}
    return {**small, **grid, "kv_cache": cache, "kv_cache_mode": "extract"}


FAMILIES = (
    Family(name="Wan", transformers=("WanTransformer3DModel",), encode=embeds_only, state_fields=STATE_FIELDS),
    Family(
        name="Wan VACE",
        transformers=("WanVACETransformer3DModel",),
        side_blocks=("vace_blocks",),
        encode=embeds_only,
        state_fields=STATE_FIELDS,
        grid_axes={"control_hidden_states": "BCFHW"},
    ),
    Family(
        name="Wan Animate",
        transformers=("WanAnimateTransformer3DModel",),
        encode=embeds_only,
        grid_axes={"pose_hidden_states": "BCFHW", "face_pixel_values": "BCF"},
        adjust_one_token=two_frames,
        uncond=blank_face,
    ),
    Family(
        name="Wan Animate 2",
        transformers=("WanAnimate2Transformer3DModel",),
        state_fields=STATE_FIELDS,
        self_attention="self_attn",
        text_attention=("cross_attn",),
        text_kernel=0,
        lists=("hidden_states", "encoder_hidden_states", "condition_latents"),
        grid_axes={"condition_latents": "BCFHW"},
        adjust_one_token=new_reference,
        reads_cache=denoises_segment,
        min_diffusers="0.40",
    ),
    Family(name="SkyReels-V2", transformers=("SkyReelsV2Transformer3DModel",), encode=embeds_only),
    Family(name="ChronoEdit", transformers=("ChronoEditTransformer3DModel",), encode=embeds_only),
    Family(
        name="AnyFlow",
        transformers=("AnyFlowTransformer3DModel",),
        encode=embeds_only,
        layout="BFCHW",
        grid_axes={"r_timestep": "BL"},
        cfg="batched",
        appends_negative=True,
        min_diffusers="0.39",
    ),
    Family(
        name="AnyFlow-FAR",
        transformers=("AnyFlowFARTransformer3DModel",),
        encode=embeds_only,
        layout="BFCHW",
        grid_axes={"r_timestep": "BL"},
        # A token without previous chunks, by the forward of training, which has no cache.
        one_token_inputs={"kv_cache": None, "kv_cache_flag": None, "attention_mask": None, "chunk_partition": [1]},
        cfg="batched",
        reads_cache=denoises_chunk,
        appends_negative=True,
        min_diffusers="0.39",
    ),
    Family(
        name="Helios",
        transformers=("HeliosTransformer3DModel",),
        encode=embeds_only,
        state_fields=STATE_FIELDS,
        grid_axes={"indices_hidden_states": "BL"},
        # Without history: text attention is per token, or has queries of the current frames only.
        one_token_inputs={f"latents_history_{span}": None for span in ("short", "mid", "long")},
        min_diffusers="0.37",
    ),
)
