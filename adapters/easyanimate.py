"""EasyAnimate: joint attention over [text, video]; its pipelines compute a text mask and do not use it.

Blocks modulate the text by a vector of the timestep, which is independent of the text.
"""

from vidguide.adapters._encode_prompt import embeds_only
from vidguide.transformer.family import Family, Joint

FAMILIES = (
    Family(
        name="EasyAnimate",
        transformers=("EasyAnimateTransformer3DModel",),
        blocks=("transformer_blocks",),
        text_attention=("attn1",),
        joint=Joint(text_first=True),
        encode=embeds_only,
        cfg="batched",
    ),
)
