"""Text of the shipped model: a word-level tokenizer, a small UMT5 encoder, and captions for training."""

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption

LENGTH = 16  # longest caption in tokens, with the end-of-sentence token
EMPTY, SINGLE, FULL = 0.08, 0.14, 0.48  # shares of captions; the others name a random subset


def words() -> list[str]:
    """Return every word of the captions, in a fixed order."""
    captions = [caption(scene, template) for scene in all_scenes() for template in range(3)]
    return sorted({word for text in captions for word in text.split()} | {"object"})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of lower-case words, with `</s>` at the end and `<unk>` for unknown words."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def make_text_encoder(vocabulary: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=vocabulary, d_model=96, d_kv=24, num_heads=4, d_ff=192, num_layers=2, dropout_rate=0.0)
    )


def random_caption(scene: Scene, random: np.random.Generator) -> str:
    """Return a training caption of a complete scene: empty, one attribute, all, or each with probability 0.55."""
    draw = random.random()
    if draw < EMPTY:
        return ""
    names = list(ATTRIBUTES)
    if draw < EMPTY + SINGLE:
        named = {names[random.integers(len(names))]}
    elif draw < EMPTY + SINGLE + FULL:
        named = set(names)
    else:
        named = {name for name in names if random.random() < 0.55}
    partial = Scene(**{name: getattr(scene, name) for name in names if name in named})
    text = caption(partial, int(random.integers(3)))
    # A single attribute is often a negative prompt: use the word alone in half of the captions.
    if len(named) == 1 and random.random() < 0.5:
        text = next(str(getattr(scene, name)) for name in named)
    return text
