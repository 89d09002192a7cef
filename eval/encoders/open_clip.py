"""Checkpoints in the layout of open_clip as a CLIPModel of transformers: that is how HPS v2 is published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD_WIDTH = {"vision": 80, "text": 64}  # of ViT-H/14, which HPS v2 was tuned from
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


def clip_model(file: Path, head_width: Mapping[str, int] | None = None) -> Any:
    """The CLIPModel with the weights of a checkpoint, whose sizes are read off its tensors.

    Args:
        file: a state dict, or an object that holds it as `state_dict`; loaded without running code from it.
        head_width: of the attention heads, which no tensor tells; None for HPS v2's.

    Raises:
        ValueError: it is no checkpoint of that layout.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    stored = torch.load(file, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): tensor for name, tensor in stored.get("state_dict", stored).items()}
    missing = [name for name in (*VISION, *TEXT, "visual.proj", "text_projection") if name not in state]
    if missing:
        raise ValueError(f"checkpoint={str(file)!r}: lacks {missing[0]}; it must be in the layout of open_clip")
    model: Any = CLIPModel(CLIPConfig(**sizes(state, head_width or HEAD_WIDTH)))
    buffers = {name: value for name, value in model.state_dict().items() if name.endswith("position_ids")}
    model.load_state_dict({**renamed(state), **buffers})
    return model.eval()


def sizes(state: Mapping[str, Any], head_width: Mapping[str, int]) -> dict[str, Any]:
    """The configuration that the tensors imply; the activation is the exact GELU."""
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    words, text_width = state["token_embedding.weight"].shape
    vision = tower(state, "visual.transformer", width, head_width["vision"])
    text = tower(state, "transformer", text_width, head_width["text"])
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 0}
    length = len(state["positional_embedding"])
    return {
        "vision_config": {**vision, "patch_size": patch, "image_size": patch * grid},
        "text_config": {**text, "vocab_size": words, "max_position_embeddings": length, **ends},
        "projection_dim": state["text_projection"].shape[1],
    }


def tower(state: Mapping[str, Any], prefix: str, width: int, head_width: int) -> dict[str, Any]:
    """The sizes of one transformer."""
    layers = len([name for name in state if name.startswith(f"{prefix}.resblocks.") and name.endswith("ln_1.weight")])
    inner = len(state[f"{prefix}.resblocks.0.mlp.c_fc.weight"])
    told = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "hidden_act": "gelu"}
    return {**told, "num_attention_heads": width // head_width}


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors under the names that transformers gives them, fused projections taken apart."""
    done = {new: state[old] for old, new in {**VISION, **TEXT}.items()}
    done["visual_projection.weight"] = state["visual.proj"].T
    done["text_projection.weight"] = state["text_projection"].T
    for name, tensor in state.items():
        if ".resblocks." in name or name.startswith("transformer.resblocks."):
            done.update(block(name, tensor))
    return done


def block(name: str, tensor: Any) -> dict[str, Any]:
    """One tensor of a transformer block."""
    tower, _, rest = name.partition("resblocks.")
    number, _, part = rest.partition(".")
    home = f"{'vision' if tower.startswith('visual') else 'text'}_model.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        return {f"{home}.self_attn.{one}_proj.{kind}": third for one, third in zip("qkv", tensor.chunk(3), strict=True)}
    whole, _, kind = part.rpartition(".")
    return {f"{home}.{BLOCK[whole]}.{kind}": tensor}
