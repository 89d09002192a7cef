"""Text inputs of a negative prompt, in the dtype and on the device of the prompt's, with validation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vidguide.transformer.family import Family, Inputs, Prompt
from vidguide.transformer.modular_blocks import is_modular, text_encoder_of
from vidguide.validation import check_text


def text_shape(family: Family, inputs: Inputs) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    """Return shape, dtype and device of the prompt's embeddings, which negatives must fit."""
    prompt = inputs[family.text_inputs[0]]
    return tuple(prompt.shape), prompt.dtype, prompt.device


def ready_text(family: Family, negative_text: Tensor | Mapping[str, Any], inputs: Inputs, rows: int) -> Inputs:
    """Return all text inputs of a negative, in the prompt's dtype and on its device.

    Args:
        negative_text: embeddings `(1 or B, L, C)`, or tensors by the names of the transformer's arguments. A missing
            mask is all ones.
        inputs: arguments of the call to be guided.
        rows: the conditional rows in it.

    Raises:
        ValueError: an input is missing or of another width, or the number of negatives does not divide the rows.
    """
    embeddings = family.text_inputs[0]
    text: Inputs = dict(negative_text) if isinstance(negative_text, Mapping) else {embeddings: negative_text}
    if unknown := sorted(set(text) - set(family.text_inputs)):
        raise ValueError(f"negative_prompt_embeds: {family.name} takes {', '.join(family.text_inputs)}, not {unknown}")
    for name in family.text_inputs:
        if text.get(name) is None:
            text[name] = _missing(family, name, text, inputs, rows)
    text = {name: _like(value, inputs.get(name)) for name, value in text.items() if value is not None}
    prompt, negative = inputs[embeddings], text[embeddings]
    if negative.shape[-1] != prompt.shape[-1]:
        shape = tuple(negative.shape)
        raise ValueError(f"negative_prompt_embeds {shape}: the model's text is {prompt.shape[-1]} wide")
    if rows % negative.shape[0]:
        raise ValueError(f"{negative.shape[0]} negative prompts for a batch of {rows}: give one, or one per prompt")
    return text


def _missing(family: Family, name: str, text: Inputs, inputs: Inputs, rows: int) -> Tensor | None:
    """Return the default of a text input that was not given: an all-ones mask, or the prompt's value."""
    if inputs.get(name) is None:
        return None  # the call has no such input either
    if name in family.text_masks:
        embeds = text[family.text_masks[name]]
        return torch.ones(embeds.shape[0], embeds.shape[-2], device=embeds.device)
    if name in family.text_extras:
        prompt: Tensor = inputs[name]
        negatives = text[family.text_inputs[0]].shape[0]
        return prompt if prompt.shape[0] != inputs["hidden_states"].shape[0] else prompt[-rows:][:negatives]
    needed = ", ".join(family.text_inputs)
    raise ValueError(f"negative_prompt_embeds: {name} is missing; {family.name} needs a dict with {needed}")


def _like(value: Any, prompt: Any) -> Any:
    return value.to(prompt.device, prompt.dtype) if isinstance(prompt, Tensor) and isinstance(value, Tensor) else value


def repeat_rows(value: Any, rows: int) -> Any:
    """Repeat the rows of a negative's input to a batch of `rows`, each for an equal number of rows."""
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    return value.repeat_interleave(rows // value.shape[0], 0)


def check_encodable(guidance: Any, pipe: Any) -> None:
    """Refuse a guidance whose negative prompt cannot be encoded.

    Raises:
        ValueError: naming the guidance, its negative and what is missing.
    """
    if guidance.negative_prompt_embeds is None and (pipe is None or guidance.negative_prompt is not None):
        check_text_encoder(f"{type(guidance).__name__}(negative_prompt={guidance.negative_prompt or ''!r})", pipe)


def check_text_encoder(who: str, pipe: Any) -> None:
    """Refuse text without an encoder.

    Raises:
        ValueError: beginning with `who`, with what is missing.
    """
    if pipe is None:
        lack = "a bare transformer cannot encode text; pass negative_prompt_embeds, or guide the pipeline"
    elif is_modular(pipe) and text_encoder_of(pipe) is None:
        lack = f"the {type(pipe).__name__} has no text_encoder block; pass negative_prompt_embeds"
    elif not is_modular(pipe) and not hasattr(pipe, "encode_prompt") and not hasattr(pipe, "_encode_prompt"):
        lack = f"{type(pipe).__name__} has no encode_prompt; pass negative_prompt_embeds"
    elif getattr(pipe, "text_encoder", pipe) is None:
        lack = f"the {type(pipe).__name__} has no text_encoder; load it, or pass negative_prompt_embeds"
    else:
        return
    raise ValueError(f"{who}: {lack}")


def texts_of(prompt: Prompt) -> list[str]:
    """Return the texts of a prompt, one per video; empty if it is given as embeddings."""
    texts = prompt.get("prompt") or []
    return [texts] if isinstance(texts, str) else list(texts)


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


def check_negative(guidance: Any, empty: bool) -> None:
    """Refuse negatives that are neither text nor embeddings, or both."""
    prompt, embeds = guidance.negative_prompt, guidance.negative_prompt_embeds
    name = type(guidance).__name__
    if prompt is not None and embeds is not None:
        raise ValueError(f"{name}: give negative_prompt or negative_prompt_embeds, not both")
    if prompt is not None:
        check_text(guidance, "negative_prompt", prompt, empty)
    if embeds is None or isinstance(embeds, Mapping):
        return
    if not isinstance(embeds, Tensor) or embeds.ndim != 3:
        shape = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise TypeError(f"{name}(negative_prompt_embeds={shape}): must be a tensor (1 or B, L, C), or a dict of them")
    if not embeds.isfinite().all():
        raise ValueError(f"{name}(negative_prompt_embeds={tuple(embeds.shape)}): holds numbers that are not finite")
