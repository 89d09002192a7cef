"""Kandinsky 5 and 6: separate text blocks with self-attention and modulation precede the video blocks."""

from typing import Any

import torch

from vidguide.adapters._encode_prompt import encoder
from vidguide.transformer.family import Audio, Family, Inputs, Prompt, by_step

_encode = encoder("encoder_hidden_states", "pooled_projections", max_sequence_length=None)


def encode(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode prompts, with the positions 0 to L - 1 of the longest prompt's L tokens.

    The pipelines' `encode_prompt` takes texts only; embeddings are used as they are.
    """
    names = {"prompt_embeds_qwen": "encoder_hidden_states", "prompt_embeds_clip": "pooled_projections"}
    text = {names[name]: value for name, value in prompt.items() if name in names}
    text = text or _encode(pipe, prompt, inputs)
    length = text["encoder_hidden_states"].shape[1]
    return {**text, "text_rope_pos": torch.arange(length, device=inputs["text_rope_pos"].device)}


FAMILIES = (
    Family(
        name="Kandinsky 5",
        transformers=("Kandinsky5Transformer3DModel",),
        blocks=("visual_transformer_blocks",),
        block_output=("visual_embed",),
        self_attention="self_attention",
        text_attention=("cross_attention",),
        encode=encode,
        text_inputs=("encoder_hidden_states", "pooled_projections", "text_rope_pos"),
        text_extras=("pooled_projections", "text_rope_pos"),
        text_varies=by_step,
        layout="BFHWC",
        one_token_inputs={"visual_rope_pos": (torch.arange(1),) * 3, "sparse_params": None},
    ),
    Family(
        name="Kandinsky 6",
        transformers=("Kandinsky6Transformer3DModel",),
        blocks=("visual_transformer_blocks",),
        block_output=("vis", "aud"),
        self_attention="video_dec_block.self_attention",
        text_attention=("video_dec_block.cross_attention", "audio_dec_block.cross_attention"),
        audio=Audio(
            text_attention=("audio_dec_block.cross_attention",),
            sample_rate=lambda pipe, output: int(pipe.audio_sample_rate),
        ),
        encode=encoder("encoder_hidden_states", "pooled_projections", "encoder_attention_mask"),
        text_inputs=("encoder_hidden_states", "pooled_projections", "encoder_attention_mask"),
        text_masks={"encoder_attention_mask": "encoder_hidden_states"},
        text_extras=("pooled_projections",),
        text_varies=by_step,
        layout="BFHWC",
        grid_axes={"audio_hidden_states": "BLC", "visual_token_type_ids": "BF"},
        one_token_inputs={"visual_rope_pos": None},
        min_diffusers="0.42",
    ),
)
