"""Mochi: joint attention over [video, text], one kernel call per sample on its valid text tokens."""

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, embeds_and_mask
from vidguide.transformer.family import Family, Joint

FAMILIES = (
    Family(
        name="Mochi",
        transformers=("MochiTransformer3DModel",),
        blocks=("transformer_blocks",),
        text_attention=("attn1",),
        joint=Joint(block_masks=("encoder_attention_mask",), ragged=True),
        encode=embeds_and_mask,
        cfg="batched",
        **EMBEDS_AND_MASK,
    ),
)
