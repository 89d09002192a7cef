"""Tiny video networks and a vision-language model with random weights, saved as users have them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from tests.helpers.tiny_encoders import LLM, VISION_TOWER
from vidguide.eval.encoders.visual_question import QUESTION

SIZES: dict[str, Any] = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
CHAT = "{% for m in messages %}USER : {% for part in m['content'] %}"
CHAT += "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
CHAT += "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"


class Scripted(torch.nn.Module):
    """A network with the arguments of the published I3D: features of 5 channels, or their softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 5, (3, 8, 8), stride=(1, 8, 8))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if rescale or resize:
            raise RuntimeError("preprocessed already")
        features = torch.tanh(self.conv(x)).mean(dim=[2, 3, 4])
        return features if return_features else features.softmax(1)


class Plain(torch.nn.Module):
    """A network without options; `shape` is that of its output."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean() * torch.ones(self.shape)


def save_scripted(module: torch.nn.Module, path: Path) -> Path:
    """Save a module as TorchScript."""
    torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def save_processor(folder: Path) -> None:
    """Save the processor of a video network."""
    size: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.VideoMAEImageProcessor(**size, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)


def save_videomae(folder: Path) -> Path:
    """Save a VideoMAE of 4 frames of 32 pixels, as published: with the head of its pretraining."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(image_size=32, patch_size=16, num_frames=4, intermediate_size=32)
    decoder: dict[str, Any] = dict(
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16
    )
    config = transformers.VideoMAEConfig(**SIZES, **sizes, **decoder)
    transformers.VideoMAEForPreTraining(config).save_pretrained(folder)
    save_processor(folder)
    return folder


def save_vjepa2(folder: Path, pooler: bool) -> Path:
    """Save a V-JEPA 2 of 4 frames of 32 pixels, with or without its classifier and attentive pooler."""
    torch.manual_seed(1)
    predictor: dict[str, Any] = dict(
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1, num_pooler_layers=1, num_labels=3
    )
    config = transformers.VJEPA2Config(**SIZES, **predictor, crop_size=32, frames_per_clip=4)
    model = transformers.VJEPA2ForVideoClassification if pooler else transformers.VJEPA2Model
    network: Any = model(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    network.save_pretrained(folder)
    save_processor(folder)
    (folder / "preprocessor_config.json").rename(folder / "video_preprocessor_config.json")
    return folder


def vqa_tokenizer(answers: str = "Yes No") -> Any:
    """Return a word-level tokenizer of the question and the answers."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL)
    words.train_from_iterator([f"{QUESTION} USER ASSISTANT : a b c d {answers}"], trainer)
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names: dict[str, Any] = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=False))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names, additional_special_tokens=["<image>"])


def save_llava(folder: Path, chat: str | None = CHAT, answers: str = "Yes No") -> Path:
    """Save a LLaVA of 28 pixels with its processor."""
    torch.manual_seed(2)
    words = vqa_tokenizer(answers)
    image: dict[str, Any] = {"image_token_index": words.convert_tokens_to_ids("<image>"), "pad_token_id": 0}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION_TOWER),
        text_config=transformers.LlamaConfig(**{**LLM, "vocab_size": len(words)}),
        **image,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    size: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(**size),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat,
    ).save_pretrained(folder)
    return folder
