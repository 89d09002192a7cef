"""Vision-language models that answer a question about a picture, of transformers, from a folder."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.encoders.catalogue import KINDS
from vidguide.eval.encoders.transformers import describe_weights

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'  # Lin et al. 2024, as in its code
ANSWER = "Yes"


class VisualQuestion:
    """A model of transformers' AutoModelForImageTextToText with a chat template; nothing is downloaded."""

    def __init__(self, folder: str, device: str = "cpu") -> None:
        import transformers

        check_folder(folder)
        auto: Any = transformers
        self.processor: Any = auto.AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.answer = answer_token(self.processor, folder)
        loader = auto.AutoModelForImageTextToText
        model, report = loader.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"vqa={folder!r}: lacks the weights {missing[0]!r} and {len(missing) - 1} more")
        self.model: Any = model.to(device).eval()
        self.weights = describe_weights(self.model, folder)

    @property
    def place(self) -> str:
        """Return device and dtype."""
        return f"{self.model.device} {str(self.model.dtype).removeprefix('torch.')}"

    def probability(self, frame: NDArray[np.uint8], text: str) -> float:
        """Return the probability that the answer begins with "Yes": that a picture `(H, W, 3)` shows the text."""
        import torch
        from PIL import Image

        question = {"type": "text", "text": QUESTION.format(text)}
        content = [{"type": "image", "image": Image.fromarray(frame)}, question]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            **dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"),
        ).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0, -1]
        return float(logits.double().softmax(-1)[self.answer])


def check_folder(folder: str) -> None:
    """Check that a folder contains a decoder-only vision-language model.

    Raises:
        FileNotFoundError: it is no folder with a configuration. ValueError: it is another kind of model.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SUPPORTED

    example = KINDS["vqa"].example
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"vqa={folder!r}: no such folder; nothing is downloaded: give {example}")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    text = config.get_text_config()
    if config.model_type not in SUPPORTED or config.is_encoder_decoder or text.is_encoder_decoder:
        raise ValueError(f"vqa={folder!r}: model_type {config.model_type!r} is not supported; give {example}")


def answer_token(processor: Any, folder: str) -> int:
    """Return the token of the answer "Yes".

    Raises:
        ValueError: the processor has no chat template, or the answer is not a single token.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
        raise ValueError(f"vqa={folder!r}: has no chat template; give {KINDS['vqa'].example}")
    tokens = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        raise ValueError(f"vqa={folder!r}: {ANSWER!r} is the tokens {tokens}; must be one known token")
    return int(tokens[0])
