"""Sana-Video: linear self-attention without a softmax kernel, masked text by softmax cross-attention."""

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, embeds_and_mask
from vidguide.transformer.family import Family

FAMILIES = (
    Family(
        name="Sana-Video",
        transformers=("SanaVideoTransformer3DModel",),
        blocks=("transformer_blocks",),
        self_softmax=False,
        # Without the instruction that goes before a prompt: the pipeline gives its own negatives none either.
        encode=embeds_and_mask,
        instead={"attention_mask": None, "controlnet_block_samples": None},
        cfg="batched",
        **EMBEDS_AND_MASK,
    ),
)
