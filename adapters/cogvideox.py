"""CogVideoX and ConsisID: joint attention over [text, video] without a mask."""

from vidguide.adapters._encode_prompt import embeds_only
from vidguide.transformer.family import Family, Joint

FAMILIES = tuple(
    Family(
        name=name,
        transformers=(transformer,),
        blocks=("transformer_blocks",),
        text_attention=("attn1",),
        joint=Joint(text_first=True),
        encode=embeds_only,
        layout="BFCHW",
        cfg="batched",
    )
    for name, transformer in (("CogVideoX", "CogVideoXTransformer3DModel"), ("ConsisID", "ConsisIDTransformer3DModel"))
)
