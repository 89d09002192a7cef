"""LTX-Video and LTX-2: packed tokens, and cross-attention to masked text; LTX-2 has a second text input for audio."""

from typing import Any

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, embeds_and_mask, encode_prompt
from vidguide.transformer.family import Audio, Family, Inputs, Prompt

ONE_TOKEN = dict.fromkeys(("num_frames", "height", "width", "audio_num_frames"), 1)
COORDS = {"video_coords": "BCL", "audio_coords": "BCL"}  # in some pipelines in place of the grid


def encode(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode prompts, then apply the connectors, which return one text for the video and one for the audio."""
    length = inputs[LTX2_TEXT[0]].shape[-2]  # unchanged by the connectors
    embeds, mask, *_ = encode_prompt(pipe, prompt, max_sequence_length=length)
    padding_side = getattr(getattr(pipe, "tokenizer", None), "padding_side", "left")
    video, audio, mask = pipe.connectors(embeds, mask, padding_side=padding_side)
    return dict(zip(LTX2_TEXT, (video, audio, mask, mask), strict=True))


def modulates_text(config: Any) -> bool:
    """Return whether every block modulates the text by the noise level, as since LTX-2.3."""
    return bool(getattr(config, "cross_attn_mod", False) or getattr(config, "audio_cross_attn_mod", False))


def vocoder_rate(pipe: Any, output: Any) -> int:
    """Return the rate of the vocoder's waveform; `pipe.audio_sampling_rate` is that of the audio VAE."""
    return int(pipe.vocoder.config.output_sampling_rate)


LTX2_TEXT = (
    "encoder_hidden_states",
    "audio_encoder_hidden_states",
    "encoder_attention_mask",
    "audio_encoder_attention_mask",
)
STATE_FIELDS = dict(
    zip(
        LTX2_TEXT,
        ("connector_prompt_embeds", "connector_audio_prompt_embeds", *["connector_attention_mask"] * 2),
        strict=True,
    )
)

FAMILIES = (
    Family(
        name="LTX-Video",
        transformers=("LTXVideoTransformer3DModel",),
        blocks=("transformer_blocks",),
        encode=embeds_and_mask,
        layout="BLC",
        grid_axes=COORDS,
        one_token_inputs=ONE_TOKEN,
        cfg="batched",
        stg_layers={28: (19,)},
        state_fields={
            "encoder_hidden_states": "prompt_embeds",
            "encoder_attention_mask": "prompt_attention_mask",
        },
        **EMBEDS_AND_MASK,
    ),
    Family(
        name="LTX-2",
        transformers=("LTX2VideoTransformer3DModel",),
        blocks=("transformer_blocks",),
        block_output=("hidden_states", "audio_hidden_states"),
        text_attention=("attn2", "audio_attn2"),
        audio=Audio(text_attention=("audio_attn2",), sample_rate=vocoder_rate),
        encode=encode,
        text_inputs=LTX2_TEXT,
        text_masks={LTX2_TEXT[2]: LTX2_TEXT[0], LTX2_TEXT[3]: LTX2_TEXT[1]},
        state_fields=STATE_FIELDS,
        text_varies=modulates_text,
        layout="BLC",
        grid_axes={"audio_hidden_states": "BLC", "audio_timestep": "BL", "video_keyframes_mask": "BLC", **COORDS},
        one_token_inputs={**ONE_TOKEN, "video_self_attention_mask": None},
        cfg="batched",
        min_diffusers="0.37",
    ),
)
