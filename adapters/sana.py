"""Sana-Video: linear self-attention without a softmax kernel, and softmax cross-attention to masked text."""

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, embeds_and_mask
from vidguide.transformer.family import Family

FAMILIES = (
    Family(
        name="Sana-Video",
        transformers=("SanaVideoTransformer3DModel",),
        blocks=("transformer_blocks",),
        self_softmax=False,
        # Without the instruction that precedes a prompt, as the pipeline encodes its negative prompts.
        encode=embeds_and_mask,
        one_token_inputs={"attention_mask": None, "controlnet_block_samples": None},
        cfg="batched",
        **EMBEDS_AND_MASK,
    ),
)
