"""Mochi: joint attention over [video, text], one kernel call per sample on its valid text tokens.

The text that enters the blocks is the same at every step; they modulate it by a vector of timestep and pooled caption.
"""

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, embeds_and_mask
from vidguide.transformer.family import Family, Joint, Modulation, by_step

MODULATION = Modulation(norms=("norm1_context",), parameters=("emb", "conditioning_embedding"))

FAMILIES = (
    Family(
        name="Mochi",
        transformers=("MochiTransformer3DModel",),
        blocks=("transformer_blocks",),
        text_attention=("attn1",),
        joint=Joint(block_masks=("encoder_attention_mask",), per_sample=True, modulation=MODULATION),
        encode=embeds_and_mask,
        cfg="batched",
        stg_layers={48: (34,)},
        text_varies=by_step,
        **EMBEDS_AND_MASK,
    ),
)
