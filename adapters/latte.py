"""Latte: spatial blocks with cross-attention to text, alternating with temporal blocks without text."""

from typing import Any

from vidguide.adapters._encode_prompt import encoder
from vidguide.transformer.family import Family, Inputs, Prompt

_encode = encoder("encoder_hidden_states", clean_caption=True)


def encode(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode prompts; embeddings are used as they are, since `encode_prompt` takes them only in pairs.

    A single prompt is trimmed to its tokens; for several, the padding is zeroed. Likewise for negatives.
    """
    embeds = prompt.get("prompt_embeds")
    return _encode(pipe, prompt, inputs) if embeds is None else {"encoder_hidden_states": embeds}


FAMILIES = (
    Family(
        name="Latte",
        transformers=("LatteTransformer3DModel",),
        blocks=("transformer_blocks",),
        temporal_blocks="temporal_transformer_blocks",
        extent="spatial",
        encode=encode,
        cfg="batched",
    ),
)
