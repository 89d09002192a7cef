"""Negative prompts encoded as a pipeline encodes its prompt, cached for the length of `guide`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vidguide.transformer.family import Family, Inputs
from vidguide.transformer.negative_text import ready_text, text_shape


class NegativeTexts:
    """Cache of encoded negative prompts of one transformer."""

    def __init__(self, pipe: Any, family: Family) -> None:
        self.pipe, self.family = pipe, family
        self._encoded: dict[Any, Inputs] = {}

    def get(
        self,
        prompt: str | list[str] | None,
        embeds: Tensor | Mapping[str, Tensor] | None,
        inputs: Inputs,
        rows: int,
    ) -> Inputs:
        """Return the text inputs of a negative for a call.

        Args:
            prompt: a text, or one per prompt; None for the empty text. embeds: ready embeddings in its place.
            inputs: arguments of the call. rows: its conditional rows.

        Raises:
            ValueError: embeddings of another width, or a number of negatives that does not divide the rows.
        """
        if embeds is not None:
            return ready_text(self.family, embeds, inputs, rows)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
        shape, dtype, device = text_shape(self.family, inputs)
        key = (*prompts, shape[1:], dtype, device)
        if key not in self._encoded:
            with torch.no_grad():
                self._encoded[key] = self.family.encode(self.pipe, prompts, inputs)
        return ready_text(self.family, self._encoded[key], inputs, rows)
