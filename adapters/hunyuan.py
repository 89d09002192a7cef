"""HunyuanVideo, Framepack and 1.5: joint attention over [video, text], which a refiner updates at each step.

Blocks modulate the text by a vector: of timestep and pooled text embedding in the first two; in 1.5 of the timestep, so
that it is independent of the text.
"""

import inspect
from typing import Any

from vidguide.adapters._encode_prompt import batch_of, encode_prompt, encoder
from vidguide.transformer.family import Family, Inputs, Joint, Modulation, Prompt, by_step

TEXT = ("encoder_hidden_states", "pooled_projections", "encoder_attention_mask")
MASKS = {"encoder_attention_mask": "encoder_hidden_states"}
TEXT_15 = ("encoder_hidden_states", "encoder_attention_mask", "encoder_hidden_states_2", "encoder_attention_mask_2")
STATE_15 = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")

_encode = encoder(*TEXT)


def encode(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode negative prompts as the pipelines do: image-to-video encodes them together with a black image."""
    if "image" not in inspect.signature(pipe.encode_prompt).parameters:
        return _encode(pipe, prompt, inputs)
    from PIL import Image

    height, width = (size * pipe.vae_scale_factor_spatial for size in inputs["hidden_states"].shape[-2:])
    # The pipeline keeps a half or a quarter of the 576 image tokens, and cuts 4 tokens of the template.
    image_tokens = 576 // (4 if pipe.transformer.config.image_condition_type == "token_replace" else 2)
    length = inputs["encoder_hidden_states"].shape[1] - image_tokens + 4
    values = encode_prompt(pipe, prompt, image=Image.new("RGB", (width, height)), max_sequence_length=length)
    return dict(zip(TEXT, values, strict=True))


def encode_15(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode with both text encoders; the pipeline pads each to a fixed length."""
    return dict(zip(TEXT_15, encode_prompt(pipe, prompt, batch_size=batch_of(prompt)), strict=True))


MODULATION = Modulation(norms=("norm1_context", "norm"), leading="first_frame_num_tokens")
HUNYUAN = (
    ("HunyuanVideo", "HunyuanVideoTransformer3DModel"),
    ("HunyuanVideo Framepack", "HunyuanVideoFramepackTransformer3DModel"),
)
FAMILIES = (
    *(
        Family(
            name=name,
            transformers=(transformer,),
            blocks=("transformer_blocks", "single_transformer_blocks"),
            text_attention=("attn",),
            joint=Joint(block_masks=("attention_mask",), modulation=MODULATION),
            encode=encode,
            text_inputs=TEXT,
            text_masks=MASKS,
            text_extras=("pooled_projections",),
            text_varies=by_step,
            stg_layers={60: (2,)} if name == "HunyuanVideo" else {},
        )
        for name, transformer in HUNYUAN
    ),
    Family(
        name="HunyuanVideo 1.5",
        transformers=("HunyuanVideo15Transformer3DModel",),
        blocks=("transformer_blocks",),
        text_attention=("attn",),
        joint=Joint(block_masks=("attention_mask",)),
        encode=encode_15,
        text_inputs=TEXT_15,
        state_fields=dict(zip(TEXT_15, STATE_15, strict=True)),
        text_masks={TEXT_15[1]: TEXT_15[0], TEXT_15[3]: TEXT_15[2]},
        text_varies=by_step,
    ),
)
