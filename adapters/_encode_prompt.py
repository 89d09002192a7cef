"""Functions for `Family.encode`, which encode a prompt as the pipelines of the family do."""

from collections.abc import Callable
from typing import Any

from vidguide.transformer.family import Inputs


def encoder(*names: str | None, **settings: Any) -> Callable[[Any, list[str], Inputs], Inputs]:
    """Return a `Family.encode` that calls the pipeline's `encode_prompt`.

    Args:
        names: text inputs in the order of the values that `encode_prompt` returns; None for other values.
        settings: further arguments of `encode_prompt`. `max_sequence_length` is by default the text length of the call
            to be guided; `max_sequence_length=None` leaves it out, where `encode_prompt` does not take it.
    """

    def encode(pipe: Any, prompts: list[str], inputs: Inputs) -> Inputs:
        length = inputs["encoder_hidden_states"].shape[-2]
        arguments = {"max_sequence_length": length, **settings}
        check_length(pipe, prompts, arguments["max_sequence_length"])
        arguments = {name: value for name, value in arguments.items() if value is not None}
        values = pipe.encode_prompt(prompts, **arguments)
        return {name: value for name, value in zip(names, values, strict=False) if name is not None}

    return encode


def check_length(pipe: Any, prompts: list[str], limit: int | None) -> None:
    """Refuse a negative prompt that the encoder would truncate.

    Args:
        pipe: diffusers pipeline.
        prompts: negative prompts.
        limit: maximum length in tokens; None for no limit.

    Raises:
        ValueError: with the length, the limit and the cure.
    """
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None or limit is None:
        return
    for prompt in prompts:
        tokens = len(tokenizer(prompt).input_ids)
        if tokens > limit:
            raise ValueError(
                f"negative_prompt={prompt!r}: must have at most {limit} tokens, the text length of this call, not "
                f"{tokens}; shorten it, or call the pipeline with a larger max_sequence_length"
            )


embeds_only = encoder("encoder_hidden_states", do_classifier_free_guidance=False)
embeds_and_mask = encoder("encoder_hidden_states", "encoder_attention_mask", do_classifier_free_guidance=False)
EMBEDS_AND_MASK: dict[str, Any] = {  # fields of a family whose text is embeddings with a mask
    "text_inputs": ("encoder_hidden_states", "encoder_attention_mask"),
    "text_masks": {"encoder_attention_mask": "encoder_hidden_states"},
}
