"""A video transformer of your own, guided by a declaration: no file of the model changes."""

from typing import Any

import torch
from diffusers import ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn

from vidguide import EMAG, NAG, guide, locate
from vidguide.transformer.family import Family, register_family


class Block(nn.Module):
    """Self-attention over all tokens of the video, then attention to the text."""

    def __init__(self, dim: int, text_dim: int) -> None:
        super().__init__()
        settings: dict[str, Any] = {"query_dim": dim, "heads": 4, "dim_head": dim // 4, "processor": AttnProcessor2_0()}
        self.attn1, self.attn2 = Attention(**settings), Attention(cross_attention_dim=text_dim, **settings)

    def forward(self, hidden_states: Tensor, text: Tensor) -> Tensor:
        hidden_states = hidden_states + self.attn1(hidden_states)
        return hidden_states + self.attn2(hidden_states, encoder_hidden_states=text)


class MyVideoTransformer(ModelMixin, ConfigMixin):
    """Predict the velocity `(B, C, F, H, W)` of a noisy video."""

    @register_to_config
    def __init__(self, in_channels: int = 4, patch_size: int = 2, dim: int = 32, text_dim: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(in_channels * patch_size**2, dim), nn.Linear(dim, in_channels * patch_size**2)
        self.blocks = nn.ModuleList(Block(dim, text_dim) for _ in range(4))

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor]:
        size = {"p": self.config.patch_size, "q": self.config.patch_size}
        grid = {"h": hidden_states.shape[3] // size["p"], "w": hidden_states.shape[4] // size["q"]}
        tokens = self.first(rearrange(hidden_states, "b c f (h p) (w q) -> b (f h w) (c p q)", **size))
        for block in self.blocks:
            tokens = block(tokens, encoder_hidden_states)
        return (rearrange(self.last(tokens), "b (f h w) (c p q) -> b c f (h p) (w q)", **grid, **size),)


register_family(Family(name="Mine", transformers=("MyVideoTransformer",), text_attention=("attn2",)))

torch.manual_seed(0)
model, scheduler = MyVideoTransformer(), FlowMatchEulerDiscreteScheduler()
noise, text, negative = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 6, 16), torch.randn(1, 6, 16)
for location in locate(model):
    print(location.path, location.role, location.extent)
with guide(model, NAG(negative_prompt_embeds=negative), EMAG(decay=0.5), scheduler=scheduler) as run, torch.no_grad():
    scheduler.set_timesteps(5)
    latents = noise
    for t in scheduler.timesteps:
        latents = scheduler.step(model(latents, t[None], text)[0], t, latents).prev_sample
print(run.trace)
