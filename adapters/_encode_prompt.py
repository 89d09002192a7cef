"""How a family's pipelines encode a prompt, for `Family.encode`."""

from collections.abc import Callable
from typing import Any

from vidguide.transformer.family import Inputs


def encoder(*names: str | None, **settings: Any) -> Callable[[Any, list[str], Inputs], Inputs]:
    """`encode` by the pipeline's own `encode_prompt`.

    Args:
        names: text inputs in the order in which it answers; None for what is not one.
        settings: passed on. The text gets the length that it has in the call to be guided, which is what the
            pipeline asked for there, unless `max_sequence_length=None` says that there is no such setting.
    """

    def encode(pipe: Any, prompts: list[str], inputs: Inputs) -> Inputs:
        length = inputs["encoder_hidden_states"].shape[-2]
        asked = {"max_sequence_length": length, **settings}
        check_length(pipe, prompts, asked["max_sequence_length"])
        answer = pipe.encode_prompt(prompts, **{name: value for name, value in asked.items() if value is not None})
        return {name: value for name, value in zip(names, answer, strict=False) if name is not None}

    return encode


def check_length(pipe: Any, prompts: list[str], limit: int | None) -> None:
    """Refuse a negative of which the encoder would drop the end.

    Raises:
        ValueError: with its length, the limit, and what to do.
    """
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None or limit is None:
        return
    for prompt in prompts:
        tokens = len(tokenizer(prompt).input_ids)
        if tokens > limit:
            raise ValueError(
                f"negative_prompt={prompt!r}: {tokens} tokens, and the text of this call is {limit} long; shorten it, "
                "or call the pipeline with a larger max_sequence_length"
            )


embeds_only = encoder("encoder_hidden_states", do_classifier_free_guidance=False)
embeds_and_mask = encoder("encoder_hidden_states", "encoder_attention_mask", do_classifier_free_guidance=False)
EMBEDS_AND_MASK: dict[str, Any] = {  # what a family declares whose text is embeddings under a mask
    "text_inputs": ("encoder_hidden_states", "encoder_attention_mask"),
    "text_masks": {"encoder_attention_mask": "encoder_hidden_states"},
}
