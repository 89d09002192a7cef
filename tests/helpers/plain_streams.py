"""HunyuanVideo, Framepack and Mochi with NAG: plain blocks for three streams, video, prompt and negative."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.joint_attention import plain_joint
from tests.helpers.tiny_families import Tiny, Values
from vidguide.calls.outputs import prediction_of


class Negative:
    """Text stream of a negative: its tokens `(B, L, C)`, its vector `(B, C)`, and the mask of its valid tokens."""

    def __init__(self, text: Tensor, vector: Tensor, valid: Tensor) -> None:
        self.text, self.vector, self.valid = text, vector, valid


def embed_negative(model: Any, inputs: Values, negative: Values) -> Negative:
    """Return the negative's stream before the first block."""
    embeds, mask = negative["encoder_hidden_states"], negative["encoder_attention_mask"]
    if not hasattr(model, "context_embedder"):
        vector, text = model.time_embed(inputs["timestep"], embeds, mask, hidden_dtype=embeds.dtype)
        return Negative(text, vector, mask > 0)
    text = model.context_embedder(embeds, inputs["timestep"], mask)
    vector = model.time_text_embed(inputs["timestep"], negative["pooled_projections"], inputs.get("guidance"))[0]
    if "image_embeds" in inputs:
        image = model.image_projection(inputs["image_embeds"])
        text, mask = torch.cat([image, text], 1), torch.cat([torch.ones(image.shape[:2]), mask], 1)
    return Negative(text, vector, mask > 0)


def rotate(heads: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of channels of `(B, L, H, D)` by angles `(L, D)` or `(L, H, D / 2)`."""
    cos, sin = rope
    cos, sin = (cos[:, None, ::2], sin[:, None, ::2]) if cos.ndim == 2 else (cos, sin)
    real, imaginary = heads[..., ::2], heads[..., 1::2]
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1).flatten(-2)


class PlainBlock(nn.Module):
    """Block with an additional stream for the negative."""

    def __init__(self, block: Any, negative: Negative) -> None:
        super().__init__()
        self.block, self.negative = block, negative

    def attention(self, streams: list[Tensor], mask: Tensor | None, rope: Any) -> list[Tensor]:
        """Return features of normed video, prompt and negative `(B, L, C)`, before the output projection."""
        attn = getattr(self.block, "attn", None) or self.block.attn1
        added = getattr(attn, "add_q_proj", None) is not None
        video = [(attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k), (attn.to_v, nn.Identity())]
        text = video
        if added:
            text = [(attn.add_q_proj, attn.norm_added_q), (attn.add_k_proj, attn.norm_added_k)]
            text += [(attn.add_v_proj, nn.Identity())]
        joint = []
        for n in range(3):
            parts = [
                norm(project(stream).unflatten(2, (attn.heads, -1)))
                for stream, (project, norm) in zip(streams, (video[n], text[n], text[n]), strict=True)
            ]
            if n < 2:
                parts[0] = rotate(parts[0], rope)
            joint.append(torch.cat(parts, 1))
        lengths = [stream.shape[1] for stream in streams]
        indices = torch.arange(sum(lengths)).split(lengths)
        prompt = torch.ones(lengths[1]) if mask is None else mask.flatten(1)[:, -lengths[1] :]
        masks = [torch.ones(len(streams[0]), lengths[0]), prompt.expand(len(streams[0]), -1), self.negative.valid]
        valid_keys = torch.cat([part.bool() for part in masks], 1)
        samples = zip(joint[0], joint[1], joint[2], valid_keys, strict=True)
        features = [plain_joint(query, key, value, indices, valid) for query, key, value, valid in samples]
        return list(torch.stack(features).flatten(2).split(lengths, 1))


def split_modulations(modulations: Tensor, count: int, tokens: int) -> list[Tensor]:
    """Split `(B, count * C)` into `count` tensors `(B, L, C)`."""
    return [part[:, None].expand(-1, tokens, -1) for part in modulations.chunk(count, 1)]


class PlainHunyuan(PlainBlock):
    """Block of HunyuanVideo. Tokens of a first frame from an image have a separate modulation vector.

    Attributes:
        count: number of modulations that a norm returns.
    """

    count: int

    def norms(self) -> list[Any]:
        """Return the norms of video, prompt and negative."""
        raise NotImplementedError

    def outputs(self, streams: list[Tensor], modulations: list[list[Tensor]], mask: Any, rope: Any) -> list[Tensor]:
        """Return the three streams after the block."""
        raise NotImplementedError

    def forward(
        self,
        video: Tensor,
        prompt: Tensor,
        vector: Tensor,
        mask: Tensor | None,
        rope: Any,
        image_vector: Tensor | None = None,
        image_tokens: int = 0,
    ) -> tuple[Tensor, Tensor]:
        streams = [video, prompt, self.negative.text]
        modulations = []
        for i, norm in enumerate(self.norms()):
            by = self.negative.vector if i == 2 else vector
            leading = image_tokens if i == 0 and image_vector is not None else 0
            parts = [(by, streams[i].shape[1] - leading)]
            if image_vector is not None and leading:
                parts = [(image_vector, leading), *parts]
            each = [split_modulations(norm.linear(F.silu(one)), self.count, tokens) for one, tokens in parts]
            modulations.append([torch.cat(part, 1) for part in zip(*each, strict=True)])
        video, prompt, self.negative.text = self.outputs(streams, modulations, mask, rope)
        return video, prompt


class PlainDual(PlainHunyuan):
    count = 6

    def norms(self) -> list[Any]:
        return [self.block.norm1, self.block.norm1_context, self.block.norm1_context]

    def outputs(self, streams: list[Tensor], modulations: list[list[Tensor]], mask: Any, rope: Any) -> list[Tensor]:
        block, outputs = self.block, []
        normed = [modulate(stream, *two) for stream, (*two, _, _, _, _) in zip(streams, modulations, strict=True)]
        attended = self.attention(normed, mask, rope)
        for i, (_, _, gate, shift, scale, mlp_gate) in enumerate(modulations):
            project, feed = (block.attn.to_add_out, block.ff_context) if i else (block.attn.to_out[0], block.ff)
            stream = streams[i] + gate * project(attended[i])
            outputs.append(stream + mlp_gate * feed(modulate(stream, shift, scale)))
        return outputs


class PlainSingle(PlainHunyuan):
    count = 3

    def norms(self) -> list[Any]:
        return [self.block.norm] * 3

    def outputs(self, streams: list[Tensor], modulations: list[list[Tensor]], mask: Any, rope: Any) -> list[Tensor]:
        block, outputs = self.block, []
        normed = [modulate(stream, *two) for stream, (*two, _) in zip(streams, modulations, strict=True)]
        attended = self.attention(normed, mask, rope)
        for i, (_, _, gate) in enumerate(modulations):
            mlp = F.gelu(block.proj_mlp(normed[i]), approximate="tanh")
            outputs.append(streams[i] + gate * block.proj_out(torch.cat([attended[i], mlp], 2)))
        return outputs


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


class PlainMochi(PlainBlock):
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        encoder_attention_mask: Tensor,
        image_rotary_emb: Any,
    ) -> tuple[Tensor, Tensor]:
        block, streams = self.block, [hidden_states, encoder_hidden_states, self.negative.text]
        vectors, modulations = [F.silu(vector) for vector in (temb, temb, self.negative.vector)], []
        for i, vector in enumerate(vectors):
            if i and block.context_pre_only:
                modulations.append([block.norm1_context.linear_1(vector)[:, None]])
            else:
                linear = (block.norm1_context if i else block.norm1).linear
                modulations.append(split_modulations(linear(vector), 4, streams[i].shape[1]))
        normed = [rms(stream) * (1 + scale) for stream, (scale, *_) in zip(streams, modulations, strict=True)]
        attended = self.attention(normed, encoder_attention_mask, image_rotary_emb)
        outputs = []
        for i, stream in enumerate(streams):
            if i and block.context_pre_only:
                outputs.append(stream)
                continue
            _, gate, scale, mlp_gate = modulations[i]
            project, feed = (block.attn1.to_add_out, block.ff_context) if i else (block.attn1.to_out[0], block.ff)
            # The attention output of Mochi's text padding is zero.
            valid = (torch.ones(1, 1), encoder_attention_mask, self.negative.valid)[i][..., None]
            stream = stream + rms(project(attended[i] * valid)) * gate.tanh()
            outputs.append(stream + rms(feed(rms(stream) * (1 + scale))) * mlp_gate.tanh())
        video, prompt, self.negative.text = outputs
        return video, prompt


def rms(tokens: Tensor) -> Tensor:
    return tokens / (tokens.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def plain_prediction(tiny: Tiny, inputs: Values, negative: Values, skipped: int | None = None) -> Tensor:
    """Return the guided prediction of a model with plain blocks, optionally without one of its dual blocks."""
    model = tiny.make().to(torch.float64)
    stream = embed_negative(model, inputs, negative)
    kinds: dict[str, type[PlainBlock]] = {
        "transformer_blocks": PlainMochi if tiny.key == "MochiTransformer3DModel" else PlainDual
    }
    kinds["single_transformer_blocks"] = PlainSingle
    for name, kind in kinds.items():
        blocks = getattr(model, name, nn.ModuleList())
        for i, block in enumerate(blocks):
            blocks[i] = kind(block, stream)
    if skipped is not None:
        del model.transformer_blocks[skipped]
    return prediction_of(model(**inputs))
