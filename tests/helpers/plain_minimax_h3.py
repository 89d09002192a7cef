"""MiniMax-H3 written plainly, with a negative's rows after all others, and attention of each kind of row by itself."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.helpers.tiny_families import Values

Attend = Callable[["Rows", Tensor, Tensor, Tensor], Tensor]  # attention of the media


@dataclass(frozen=True)
class Rows:
    """Indices of the rows of a sequence.

    Attributes:
        layer: of the attention.
        prompt, media, video, negative: the media are all but texts; the video is the part of them that is generated.
        frames: number of frames of the video.
    """

    layer: int
    prompt: Tensor
    media: Tensor
    video: Tensor
    negative: Tensor
    frames: int


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Return attention of `(B, L, H, D)` tensors, with a bias `(L)` of the keys."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5 + bias
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)


def attend_to(rows: Rows, text: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention of the media to themselves and one text."""
    keys = torch.cat([text, rows.media])
    return softmax_attention(query[:, rows.media], key[:, keys], value[:, keys])


def attend_plainly(rows: Rows, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attend_to(rows, rows.prompt, query, key, value)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i with channel `n + i` of `(B, L, H, D)` by angles, given as `(L, n)` cosines and sines; other
    channels are unchanged."""
    n, cos, sin = cos.shape[1], cos[:, None], sin[:, None]
    first, second = heads[..., :n], heads[..., n : 2 * n]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, heads[..., 2 * n :]], -1)


def plain_attention(attn: Any, normed: Tensor, cos: Tensor, sin: Tensor, rows: Rows, attend: Attend) -> Tensor:
    """Return the attention of all rows: of texts to themselves and the media, and of the media."""
    query, key, value = (linear(normed).unflatten(2, (attn.heads, -1)) for linear in (attn.to_q, attn.to_k, attn.to_v))
    query, key = (rotate(rms(x, norm), cos, sin) for x, norm in ((query, attn.norm_q), (key, attn.norm_k)))
    attended = torch.empty_like(query)
    for text in (rows.prompt, rows.negative):
        keys = torch.cat([text, rows.media])
        attended[:, text] = softmax_attention(query[:, text], key[:, keys], value[:, keys])
    attended[:, rows.media] = attend(rows, query, key, value)
    return attn.to_out[0](attended.flatten(2))


class PlainProcessor:
    """MiniMax-H3's attention over `[prompt | negative | media]`."""

    def __init__(self, prompt: int, negative: int, attend: Attend) -> None:
        self.prompt, self.negative, self.attend = prompt, negative, attend

    def __call__(self, attn: Any, hidden_states: Tensor, rotary_emb: Any = None, attention_mask: Any = None) -> Tensor:
        lengths = [self.prompt, self.negative, hidden_states.shape[1] - self.prompt - self.negative]
        prompt, negative, media = torch.arange(hidden_states.shape[1]).split(lengths)
        rows = Rows(0, prompt, media, media[-18:], negative, 3)
        cos, sin = (part[:, : part.shape[1] // 2] for part in rotary_emb)
        return plain_attention(attn, hidden_states, cos, sin, rows, self.attend)


class SplitRefiner(torch.nn.Module):
    """MiniMax-H3's text refiner, of prompt and negative by themselves."""

    def __init__(self, refiner: Any, prompt: int) -> None:
        super().__init__()
        self.refiners = torch.nn.ModuleList([refiner, copy.deepcopy(refiner)])  # a cache has one state for each
        self.prompt = prompt

    def forward(self, hidden_states: Tensor) -> Tensor:
        texts = hidden_states.tensor_split([self.prompt], 1)
        return torch.cat([refiner(text) for refiner, text in zip(self.refiners, texts, strict=True)], 1)


def rms(tokens: Tensor, norm: Any) -> Tensor:
    return tokens / (tokens.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


def modulations(model: Any, module: Any, timestep: Tensor) -> Tensor:
    """Return what a linear layer computes from the timesteps `(T,)`, `(T, C)`."""
    embedding = model.time_embedder(model.time_proj(timestep).to(module.weight.dtype))
    return module(torch.nn.functional.silu(embedding))


def plain_block(model: Any, block: Any, hidden: Tensor, modulation: Values, rows: Rows, attend: Attend) -> Tensor:
    """Return the sequence after a block. Texts attend to themselves and the media."""
    table = modulations(model, block.adaln_proj.linear, modulation["timestep"]).view(-1, 6, hidden.shape[-1])
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table[modulation["index"]].unbind(1)
    normed, angles = rms(hidden, block.norm1) * (1 + scale) + shift, modulation["angles"]
    hidden = hidden + gate * plain_attention(block.attn, normed, angles.cos(), angles.sin(), rows, attend)
    return hidden + mlp_gate * block.ff(rms(hidden, block.norm2) * (1 + mlp_scale) + mlp_shift)


def plain_h3(
    model: Any,
    inputs: Values,
    negative: Values | None = None,
    attend: Attend = attend_plainly,
    skipped: tuple[int, ...] = (),
    frames: int = 3,
) -> tuple[Tensor, Tensor]:
    """Return the predictions of video and audio.

    Args:
        negative: text with the modality of each of its rows; its last row has the prompt's last time.
        skipped: blocks that return their input.
    """
    texts = [inputs["encoder_hidden_states"], *([negative["encoder_hidden_states"]] if negative else [])]
    refined = [model.token_refiner(model.context_embedder(text)) for text in texts]
    length, sequence = len(inputs["text_indices"]), len(inputs["position_ids"])
    added = refined[1].shape[1] if negative else 0
    hidden = refined[0].new_zeros(len(refined[0]), sequence + added, refined[0].shape[2])
    hidden[:, inputs["text_indices"]] = refined[0]
    hidden[:, inputs["video_indices"]] = model.proj_in(inputs["hidden_states"])
    hidden[:, inputs["audio_indices"]] = model.audio_proj_in(inputs["audio_hidden_states"])
    positions = torch.zeros(sequence + added, 3, dtype=torch.float64)
    positions[:sequence] = inputs["position_ids"]
    index = torch.zeros(sequence + added, dtype=torch.long)
    index[:sequence] = 3 * inputs["timestep_indices"] + inputs["token_tags"]
    if negative:
        hidden[:, sequence:] = refined[1]
        positions[sequence:, 0] = torch.arange(length - added, length)
        index[sequence:] = 3 * inputs["timestep_indices"][inputs["text_indices"][0]] + negative["text_token_tags"]
    angles = (positions.float()[..., None] * model.rope.inv_freq).flatten(1)
    modulation = {"timestep": inputs["timestep"], "index": index, "angles": angles}
    media = torch.tensor([row for row in range(sequence) if row not in inputs["text_indices"].tolist()])
    video = inputs["video_indices"][-frames * 6 :]
    for layer, block in enumerate(model.transformer_blocks):
        rows = Rows(layer, inputs["text_indices"], media, video, torch.arange(sequence, sequence + added), frames)
        if layer not in skipped:
            hidden = plain_block(model, block, hidden, modulation, rows, attend)
    table = modulations(model, model.norm_out.linear, inputs["timestep"])
    shift, scale = table[inputs["timestep_indices"]].chunk(2, -1)
    output = rms(hidden[:, :sequence], model.norm_out.norm) * (1 + scale) + shift
    video_output, audio_output = model.proj_out(output), model.audio_proj_out(output)
    return video_output[:, inputs["video_indices"]], audio_output[:, inputs["audio_indices"]]
