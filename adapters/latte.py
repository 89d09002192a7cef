"""Latte: spatial blocks with cross-attention to text, alternating with temporal blocks without text."""

from vidguide.adapters._encode_prompt import encoder
from vidguide.transformer.family import Family

FAMILIES = (
    Family(
        name="Latte",
        transformers=("LatteTransformer3DModel",),
        blocks=("transformer_blocks",),
        temporal_blocks="temporal_transformer_blocks",
        extent="spatial",
        # A single prompt is trimmed to its tokens; for several, the padding is zeroed. Likewise for negatives.
        encode=encoder("encoder_hidden_states", clean_caption=True),
        cfg="batched",
    ),
)
