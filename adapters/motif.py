"""Motif Video: joint attention over [video, text], in some models with additional cross-attention to text.

Blocks modulate the text by a vector of the timestep, which is independent of the text.
"""

from typing import Any

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, encoder
from vidguide.transformer.family import Family, Joint


def text_blocks(transformer: Any) -> int:
    """Return the number of blocks with text. The last ones, the decoder, attend to video features instead."""
    single = len(transformer.single_transformer_blocks) - transformer.num_decoder_layers
    return len(transformer.transformer_blocks) + single


FAMILIES = (
    Family(
        name="Motif Video",
        transformers=("MotifVideoTransformer3DModel",),
        blocks=("transformer_blocks", "single_transformer_blocks"),
        text_attention=("attn",),
        joint=Joint(block_masks=("attention_mask",), text_blocks=text_blocks, split_attention=("cross_attn",)),
        encode=encoder("encoder_hidden_states", None, "encoder_attention_mask"),
        **EMBEDS_AND_MASK,
        min_diffusers="0.39",
    ),
)
