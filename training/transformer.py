"""Train the small WanTransformer3DModel and text encoder of the shipped model by rectified flow.

    python training/transformer.py --work work --steps 4000                                   # resumable, CPU or GPU
    python training/transformer.py --work work --steps 2000 --start pipelines/weights/tiny    # continue from a pipeline

From scratch it needs the encoder that training/vae.py writes; `--start` begins with the weights of an exported pipeline
and encodes with its autoencoder. Clips of held-out scenes are not encoded. A run of N steps is the same whether or not
it was interrupted. WanPipeline pads text with zero
embeddings and attends to them without a mask. Here all pads share one token with the logit bias log(number of pads),
which is the same attention at a sixteenth of the cost; the text length is drawn per caption.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vae as vae_script
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from optimiser import SAVED_EVERY, Optimiser, device_for_training, load_state, save_state, seeded
from text import LENGTH, make_text_encoder, make_tokenizer, random_caption
from torch import nn

from vidguide.eval.world.scene import all_scenes, held_out, render

CONFIG: dict[str, Any] = dict(
    patch_size=(1, 4, 4),
    num_attention_heads=4,
    attention_head_dim=64,
    in_channels=8,
    out_channels=8,
    text_dim=96,
    freq_dim=128,
    ffn_dim=768,
    num_layers=5,
    rope_max_seq_len=32,
)
SHIFT = 3.0
UNIFORM, HIGH = 0.25, 0.25  # shares of noise levels drawn uniformly, and from HIGHEST, where the content is decided
HIGHEST = (0.85, 1.0)
LENGTHS_SHORT = (LENGTH, LENGTH, 32)
LENGTHS_LONG = (512, 512, 512, 226, 128, 64, 32, LENGTH)


class TrainingAttention:
    """Wan's attention with a bias on the text logits, as separate operations; faster to train on a CPU than SDPA."""

    def __init__(self) -> None:
        self.bias = torch.zeros(1)

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, mask: Any, rotary_emb: Any) -> Any:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(text)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(text).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = (self.rotate(tensor, *rotary_emb) for tensor in (query, key))
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        logits = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1])
        if encoder_hidden_states is not None:
            logits = logits + self.bias[:, None, None, :]
        output = logits.softmax(-1).type_as(value) @ value
        return attn.to_out[0](output.transpose(1, 2).flatten(2))

    @staticmethod
    def rotate(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        even, odd = tensor.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = cos[..., 0::2].to(tensor.dtype), sin[..., 1::2].to(tensor.dtype)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class TextToVelocity(nn.Module):
    """Text encoder and transformer as one module: token ids and noisy latents to velocity."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder(vocabulary)
        self.transformer = WanTransformer3DModel(**CONFIG)
        self.attention = TrainingAttention()

    def written_out(self) -> "TextToVelocity":
        """Use TrainingAttention; export and sampling use diffusers' processors."""
        for block in self.transformer.blocks:
            block.attn1.processor = block.attn2.processor = self.attention
        return self

    def forward(self, latents: Any, timestep: Any, ids: Any, mask: Any, bias: Any) -> torch.Tensor:
        text = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        self.attention.bias = bias
        return self.transformer(latents, timestep, text, return_dict=False)[0]


def text_batch(tokenizer: Any, captions: list[str], lengths: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Return ids and mask `(B, LENGTH + 1)`, and the logit bias by which the first pad token represents all pads."""
    encoded = tokenizer(captions, padding="max_length", max_length=LENGTH + 1, return_tensors="pt")
    mask = encoded.attention_mask
    real = mask.sum(1)
    bias = torch.zeros(mask.shape).masked_fill(mask == 0, -1e4)
    pads = torch.from_numpy(lengths).sub(real)
    if (pads < 0).any():
        raise ValueError(f"a caption has {int(real.max())} tokens, more than the {LENGTH} planned for")
    bias[torch.arange(len(captions)), real] = torch.where(pads > 0, pads.clamp(min=1).float().log(), -1e4)
    return encoded.input_ids, mask, bias


def load_vae(args: argparse.Namespace) -> AutoencoderKLWan:
    """Return the autoencoder that encodes the clips: of the pipeline to start from, or of training/vae.py."""
    if args.start:
        return AutoencoderKLWan.from_pretrained(args.start, subfolder="vae")
    vae = AutoencoderKLWan(**vae_script.CONFIG)
    load_state(args.work / "vae_both.pt", vae)
    return vae


def encode_clips(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Return normalised latents of `args.clips` clips of training scenes, cached in a file."""
    path = args.work / "latents.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    device, dtype = device_for_training()
    vae = load_vae(args).to(device).eval()
    random = np.random.default_rng(args.seed + 1)
    scenes = [index for index, scene in enumerate(all_scenes()) if not held_out(scene)]
    chosen = torch.from_numpy(random.permutation(np.resize(scenes, args.clips)))
    parts = []
    for start in range(0, args.clips, 32):
        clips = np.stack([render(all_scenes()[index], random) for index in chosen[start : start + 32]])
        video = vae_script.videos(clips).to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype):
            parts.append(vae_script.encode(vae, video).float().cpu())
        if start % 3200 == 0:
            print(f"encoded {start} of {args.clips}", flush=True)
    latents = torch.cat(parts)
    if args.start:
        mean, std = (torch.tensor(values) for values in (vae.config.latents_mean, vae.config.latents_std))
    else:
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    latents = ((latents - mean[:, None, None, None]) / std[:, None, None, None]).half()
    data = dict(latents=latents, scenes=chosen, mean=mean, std=std)
    torch.save(data, path)
    return data


def sigmas(count: int) -> torch.Tensor:
    """Return noise levels: a quarter uniform, half logit-normal, both shifted as by the sampler, a quarter high."""
    uniform, normal, draw = torch.rand(count), torch.randn(count).sigmoid(), torch.rand(count)
    sigma = torch.where(draw < UNIFORM, uniform, normal)
    shifted = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
    return torch.where(draw > 1 - HIGH, torch.empty(count).uniform_(*HIGHEST), shifted)


def lengths_for(share: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Return padded text lengths: short at the beginning of training, later mostly the pipeline's default of 512."""
    return random.choice(LENGTHS_SHORT if share < 0.2 else LENGTHS_LONG, count)


def average_into(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the exponential moving average of the weights."""
    with torch.no_grad():
        targets, sources = ([p.detach() for p in module.parameters()] for module in (average, model))
        torch._foreach_lerp_(targets, sources, 1 - decay)


def initial_model(args: argparse.Namespace, vocabulary: int) -> TextToVelocity:
    """Return the model to train: of the pipeline to start from, or new."""
    torch.manual_seed(args.seed)
    model = TextToVelocity(vocabulary)
    if args.start:
        pipe = WanPipeline.from_pretrained(args.start)
        model.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
        model.transformer.load_state_dict(pipe.transformer.state_dict())
    return model


def train(args: argparse.Namespace) -> None:
    device, dtype = device_for_training()
    data = encode_clips(args)
    scenes, tokenizer = all_scenes(), make_tokenizer()
    model = initial_model(args, len(tokenizer)).to(device)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = Optimiser(model, muon_lr=args.rate, adam_lr=args.rate / 2, steps=args.steps)
    path, finished = args.work / "transformer.pt", 0
    if path.exists():
        finished = load_state(path, model, optimiser)
        average.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    velocity = torch.compile(model.written_out())
    started, smooth = time.time(), None
    for step in range(finished, args.steps):
        random = seeded(args.seed, step)
        picked = torch.from_numpy(random.integers(0, len(data["latents"]), args.batch))
        latents = data["latents"][picked].float().to(device)
        captions = [random_caption(scenes[index], random) for index in data["scenes"][picked]]
        lengths = lengths_for(1.0 if args.start else step / args.steps, args.batch, random)
        ids, mask, bias = (tensor.to(device) for tensor in text_batch(tokenizer, captions, lengths))
        noise, sigma = torch.randn_like(latents), sigmas(args.batch).to(device)
        mixed = torch.lerp(latents, noise, sigma[:, None, None, None, None])
        with torch.autocast(device.type, dtype):
            predicted = velocity(mixed, sigma * 1000, ids, mask, bias)
        loss = (predicted.float() - (noise - latents)).square().mean()
        optimiser.step(loss, step)
        average_into(average, model, min(args.average, (1 + step) / (10 + step)))
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        done = step + 1
        if done % 25 == 0:
            print(json.dumps(dict(step=done, seconds=round(time.time() - started), loss=round(smooth, 4))), flush=True)
        if done % SAVED_EVERY == 0 or done == args.steps:
            save_state(path, model, optimiser, done, average=average.state_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--clips", type=int, default=24000)
    parser.add_argument("--start", type=Path, help="folder of the pipeline to continue from")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of Muon; AdamW has half of it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
