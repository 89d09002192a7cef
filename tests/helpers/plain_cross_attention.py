"""NAG and VSF written into the text attention of a model with a key-value cache, for comparison."""

from typing import Any

import torch
from torch import Tensor

from tests.helpers.plain_nag import plain_nag
from vidguide import NAG, VSF

States = tuple[Tensor, Tensor | None]  # a text as the blocks receive it, and an additive mask (1, 1, L)


def attend(query: Tensor, keys: list[tuple[Tensor, Tensor, float]], masks: list[Tensor | None]) -> Tensor:
    """Return one softmax attention over keys, values and offsets of their scores."""
    scores = []
    for (key, _, offset), mask in zip(keys, masks, strict=True):
        score = torch.einsum("bqhd,bkhd->bhqk", query, key.expand(len(query), *key.shape[1:])) / query.shape[-1] ** 0.5
        scores.append(score - offset + (0 if mask is None else mask[:, None]))
    values = torch.cat([value.expand(len(query), *value.shape[1:]) for _, value, _ in keys], 1)
    return torch.einsum("bhqk,bkhd->bqhd", torch.cat(scores, -1).softmax(-1), values)


class Surgery:
    """Text cross-attention with a guidance written into it.

    Attributes:
        states: the negative's. halved: whether only the second half of a batch is guided.
        guided: whether the call that runs is guided.
    """

    def __init__(self, guidance: NAG | VSF, states: States, halved: bool) -> None:
        self.guidance, self.states, self.halved, self.guided = guidance, states, halved, False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        query_rotary_emb: None = None,
        key_rotary_emb: None = None,
        encoder_hidden_states_image: Tensor | None = None,
    ) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        prompt = self.keys_values(attn, encoder_hidden_states)
        output = attend(query, [(*prompt, 0.0)], [attention_mask])
        if self.guided:
            start = len(query) // 2 if self.halved else 0
            part = tuple(tensor[start:] for tensor in prompt)
            mask = None if attention_mask is None else attention_mask[start:]
            output = torch.cat([output[:start], self.apply(attn, query[start:], part, mask, output[start:])])
        if encoder_hidden_states_image is not None:
            key = attn.norm_added_k(attn.add_k_proj(encoder_hidden_states_image))
            image = (key, attn.add_v_proj(encoder_hidden_states_image))
            key, value = (tensor.unflatten(2, (attn.heads, -1)) for tensor in image)
            output = output + attend(query, [(key, value, 0.0)], [None])
        return attn.to_out[0](output.flatten(2))

    @staticmethod
    def keys_values(attn: Any, text: Tensor) -> tuple[Tensor, Tensor]:
        key, value = attn.norm_k(attn.to_k(text)), attn.to_v(text)
        return key.unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))

    def apply(self, attn: Any, query: Tensor, prompt: Any, mask: Tensor | None, positive: Tensor) -> Tensor:
        """Return the guided features of some rows."""
        guidance, (states, negative_mask) = self.guidance, self.states
        key, value = self.keys_values(attn, states)
        if isinstance(guidance, NAG):
            negative = attend(query, [(key, value, 0.0)], [negative_mask])
            return plain_nag(positive, negative, guidance.scale, guidance.tau, guidance.alpha)
        flipped = (key, -guidance.scale * value, guidance.offset)
        return attend(query, [(*prompt, 0.0), flipped], [mask, negative_mask])
