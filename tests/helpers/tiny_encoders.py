"""Tiny random text encoders of the kinds that pipelines use, with tokenizers."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

PROMPT, OTHER = 'a red circle that says "go" and moves left', "blue"
WORDS = f"{PROMPT} {OTHER} system user assistant Describe the video by detailing following aspects . , : < | > _"
CHAT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}{% if m['content'] is string %}{{ m['content'] }}"
CHAT += "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ '<|im_end|> ' }}"
CHAT += "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
LLM: dict[str, Any] = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2
)
LLM |= dict(vocab_size=64, max_position_embeddings=2048, pad_token_id=0, bos_token_id=2, eos_token_id=3)
VISION: dict[str, Any] = dict(hidden_size=16, intermediate_size=16)  # a vision tower that texts do not use
VISION_TOWER: dict[str, Any] = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
VISION_TOWER |= dict(image_size=28, patch_size=14)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def tokenizer(**settings: Any) -> Any:
    """Return a word-level tokenizer of WORDS with an end token after each text; other words are unknown."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    words.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=special))
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=True))
    settings |= {**names, "chat_template": CHAT, "model_input_names": ["input_ids", "attention_mask"]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **settings)


def header_tokenizer() -> Any:
    """Return a tokenizer with Llama 3's header tokens and a start token.

    HunyuanVideo's image-to-video pipeline cuts the text at the headers; older releases look for Llama's empty line, id
    271.
    """
    headers = tokenizer()
    special = ["<image>", "<|start_header_id|>", "<|end_header_id|>"]
    special += [f"<{number}>" for number in range(271 - len(headers) - len(special))]
    headers.add_special_tokens({"additional_special_tokens": [*special, "\n\n"]})
    headers.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", headers.bos_token_id)]
    )
    return headers


class TextsOnly:
    """Processor for texts and images that is called without images."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer(padding_side="right")

    def __call__(self, text: list[str], images: None = None, videos: None = None, **settings: Any) -> Any:
        return self.tokenizer(text, **settings)


def make_model(model: Callable[[Any], Any], config: Any) -> Any:
    torch.manual_seed(0)
    return model(config).eval().requires_grad_(False)


def clip() -> Any:
    sizes: dict[str, Any] = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.CLIPTextConfig(**sizes, vocab_size=64, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    return make_model(transformers.CLIPTextModel, config)


def qwen(name: str) -> Any:
    """Return Qwen2-VL or Qwen2.5-VL with its vision tower, which texts do not use."""
    config = getattr(transformers, f"{name}Config")(
        text_config={**LLM, "rope_parameters": ROPE, "rope_scaling": ROPE},
        vision_config=dict(
            depth=1, hidden_size=16, embed_dim=16, num_heads=2, intermediate_size=16, out_hidden_size=16
        ),
    )
    return make_model(getattr(transformers, f"{name}ForConditionalGeneration"), config)


def t5(tokens: int = 400) -> Any:
    sizes: dict[str, Any] = dict(d_model=10, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=tokens)
    return make_model(transformers.T5EncoderModel, transformers.T5Config(**sizes))


def llama_and_clip() -> dict[str, Any]:
    llama = make_model(transformers.LlamaModel, transformers.LlamaConfig(**LLM))
    return {"text_encoder": llama, "tokenizer": tokenizer(), "text_encoder_2": clip(), "tokenizer_2": tokenizer()}


def llava_and_clip() -> dict[str, Any]:
    """Return encoders with a vision tower of as many patches as HunyuanVideo's template has image tokens."""
    words, patches = header_tokenizer(), 24
    tower = transformers.CLIPVisionConfig(**{**VISION_TOWER, "image_size": 2 * patches, "patch_size": 2})
    words_config = transformers.LlamaConfig(**{**LLM, "vocab_size": len(words)})
    image: dict[str, Any] = {"image_token_index": words.convert_tokens_to_ids("<image>"), "pad_token_id": 0}
    config = transformers.LlavaConfig(vision_config=tower, text_config=words_config, **image)
    size: dict[str, Any] = {
        "size": {"shortest_edge": 2 * patches},
        "crop_size": {"height": 2 * patches, "width": 2 * patches},
    }
    return {
        **llama_and_clip(),
        "text_encoder": make_model(transformers.LlavaForConditionalGeneration, config),
        "tokenizer": words,
        "image_processor": transformers.CLIPImageProcessor(**size),
    }


def qwen_and_byt5() -> dict[str, Any]:
    config = transformers.Qwen2_5_VLConfig(text_config={**LLM, "rope_parameters": ROPE, "rope_scaling": ROPE})
    text = make_model(transformers.Qwen2_5_VLTextModel, config.text_config)
    glyphs = transformers.ByT5Tokenizer()
    return {"text_encoder": text, "tokenizer": tokenizer(), "text_encoder_2": t5(), "tokenizer_2": glyphs}


def qwen_and_clip() -> dict[str, Any]:
    return {
        "text_encoder": qwen("Qwen2_5_VL"),
        "tokenizer": TextsOnly(),
        "text_encoder_2": clip(),
        "tokenizer_2": tokenizer(),
    }


def qwen2() -> dict[str, Any]:
    return {"text_encoder": qwen("Qwen2VL"), "tokenizer": tokenizer()}


def t5gemma2() -> dict[str, Any]:
    text_config = {**LLM, "head_dim": 8, "sliding_window": 64, "dropout_rate": 0.0}
    vision = {**VISION, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 14, "patch_size": 14}
    config = transformers.T5Gemma2EncoderConfig(text_config=text_config, vision_config=vision)
    return {"text_encoder": make_model(transformers.T5Gemma2Encoder, config), "tokenizer": tokenizer()}


def gemma3_and_connectors() -> dict[str, Any]:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    config = transformers.Gemma3TextConfig(**LLM, head_dim=8, sliding_window=64)
    sizes: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1, num_learnable_registers=16)
    each = {f"{kind}_connector_{name}": size for kind in ("video", "audio") for name, size in sizes.items()}
    torch.manual_seed(0)
    connectors = LTX2TextConnectors(caption_channels=16, text_proj_in_factor=4, rope_double_precision=False, **each)
    encoder = make_model(transformers.Gemma3ForCausalLM, config)
    return {"text_encoder": encoder, "tokenizer": tokenizer(), "connectors": connectors.eval()}


def siglip() -> dict[str, Any]:
    """Return Framepack's image encoder."""
    extractor = transformers.SiglipImageProcessor(size={"height": 28, "width": 28})
    encoder = make_model(transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**VISION_TOWER))
    return {"image_encoder": encoder, "feature_extractor": extractor}


def clip_vision() -> dict[str, Any]:
    """Return Wan's image encoder."""
    size: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    encoder = make_model(transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**VISION_TOWER))
    return {"image_encoder": encoder, "image_processor": transformers.CLIPImageProcessor(**size)}


def gemma2() -> dict[str, Any]:
    config = transformers.Gemma2Config(**LLM, head_dim=8, sliding_window=64)
    return {"text_encoder": make_model(transformers.Gemma2ForCausalLM, config), "tokenizer": tokenizer()}


def t5gemma2_and_images() -> dict[str, Any]:
    images = transformers.SiglipImageProcessor(size={"height": 14, "width": 14})
    return {**t5gemma2(), "feature_extractor": images}


def qwen_of_cosmos() -> dict[str, Any]:
    return {"text_encoder": qwen("Qwen2_5_VL"), "tokenizer": tokenizer()}


ENCODERS: dict[str, Callable[[], dict[str, Any]]] = {
    "Cosmos2_5_PredictBasePipeline": qwen_of_cosmos,
    "EasyAnimateInpaintPipeline": qwen2,
    "EasyAnimatePipeline": qwen2,
    "HunyuanSkyreelsImageToVideoPipeline": llama_and_clip,
    "HunyuanVideo15ImageToVideoPipeline": qwen_and_byt5,
    "HunyuanVideo15Pipeline": qwen_and_byt5,
    "HunyuanVideoFramepackPipeline": llama_and_clip,
    "HunyuanVideoImageToVideoPipeline": llava_and_clip,
    "HunyuanVideoPipeline": llama_and_clip,
    "Kandinsky5I2VPipeline": qwen_and_clip,
    "Kandinsky5T2VPipeline": qwen_and_clip,
    "Kandinsky6TI2VAPipeline": qwen_and_clip,
    "LTX2ConditionPipeline": gemma3_and_connectors,
    "LTX2DFRPipeline": gemma3_and_connectors,
    "LTX2DFRTemporalRefinePipeline": gemma3_and_connectors,
    "LTX2HDRPipeline": gemma3_and_connectors,
    "LTX2ImageToVideoPipeline": gemma3_and_connectors,
    "LTX2InContextPipeline": gemma3_and_connectors,
    "LTX2Pipeline": gemma3_and_connectors,
    "MotifVideoImage2VideoPipeline": t5gemma2_and_images,
    "MotifVideoPipeline": t5gemma2,
    "SanaWMPipeline": gemma2,
}
