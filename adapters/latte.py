"""Latte: spatial blocks with text by cross-attention, taking turns with temporal blocks without text."""

from vidguide.adapters._encode_prompt import encoder
from vidguide.transformer.family import Family

FAMILIES = (
    Family(
        name="Latte",
        transformers=("LatteTransformer3DModel",),
        blocks=("transformer_blocks",),
        temporal_blocks="temporal_transformer_blocks",
        extent="spatial",
        # One prompt is cut to its tokens, of several the padding is zeroed; so are negatives.
        encode=encoder(
            "encoder_hidden_states", do_classifier_free_guidance=False, clean_caption=True, max_sequence_length=None
        ),
        cfg="batched",
    ),
)
