"""Allegro: full 3D self-attention, and cross-attention to masked text."""

from typing import Any

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK, encoder
from vidguide.transformer.family import Family, Inputs


def two_tokens(transformer: Any, inputs: Inputs, small: Inputs) -> Inputs:
    """Return inputs with two video tokens, because the blocks squeeze a sequence of one token."""
    height, width = small["hidden_states"].shape[-2:]
    return {
        **small,
        "hidden_states": inputs["hidden_states"][:, :, : transformer.config.patch_size_t, :height, : 2 * width],
    }


FAMILIES = (
    Family(
        name="Allegro",
        transformers=("AllegroTransformer3DModel",),
        blocks=("transformer_blocks",),
        encode=encoder(*EMBEDS_AND_MASK["text_inputs"], clean_caption=True),
        # Text attention has no rotary embedding, so the keys of the text do not depend on the video.
        adjust_one_token=two_tokens,
        one_token_inputs={"attention_mask": None, "image_rotary_emb": None},
        cfg="batched",
        **EMBEDS_AND_MASK,
    ),
)
