"""NAG as the paper's equation, token by token, and a Wan attention processor with it."""

from typing import Any

import torch
from torch import Tensor

from vidguide import NAG


def plain_nag(positive: Tensor, negative: Tensor, s: float, tau: float, alpha: float) -> Tensor:
    """Return NAG token by token, as in arXiv 2505.21179: extrapolate, normalise, refine."""
    result = torch.empty_like(positive)
    for b in range(positive.shape[0]):
        for t in range(positive.shape[1]):
            z_pos, z_neg = positive[b, t].flatten(), negative[b, t].flatten()
            g = s * z_pos - (s - 1) * z_neg
            r = g.abs().sum() / z_pos.abs().sum()
            g = g * min(r, torch.tensor(tau, dtype=r.dtype)) / r
            result[b, t] = (alpha * g + (1 - alpha) * z_pos).view_as(result[b, t])
    return result


def plain_grouped_nag(positive: Tensor, negative: Tensor, s: float, tau: float, alpha: float, group: int) -> Tensor:
    """Return NAG with norms over groups of consecutive tokens: extrapolate, normalise, refine."""
    z_pos, z_neg = (features.flatten(2).flatten(0, 1).split(group) for features in (positive, negative))
    results = []
    for pos, neg in zip(z_pos, z_neg, strict=True):
        g = s * pos - (s - 1) * neg
        r = g.abs().sum() / pos.abs().sum()
        results.append(alpha * g * min(r.item(), tau) / r + (1 - alpha) * pos)
    return torch.cat(results).view_as(positive)


FRAMES = 2  # of a call of the tiny model


class PlainNAGProcessor:
    """Wan's cross-attention with plain NAG."""

    def __init__(self, negative: torch.Tensor, nag: NAG) -> None:
        self.negative, self.nag = negative, nag

    def __call__(self, attn: Any, hidden_states: Any, text: Any, mask: Any = None, rotary: Any = None) -> torch.Tensor:
        positive, negative = (self.attend(attn, hidden_states, t) for t in (text, self.negative.expand_as(text)))
        group = {"token": 1, "frame": positive.shape[1] // FRAMES, "clip": positive.shape[1]}[self.nag.norm]
        features = plain_grouped_nag(positive, negative, self.nag.scale, self.nag.tau, self.nag.alpha, group)
        return attn.to_out[0](features.flatten(2))

    @staticmethod
    def attend(attn: Any, hidden_states: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(text))
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, attn.to_v(text)))
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), value)
