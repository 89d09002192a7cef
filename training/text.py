"""The words of the shipped model: a word-level tokenizer, a small UMT5 encoder, and captions for training."""

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption

LENGTH = 16  # longest caption in tokens, its end-of-sentence token included
EMPTY, SINGLE, FULL = 0.08, 0.14, 0.48  # shares of captions; the rest says a random subset


def words() -> list[str]:
    """Every word that a caption can hold, in a fixed order."""
    captions = [caption(scene, template) for scene in all_scenes() for template in range(3)]
    return sorted({word for text in captions for word in text.split()} | {"object"})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-case words, `</s>` at the end, `<unk>` for a word the world does not have."""
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
    """What a training caption says of a complete scene: nothing, one attribute, all, or each with probability 0.55."""
    draw = random.random()
    if draw < EMPTY:
        return ""
    names = list(ATTRIBUTES)
    if draw < EMPTY + SINGLE:
        said = {names[random.integers(len(names))]}
    elif draw < EMPTY + SINGLE + FULL:
        said = set(names)
    else:
        said = {name for name in names if random.random() < 0.55}
    partial = Scene(**{name: getattr(scene, name) for name in names if name in said})
    text = caption(partial, int(random.integers(3)))
    # Alone, a colour or a shape is also what people type as a negative prompt: the bare word, half of the time.
    if len(said) == 1 and random.random() < 0.5:
        text = next(str(getattr(scene, name)) for name in said)
    return text
