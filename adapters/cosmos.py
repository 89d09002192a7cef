"""Cosmos 1, 2 and 2.5: full 3D self-attention, text by cross-attention, padded and not masked.

Cosmos 1's video-to-world draws other noise for the given frames in its unconditional call, and with
`input_frames_guidance` hides them there; our CFG shows both branches the same frames, so the two differ by that.
"""

from typing import Any

from vidguide.adapters._encode_prompt import embeds_only
from vidguide.transformer.family import Family


def refuse(transformer: Any) -> str | None:
    """The models that take a pair of texts in place of one."""
    if getattr(transformer.config, "img_context_dim_in", None):
        return "its text comes paired with image context (Cosmos 2.5 Transfer), which no guidance here takes apart yet"
    return None


FAMILIES = (
    Family(
        name="Cosmos",
        transformers=("CosmosTransformer3DModel",),
        blocks=("transformer_blocks",),
        encode=embeds_only,
        cuts={"condition_mask": "BCFHW"},
        instead={"block_controlnet_hidden_states": None},
        refuse=refuse,
    ),
)
