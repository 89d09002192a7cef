"""Functions for `Family.encode`, which encode a prompt as the pipelines of the family do."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from vidguide.transformer.family import Inputs, Prompt
from vidguide.transformer.negative_text import check_length, texts_of


def encoder(*names: str | None, **settings: Any) -> Callable[[Any, Prompt, Inputs], Inputs]:
    """Return a `Family.encode` that calls the pipeline's `encode_prompt`.

    Args:
        names: text inputs in the order of the values that `encode_prompt` returns; None for other values.
        settings: further arguments of `encode_prompt`. `max_sequence_length` is by default the text length of the call
            to be guided; `max_sequence_length=None` leaves the default of `encode_prompt`.
    """

    def encode(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
        length = inputs["encoder_hidden_states"].shape[-2]
        values = encode_prompt(pipe, prompt, **{"max_sequence_length": length, **settings})
        return {name: value for name, value in zip(names, values, strict=False) if name is not None}

    return encode


def encode_prompt(pipe: Any, prompt: Prompt, **settings: Any) -> Any:
    """Call the pipeline's `encode_prompt`, without an unconditional text.

    Args:
        pipe: diffusers pipeline.
        prompt: arguments of `encode_prompt` with the prompt, as text or as embeddings and masks.
        settings: further arguments, of which those that are None or that this `encode_prompt` lacks are left out.

    Raises:
        ValueError: a text is longer than `max_sequence_length`, or these embeddings are not those that it takes.
    """
    parameters = inspect.signature(pipe.encode_prompt).parameters
    settings = {"do_classifier_free_guidance": False, **_place(prompt), **settings}
    settings = {name: value for name, value in settings.items() if value is not None and name in parameters}
    check_length(pipe, texts_of(prompt), settings.get("max_sequence_length"))
    try:
        return pipe.encode_prompt(**{"prompt": None, **prompt}, **settings)
    except Exception as error:
        if set(prompt) == {"prompt"}:
            raise
        names = ", ".join(f"negative_{name}" for name in prompt)
        encoder = f"{type(pipe).__name__}.encode_prompt"
        raise ValueError(f"{names}: not what {encoder} takes as a prompt ({error}); give all it needs") from error


def _place(prompt: Prompt) -> dict[str, Any]:
    """Return dtype and device of embeddings, which some pipelines would take from a text encoder that is not loaded."""
    tensors = [value for value in prompt.values() if isinstance(value, Tensor)]
    return {"dtype": tensors[0].dtype, "device": tensors[0].device} if tensors else {}


def batch_of(prompt: Prompt) -> int:
    """Return the number of texts or embeddings of a prompt."""
    return len(texts_of(prompt)) or next(len(value) for value in prompt.values() if isinstance(value, Tensor))


embeds_only = encoder("encoder_hidden_states")
embeds_and_mask = encoder("encoder_hidden_states", "encoder_attention_mask")
EMBEDS_AND_MASK: dict[str, Any] = {  # fields of a family whose text is embeddings with a mask
    "text_inputs": ("encoder_hidden_states", "encoder_attention_mask"),
    "text_masks": {"encoder_attention_mask": "encoder_hidden_states"},
}
