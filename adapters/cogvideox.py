"""CogVideoX and ConsisID: joint attention over [text, video] without a mask.

Blocks modulate the text by a vector of the timestep (in CogVideoX 1.5 also of `ofs`), which is independent of the text.
"""

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
        stg_layers={} if name == "ConsisID" else {30: (11,), 42: (11,)},
    )
    for name, transformer in (("CogVideoX", "CogVideoXTransformer3DModel"), ("ConsisID", "ConsisIDTransformer3DModel"))
)
