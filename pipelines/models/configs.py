"""Configurations of the weights that presets name, so that they can be planned without a download.

Transformers and VAEs are those that diffusers writes when it converts the authors' checkpoints: `scripts/
convert_wan_to_diffusers.py` and `convert_anyflow_to_diffusers.py` of huggingface/diffusers at
58eb52c0803ea9af3abec60841c2a093bdf1f951; what they leave out is the default of the class. The text encoder is UMT5-XXL
and the image encoder CLIP ViT-H/14, with the sizes in `wan/modules/t5.py` and `clip.py` of Wan-Video/Wan2.1.
"""

from typing import Any

Config = dict[str, Any]
# A pipeline's index, as in `model_index.json`, and the configuration of each component.
Configs = tuple[Config, dict[str, Config]]

UMT5_XXL: Config = dict(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
CLIP_VIT_H: Config = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    projection_dim=1024,
    patch_size=14,
    image_size=224,
    hidden_act="gelu",
)
SIZE_14B: Config = dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)  # 14B
SIZE_1_3B: Config = dict(num_attention_heads=12, ffn_dim=8960, num_layers=30)  # 1.3B
SIZE_5B: Config = dict(num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48)  # 5B
WITH_IMAGE: Config = dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
# Without the statistics of the latents, which change no size; their number must be that of the channels.
VAE_2_2: Config = dict(
    base_dim=160,
    z_dim=48,
    is_residual=True,
    in_channels=12,
    out_channels=12,
    decoder_base_dim=256,
    scale_factor_temporal=4,
    scale_factor_spatial=16,
    patch_size=2,
    latents_mean=[0.0] * 48,
    latents_std=[1.0] * 48,
)


def wan(transformer: Config, kind: str = "WanTransformer3DModel", **changes: Any) -> Configs:
    """Return the configurations of a pipeline of the Wan family.

    Args:
        transformer: of its transformer, and of the second expert where there is one.
        kind: class of the transformer.
        changes: to the index.
    """
    index: Config = {
        "_class_name": "WanPipeline",
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "transformer": ["diffusers", kind],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        **changes,
    }
    configs = {"text_encoder": UMT5_XXL, "transformer": transformer, "vae": {}}
    if "transformer_2" in index:
        configs["transformer_2"] = transformer
    if "image_encoder" in index:
        configs["image_encoder"] = CLIP_VIT_H
    return index, configs


EXPERT: Config = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
IMAGE: Config = {
    "_class_name": "WanImageToVideoPipeline",
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}
TI2V_5B: Configs = wan(SIZE_5B, expand_timesteps=True)
ANYFLOW: Config = {
    "_class_name": "AnyFlowPipeline",
    "kind": "AnyFlowTransformer3DModel",
    "scheduler": ["diffusers", "FlowMapEulerDiscreteScheduler"],
}
CONFIGS: dict[str, Configs] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": wan(SIZE_1_3B),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": wan(SIZE_14B),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": wan({**SIZE_14B, **WITH_IMAGE}, **IMAGE),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": wan(SIZE_14B, **EXPERT, boundary_ratio=0.875),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": wan(
        {**SIZE_14B, "in_channels": 36}, **EXPERT, _class_name="WanImageToVideoPipeline", boundary_ratio=0.9
    ),
    # FastVideo's distillation of Wan 2.2 TI2V 5B, whose architecture it leaves.
    "FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers": (TI2V_5B[0], {**TI2V_5B[1], "vae": VAE_2_2}),
    "nvidia/AnyFlow-Wan2.1-T2V-1.3B-Diffusers": wan(SIZE_1_3B, **ANYFLOW),
    "nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers": wan(SIZE_14B, **ANYFLOW),
}
