"""Text of the shipped model: a word-level tokenizer, a small UMT5 encoder, and captions for training."""

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption

LENGTH = 16  # longest caption in tokens, with the end-of-sentence token
UNSAID = (0.35, 0.25, 0.12, 0.10, 0.10, 0.08)  # shares of captions that omit 0, 1, ... 5 attributes


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
    """Return a training caption of a complete scene, which omits a random number of random attributes."""
    names = list(ATTRIBUTES)
    said = random.permutation(names)[random.choice(len(UNSAID), p=UNSAID) :]
    text = caption(Scene(**{name: getattr(scene, name) for name in said}), int(random.integers(3)))
    # A single attribute is often a negative prompt: use the word alone in half of the captions.
    if len(said) == 1 and random.random() < 0.5:
        text = str(getattr(scene, said[0]))
    return text
