"""EMAG with full passes and the paper's equations: explicit maps and averages."""

import copy
import math
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from vidguide import EMAG


class PlainAttention:
    """Plain attention that records a live value and can replace it.

    Args:
        variant: of EMAG's average; or "rotated query", the query after its rotary embedding.
    """

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.live = self.replacement = torch.zeros(0)

    def query(self, query: Tensor, video: slice) -> Tensor:
        """Record or replace the video's tokens of the query `(B, L, H, D)` before its rotary embedding."""
        if self.variant == "query":
            self.live = query[:, video].clone()
            if len(self.replacement) > 0:
                query = query.clone()
                query[:, video] = self.replacement
        return query

    def attend(self, query: Tensor, key: Tensor, value: Tensor, video: slice) -> Tensor:
        """Return the attention output for the query after its rotary embedding."""
        replace = len(self.replacement) > 0
        if self.variant == "rotated query":
            self.live = query[:, video].clone()
            if replace:
                query = query.clone()
                query[:, video] = self.replacement
        weights = torch.einsum("bqhd,bkhd->bhqk", query, key).div(query.shape[-1] ** 0.5).softmax(-1)
        if self.variant == "map":
            self.live = weights[:, :, video].clone()
            if replace:
                weights[:, :, video] = self.replacement
        if self.variant == "map-video":
            self.live = weights[:, :, video, video].clone()
            if replace:
                weights[:, :, video, video] = self.replacement
                weights[:, :, video] /= weights[:, :, video].sum(-1, keepdim=True)
        return torch.einsum("bhqk,bkhd->bqhd", weights, value)


class PlainSelfAttention(PlainAttention):
    """Wan's self-attention."""

    def __call__(self, attn: Any, hidden_states: Any, text: Any, mask: Any, rotary: Any) -> Tensor:
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, attn.to_v(hidden_states)))
        query, key = self.rotate(self.query(query, slice(None)), *rotary), self.rotate(key, *rotary)
        return attn.to_out[0](self.attend(query, key, value, slice(None)).flatten(2))

    @staticmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rotated = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return x * cos.to(x) + rotated * sin.to(x)


class PlainJointAttention(PlainAttention):
    """CogVideoX's joint attention of text and video."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Any,
        image_rotary_emb: Any,
    ) -> Any:
        text = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = (
            project(both).unflatten(2, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = self.query(attn.norm_q(query), slice(text, None)), attn.norm_k(key)
        for tensor in (query, key):
            tensor[:, text:] = apply_rotary_emb(tensor[:, text:].transpose(1, 2), image_rotary_emb).transpose(1, 2)
        output = attn.to_out[0](self.attend(query, key, value, slice(text, None)).flatten(2))
        return output[:, text:], output[:, :text]


def plain_emag(
    model: Any, calls: list[dict[str, Any]], emag: EMAG, layers: tuple[int, ...]
) -> tuple[list[Tensor], list[Any]]:
    """Return the predictions of a Wan or CogVideoX transformer under EMAG, step by step, and the layers chosen for
    each sample."""
    model = copy.deepcopy(model)
    wan = hasattr(model, "blocks")
    processors = {layer: (PlainSelfAttention if wan else PlainJointAttention)(emag.variant) for layer in layers}
    for layer, processor in processors.items():
        (model.blocks if wan else model.transformer_blocks)[layer].attn1.processor = processor
    averages: dict[int, Tensor] = {}
    last: list[dict[int, float]] = []
    results, choices = [], []

    def first(fraction: float) -> int:
        return math.floor(fraction * len(calls))

    for step, inputs in enumerate(calls):
        prediction = model(**inputs)[0]
        if first(emag.average_from) <= step < math.ceil(emag.stop * len(calls)):
            live = {layer: processor.live for layer, processor in processors.items()}
            decay = float(emag.decay)
            averages = {
                n: live[n] if n not in averages else decay * averages[n] + (1 - decay) * live[n] for n in layers
            }
            gradients = gradients_of(emag, averages, live)
            if step >= first(emag.start):
                by = last if emag.select == "previous" and last else gradients
                choices.append([layers_of(emag, sample) for sample in by])
                mixed = {n: (1 - emag.strength) * live[n] + emag.strength * averages[n] for n in layers}
                perturbed = perturbed_prediction(model, inputs, processors, mixed, choices[-1])
                prediction = perturbed + emag.scale * (prediction - perturbed)
            last = gradients
        results.append(prediction)
    return results, choices


def gradients_of(emag: EMAG, averages: dict[int, Tensor], live: dict[int, Tensor]) -> list[dict[int, float]]:
    """Return D of each layer, for each sample."""
    samples = []
    for sample in range(len(next(iter(live.values())))):
        gradients = {n: (averages[n] - live[n])[sample].abs().mean().item() for n in live}
        if emag.measure == "relative" and emag.variant == "query":
            gradients = {n: d / live[n][sample].abs().mean().item() for n, d in gradients.items()}
        samples.append(gradients)
    return samples


def layers_of(emag: EMAG, gradients: dict[int, float]) -> tuple[int, ...]:
    """Return the layers to perturb for a sample."""
    fixed = tuple(gradients) if emag.select == "all" else emag.select
    chosen = fixed if isinstance(fixed, tuple) else (max(gradients, key=gradients.__getitem__),)
    assert len(chosen) == 1 or emag.strength == 1, "the live value of a second layer depends on the first"
    return chosen


def perturbed_prediction(
    model: Any, inputs: dict[str, Any], processors: dict[int, Any], mixed: dict[int, Tensor], choices: list[Any]
) -> Tensor:
    """Return the perturbed prediction: a full pass for each set of layers, of which the rows that chose it count."""
    perturbed = {}
    for layers in set(choices):
        for n in layers:
            processors[n].replacement = mixed[n]
        perturbed[layers] = model(**inputs)[0]
        for n in layers:
            processors[n].replacement = torch.zeros(0)
    return torch.stack([perturbed[layers][row] for row, layers in enumerate(choices)])
