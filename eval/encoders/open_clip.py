"""Convert checkpoints in the layout of open_clip, in which HPS v2 is published, to a CLIPModel of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD_WIDTH = {"vision": 80, "text": 64}  # of ViT-H/14, which HPS v2 was fine-tuned from
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
VISION = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}


def load_clip_model(file: Path, head_width: Mapping[str, int] | None = None) -> Any:
    """Load a checkpoint into a CLIPModel whose sizes are inferred from the tensors.

    Args:
        file: a state dict, or a dict with the key `state_dict`; loaded without executing code from it.
        head_width: width of the attention heads of "vision" and "text", which the tensors do not determine; None for
            that of HPS v2.

    Raises:
        ValueError: the file is not a checkpoint in the layout of open_clip.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    stored = torch.load(file, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): tensor for name, tensor in stored.get("state_dict", stored).items()}
    missing = [name for name in (*VISION, *TEXT, "visual.proj", "text_projection") if name not in state]
    if missing:
        raise ValueError(f"checkpoint={str(file)!r}: lacks {missing[0]}; must have the layout of open_clip")
    model: Any = CLIPModel(CLIPConfig(**infer_config(state, head_width or HEAD_WIDTH)))
    buffers = {name: value for name, value in model.state_dict().items() if name.endswith("position_ids")}
    model.load_state_dict({**convert_state(state), **buffers})
    return model.eval()


def infer_config(state: Mapping[str, Any], head_width: Mapping[str, int]) -> dict[str, Any]:
    """Return the arguments of CLIPConfig that the tensors imply; the activation is the exact GELU."""
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    words, text_width = state["token_embedding.weight"].shape
    vision = infer_transformer(state, "visual.transformer", width, head_width["vision"])
    text = infer_transformer(state, "transformer", text_width, head_width["text"])
    special_tokens = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 0}
    length = len(state["positional_embedding"])
    return {
        "vision_config": {**vision, "patch_size": patch, "image_size": patch * grid},
        "text_config": {**text, "vocab_size": words, "max_position_embeddings": length, **special_tokens},
        "projection_dim": state["text_projection"].shape[1],
    }


def infer_transformer(state: Mapping[str, Any], prefix: str, width: int, head_width: int) -> dict[str, Any]:
    """Return the sizes of one transformer."""
    layers = len([name for name in state if name.startswith(f"{prefix}.resblocks.") and name.endswith("ln_1.weight")])
    return {
        "hidden_size": width,
        "intermediate_size": len(state[f"{prefix}.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": layers,
        "hidden_act": "gelu",
        "num_attention_heads": width // head_width,
    }


def convert_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors under the names of transformers, with fused projections split."""
    converted = {new: state[old] for old, new in {**VISION, **TEXT}.items()}
    converted["visual_projection.weight"] = state["visual.proj"].T
    converted["text_projection.weight"] = state["text_projection"].T
    for name, tensor in state.items():
        if ".resblocks." in name:
            converted.update(convert_block_tensor(name, tensor))
    return converted


def convert_block_tensor(name: str, tensor: Any) -> dict[str, Any]:
    """Return one tensor of a transformer block under its name in transformers; three for a fused projection."""
    tower, _, rest = name.partition("resblocks.")
    number, _, part = rest.partition(".")
    layer = f"{'vision' if tower.startswith('visual') else 'text'}_model.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        thirds = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{layer}.self_attn.{letter}_proj.{kind}": third for letter, third in thirds}
    module, _, kind = part.rpartition(".")
    return {f"{layer}.{BLOCK[module]}.{kind}": tensor}
