"""Joint attention of a text and a video, plain and with NAG, and its inputs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.plain_nag import plain_nag
from vidguide import NAG
from vidguide.attention.site import KernelCall
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.family import Joint
from vidguide.transformer.text_stream import TextStream

VIDEO, PROMPT, NEGATIVE = 12, 5, 4


BATCH, HEADS, DIM = 2, 3, 8


STRENGTH = NAG(negative_prompt="blurry", scale=4, tau=1.5, alpha=0.5)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    """Return attention of one sample's `(L, H, D)` tensors; `valid` are the indices of the unmasked keys."""
    outputs = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[valid][:, head].T / query.shape[-1] ** 0.5
        outputs.append(scores.softmax(-1) @ value[valid][:, head])
    return torch.stack(outputs, 1)


def plain_joint(query: Tensor, key: Tensor, value: Tensor, parts: tuple[Tensor, ...], valid: Tensor) -> Tensor:
    """Return joint attention with NAG of one sample."""
    video, prompt, negative = parts
    output = torch.empty_like(query)
    features = {}
    for name, text in (("prompt", prompt), ("negative", negative)):
        keys = torch.cat([video, text])
        keys = keys[valid[keys]]
        output[text] = softmax_attention(query[text], key, value, keys)
        features[name] = softmax_attention(query[video], key, value, keys)
    strength = (STRENGTH.scale, STRENGTH.tau, STRENGTH.alpha)
    output[video] = plain_nag(features["prompt"][None], features["negative"][None], *strength)[0]
    return output


def sequence(text_first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of video, prompt and negative."""
    if text_first:
        texts = torch.arange(PROMPT + NEGATIVE)
        return torch.arange(VIDEO) + PROMPT + NEGATIVE, texts[:PROMPT], texts[PROMPT:]
    texts = torch.arange(PROMPT + NEGATIVE) + VIDEO
    return torch.arange(VIDEO), texts[:PROMPT], texts[PROMPT:]


def tensors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (BATCH, VIDEO + PROMPT + NEGATIVE, HEADS, DIM)
    query, key, value = (2 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)).to(dtype)
    return query, key, value


def stream_of(joint: Joint, dtype: torch.dtype) -> TextStream:
    stream = TextStream(joint, Batch(), [])
    stream.text, stream.prompt_length = torch.zeros(BATCH, NEGATIVE, 1, dtype=dtype), PROMPT
    return stream


def key_mask(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the mask `(B, K)`: the last token of each text is padding, in the second sample the last two."""
    valid = torch.ones(BATCH, VIDEO + PROMPT + NEGATIVE, dtype=torch.bool)
    for sample in range(BATCH):
        for text in parts[1:]:
            valid[sample, text[len(text) - 1 - sample :]] = False
    return valid


def kernel(mask: Tensor | None, layout: str, halved: bool = False) -> KernelCall:
    """Return a kernel call; `halved`: the first half of the batch is unconditional."""
    if layout == "BHLD":
        call = KernelCall(F.scaled_dot_product_attention, layout, (), {"attn_mask": mask, "dropout_p": 0.0})
    else:
        call = KernelCall(dispatch_attention, layout, (), {"attn_mask": mask, "backend": None, "parallel_config": None})
    call.batch = Batch(halved)
    return call


def dispatch_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)


class PlainStreams:
    """CogVideoX's attention on `[prompt | negative]` with plain NAG."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Any,
        image_rotary_emb: Any,
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        texts = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = (
            norm(project(both).unflatten(2, (attn.heads, -1)))
            for norm, project in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k), (torch.nn.Identity(), attn.to_v))
        )
        for tensor in (query, key):
            tensor[:, texts:] = apply_rotary_emb(tensor[:, texts:].transpose(1, 2), image_rotary_emb).transpose(1, 2)
        parts = torch.arange(texts, both.shape[1]), torch.arange(7), torch.arange(7, texts)
        valid = torch.ones(both.shape[1], dtype=torch.bool)
        output = torch.stack([plain_joint(*sample, parts, valid) for sample in zip(query, key, value, strict=True)])
        output = attn.to_out[0](output.flatten(2))
        return output[:, texts:], output[:, :texts]
