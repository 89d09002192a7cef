"""Models of common sizes with random weights, and a call of each, for benchmarks/gpu.py.

Configurations are those of the published `config.json` files, sizes those of the pipelines or model cards.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch

Call = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Configuration of a transformer and size of its clip.

    Attributes:
        config: changes to the defaults of the class.
        layers: numbers of layers of the full model, by the names of the settings.
        timed: numbers of layers that are built, if fewer to save time; empty for all.
        grid: tokens of the video, (F, H, W).
        text: number of text tokens.
        tiny: changes to the configuration at toy sizes.
        inputs: `(model, config, on) -> arguments` of the call except the text.
        texts: `(model, config, on) -> arguments` of the text.
    """

    name: str
    transformer: str
    config: Call = field(default_factory=dict)
    layers: dict[str, int]
    timed: dict[str, int] = field(default_factory=dict)
    grid: tuple[int, int, int]
    text: int
    tiny: Call
    inputs: Callable[["Model", Any, Call], Call]
    texts: Callable[["Model", Any, Call], Call]

    @property
    def tokens(self) -> int:
        """Number of video tokens."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    def toy(self) -> "Model":
        """Return the model at toy sizes, to test a script."""
        layers = dict.fromkeys(self.layers, 3)
        return replace(self, config={**self.config, **self.tiny}, timed=layers, grid=(2, 3, 4), text=8)

    def make(self, on: Call) -> Any:
        """Return the transformer with random weights, in `on`'s dtype except the modules that diffusers keeps in
        float32."""
        torch.manual_seed(0)
        with torch.device(on["device"]):
            model = getattr(diffusers, self.transformer)(**self.config, **{**self.layers, **self.timed})
        fp32_modules = set(model._keep_in_fp32_modules or [])
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(torch.float32 if fp32_modules & set(name.split(".")) else on["dtype"])
        return model.eval().requires_grad_(False)

    def call(self, model: Any, on: Call) -> Call:
        """Return the arguments of a call."""
        timestep = torch.full((1,), 500, device=on["device"])
        return dict(timestep=timestep, **self.inputs(self, model.config, on), **self.texts(self, model.config, on))

    @property
    def is_complete(self) -> bool:
        """Whether all layers are built."""
        return not self.timed

    def built(self) -> str:
        """Return a text on the built layers, for the table."""
        if self.is_complete:
            return "all layers"
        return f"{sum(self.timed.values())} of {sum(self.layers.values())} layers"


def share_weights(model: Any) -> Any:
    """Return another model that shares the weights' memory."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def latents(model: Model, config: Any, on: Call) -> Call:
    """Return latents `(1, C, F, 2H, 2W)`."""
    frames, height, width = model.grid
    return {"hidden_states": torch.randn(1, config.in_channels, frames, 2 * height, 2 * width, **on)}


def frames_first(model: Model, config: Any, on: Call) -> Call:
    """Return CogVideoX's latents `(1, F, C, 2H, 2W)` and its rotary embedding."""
    angles = torch.randn(model.tokens, config.attention_head_dim, device=on["device"])
    video = latents(model, config, on)["hidden_states"].transpose(1, 2)
    return {"hidden_states": video, "image_rotary_emb": (angles.cos(), angles.sin())}


def with_guidance(model: Model, config: Any, on: Call) -> Call:
    """Return HunyuanVideo's latents and its embedded guidance scale."""
    return {**latents(model, config, on), "guidance": torch.full((1,), 6000.0, **on)}


def sequence(model: Model, config: Any, on: Call) -> Call:
    """Return LTX-Video's latents `(1, F H W, C)`."""
    sizes = dict(zip(("num_frames", "height", "width"), model.grid, strict=True))
    return {"hidden_states": torch.randn(1, model.tokens, config.in_channels, **on), **sizes}


def plain_text(width: str) -> Callable[[Model, Any, Call], Call]:
    """Return embeddings of the width that the configuration names."""
    return lambda model, config, on: {"encoder_hidden_states": torch.randn(1, model.text, config[width], **on)}


def masked_text(width: str, pooled: str | None = None) -> Callable[[Model, Any, Call], Call]:
    """Return embeddings whose last quarter is padding, their mask, and pooled embeddings."""

    def make(model: Model, config: Any, on: Call) -> Call:
        mask = (torch.arange(model.text, device=on["device"]) < 0.75 * model.text).to(on["dtype"])
        text = {**plain_text(width)(model, config, on), "encoder_attention_mask": mask[None]}
        return {**text, "pooled_projections": torch.randn(1, config[pooled], **on)} if pooled else text

    return make


SMALL = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4)
WAN = dict(**SMALL, text_dim=16, freq_dim=32, ffn_dim=32, rope_max_seq_len=32)
MODELS = (
    Model(
        name="Wan 2.1 1.3B, 480p, 81 frames",
        transformer="WanTransformer3DModel",
        config=dict(num_attention_heads=12, ffn_dim=8960),
        layers=dict(num_layers=30),
        grid=(21, 30, 52),
        text=512,
        tiny=WAN,
        inputs=latents,
        texts=plain_text("text_dim"),
    ),
    Model(
        name="Wan 2.1 14B, 720p, 81 frames",
        transformer="WanTransformer3DModel",
        layers=dict(num_layers=40),
        timed=dict(num_layers=4),
        grid=(21, 45, 80),
        text=512,
        tiny=WAN,
        inputs=latents,
        texts=plain_text("text_dim"),
    ),
    Model(
        name="CogVideoX-5B, 480x720, 49 frames",
        transformer="CogVideoXTransformer3DModel",
        config=dict(num_attention_heads=48, use_rotary_positional_embeddings=True),
        layers=dict(num_layers=42),
        timed=dict(num_layers=14),
        grid=(13, 30, 45),
        text=226,
        tiny=dict(**SMALL, text_embed_dim=16, time_embed_dim=8, max_text_seq_length=8),
        inputs=frames_first,
        texts=plain_text("text_embed_dim"),
    ),
    Model(
        name="HunyuanVideo, 720p, 129 frames",
        transformer="HunyuanVideoTransformer3DModel",
        config=dict(guidance_embeds=True),
        layers=dict(num_layers=20, num_single_layers=40),
        timed=dict(num_layers=1, num_single_layers=2),
        grid=(33, 45, 80),
        text=256,
        tiny=dict(**SMALL, num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(4, 6, 6)),
        inputs=with_guidance,
        texts=masked_text("text_embed_dim", "pooled_projection_dim"),
    ),
    Model(
        name="LTX-Video 2B, 512x704, 161 frames",
        transformer="LTXVideoTransformer3DModel",
        layers=dict(num_layers=28),
        grid=(21, 16, 22),
        text=128,
        tiny=dict(**SMALL, cross_attention_dim=32, caption_channels=16),
        inputs=sequence,
        texts=masked_text("caption_channels"),
    ),
)
