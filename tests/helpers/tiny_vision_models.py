"""Tiny CLIP, X-CLIP and DINO models with random weights, and their processors."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
} | {
    "vocab_size": 16,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
} | {
    "image_size": 32,
    "patch_size": 8,
}


def save_processors(folder: Path) -> None:
    """Save a tokenizer of ten words with start and end tokens, and CLIP's image processor at 32 pixels."""
    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    marks: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    size: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)


def make_clip() -> torch.nn.Module:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    return transformers.CLIPModel(config)


def make_xclip() -> torch.nn.Module:
    vision = {**VISION, "num_frames": 4, "mit_hidden_size": 8, "mit_intermediate_size": 8, "mit_num_attention_heads": 2}
    settings: dict[str, Any] = {"projection_dim": 8, "prompt_layers": 1, "prompt_num_attention_heads": 2}
    return transformers.XCLIPModel(transformers.XCLIPConfig(text_config=TEXT, vision_config=vision, **settings))


def make_dino() -> torch.nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=False)
