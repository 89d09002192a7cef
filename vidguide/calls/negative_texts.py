"""Negative prompts encoded as a pipeline encodes its prompt, cached for the length of `guide` or of an attachment."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vidguide.calls.encoded_prompts import encoding_state
from vidguide.transformer.family import Family, Inputs, Prompt
from vidguide.transformer.lists import has_graph
from vidguide.transformer.modular_blocks import encoded_text, is_modular, text_encoder_of
from vidguide.transformer.negative_text import check_length, ready_text, text_shape, texts_of

CAPACITY = 16  # texts; a server receives others with every request
ENCODERS = ("text_encoder", "text_encoder_2", "connectors")  # components of a pipeline


class NegativeTexts:
    """Cache of the encoded negative prompts of one pipeline: the latest texts, and the latest embeddings.

    Texts are encoded anew in each call where gradients are enabled and reach the text encoder's weights.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[Any, Inputs] = OrderedDict()
        self._embeds: tuple[Prompt, Any, Inputs] | None = None  # of one call, by identity
        self._encoders: tuple[Any, Any] = (None, None)  # the latest run, and the state of the encoders in it

    def get(self, pipe: Any, family: Family, prompt: Prompt, inputs: Inputs, rows: int, run: Any) -> Inputs:
        """Return the text inputs of a negative for a call of a transformer.

        Args:
            prompt: arguments of the pipeline's `encode_prompt` that hold the negative.
            inputs: arguments of the call. rows: its conditional rows. run: identifies its run, in which the encoders
                do not change.

        Raises:
            ValueError: embeddings of another width, or a number of negatives that does not divide the rows.
        """
        shape, dtype, device = text_shape(family, inputs)
        if self._encoders[0] != run:
            self._encoders = run, _encoders(pipe)
        key = (family.name, shape[1:], dtype, device, self._encoders[1], torch.is_grad_enabled())
        if all(_is_text(value) for value in prompt.values()):
            encoded = self._text(pipe, family, prompt, inputs, key)
        else:
            encoded = self._given(pipe, family, prompt, inputs, key)
        return ready_text(family, encoded, inputs, rows)

    def _given(self, pipe: Any, family: Family, prompt: Prompt, inputs: Inputs, key: Any) -> Inputs:
        if self._embeds is not None and self._embeds[0] is prompt and self._embeds[1] == key:
            return self._embeds[2]
        encoded = _encode(pipe, family, prompt, inputs)
        if not has_graph(encoded):
            self._embeds = (prompt, key, encoded)
        return encoded

    def _text(self, pipe: Any, family: Family, prompt: Prompt, inputs: Inputs, key: Any) -> Inputs:
        lists = {name: [text] if isinstance(text, str) else list(text) for name, text in prompt.items()}
        key = (key, tuple((name, *texts) for name, texts in lists.items()))
        if key not in self._texts:
            encoded = _encode(pipe, family, lists, inputs)
            if has_graph(encoded):
                return encoded
            self._texts[key] = encoded
        self._texts.move_to_end(key)
        while len(self._texts) > CAPACITY:
            self._texts.popitem(last=False)
        return self._texts[key]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(text, str) for text in value))


def _encode(pipe: Any, family: Family, prompt: Prompt, inputs: Inputs) -> Inputs:
    if is_modular(pipe) or family.encode is None:
        return _encode_by_block(pipe, family, prompt, inputs)
    return family.encode(pipe, prompt, inputs)


def _encode_by_block(pipe: Any, family: Family, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Return the text inputs of a prompt in a modular pipeline, by `Family.state_fields`.

    Args:
        prompt: texts for the pipeline's text encoder, or fields of its state.

    Raises:
        ValueError: a text is longer than the call's, or the embeddings are missing.
    """
    values: Mapping[str, Any] = prompt
    if "prompt" in prompt:
        length, texts = inputs[family.text_inputs[0]].shape[-2], texts_of(prompt)
        limited = "max_sequence_length" in {one.name for one in text_encoder_of(pipe).inputs}
        check_length(pipe, texts, length if limited else None)
        pictures = {name: value for name, value in prompt.items() if name != "prompt"}
        values = encoded_text(pipe, family.text_blocks, texts, length, pictures)
    text = {name: values.get(field) for name, field in family.state_fields.items()}
    if text.get(family.text_inputs[0]) is None:
        needed = ", ".join(f"negative_{field}" for field in dict.fromkeys(family.state_fields.values()))
        given = ", ".join(f"negative_{name}" for name in prompt)
        raise ValueError(
            f"{given}: {family.name} in a modular pipeline needs {needed or 'negative_prompt_embeds of NAG'}"
        )
    return text


def _encoders(pipe: Any) -> tuple[Any, ...]:
    """Return the state of the components that encode, their weights and LoRAs: others encode anew."""
    components = {name: getattr(pipe, name, None) for name in ENCODERS}
    encoders = {name: value for name, value in components.items() if isinstance(value, nn.Module)}
    return encoding_state(pipe, encoders) if encoders else ()
