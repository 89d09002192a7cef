"""Cosmos 1, 2 and 2.5: full 3D self-attention, and cross-attention to padded text without a mask.

In the unconditional call, Cosmos 1's video-to-world pipeline draws new noise for the conditioning frames, and with
`input_frames_guidance` drops them. Our `CFG` uses the same frames in both branches, so the outputs differ.
"""

from typing import Any

from vidguide.adapters._encode_prompt import embeds_only
from vidguide.transformer.family import Family


def refuse_image_context(transformer: Any) -> str | None:
    """Return the reason why models with image context, whose text input is a pair, are refused; None for others."""
    if getattr(transformer.config, "img_context_dim_in", None):
        return "its text input is a pair of text and image context (Cosmos 2.5 Transfer), which is not supported"
    return None


FAMILIES = (
    Family(
        name="Cosmos",
        transformers=("CosmosTransformer3DModel",),
        blocks=("transformer_blocks",),
        encode=embeds_only,
        grid_axes={"condition_mask": "BCFHW"},
        one_token_inputs={"block_controlnet_hidden_states": None},
        refuse=refuse_image_context,
    ),
)
