"""Train the small AutoencoderKLWan of the shipped model on clips of the synthetic world.

    python training/vae.py --work work            # both stages, resumable, CPU or GPU

Stage 1 trains encoder and decoder on small moving crops with shuffled and mirrored colours (many scenes per second,
every edge in every phase). Stage 2 freezes the encoder, so that latents can be encoded at the same time, and fits the
decoder to full clips of the world with the error weighted towards the object.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from optimiser import SAVED_EVERY, Optimiser, device_for_training, load_state, save_state, seeded

from vidguide.eval.world.scene import ATTRIBUTES, BACKGROUND, COLOUR, RADIUS, all_scenes, coverage, render

# 4x in space, 2x in time. The alternative 8x / 4x with twice the channels had 28.7 dB after 12 minutes against 36.3.
CONFIG: dict[str, Any] = dict(
    base_dim=16,
    z_dim=8,
    dim_mult=[1, 2],
    num_res_blocks=1,
    temperal_downsample=[True],
    patch_size=2,
    in_channels=12,
    out_channels=12,
    scale_factor_spatial=4,
    scale_factor_temporal=2,
    latents_mean=[0.0] * 8,
    latents_std=[1.0] * 8,
)
NOISE = 0.1  # standard deviation added to the latents while the encoder trains, for a smooth latent space


def patches(video: torch.Tensor, size: int = 2) -> torch.Tensor:
    """Rearrange `(B, C, F, H, W)` to `(B, C*size*size, F, H/size, W/size)`, in the channel order of
    AutoencoderKLWan."""
    return rearrange(video, "b c f (h y) (w x) -> b (c x y) f h w", x=size, y=size)


def videos(clips: np.ndarray) -> torch.Tensor:
    """Convert clips `(B, F, H, W, 3)` uint8 to `(B, 3, F, H, W)` in -1..1."""
    return rearrange(torch.from_numpy(clips), "b f h w c -> b c f h w").float().div(127.5).sub(1).contiguous()


def encode(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    """Return the posterior mean of clips `(B, 3, F, H, W)` in two chunks (first frame, rest): equals `vae.encode`, but
    faster."""
    vae.clear_cache()
    video = patches(video)
    chunks = []
    for chunk in (video[:, :, :1], video[:, :, 1:]):
        vae._enc_conv_idx = [0]
        chunks.append(vae.encoder(chunk, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    vae.clear_cache()
    return vae.quant_conv(torch.cat(chunks, 2)).chunk(2, 1)[0]


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Return patches of clips from latents in two chunks: equals `vae.decode` before its unpatchify and clamp."""
    vae.clear_cache()
    latents = vae.post_quant_conv(latents)
    chunks = []
    for index, chunk in enumerate((latents[:, :, :1], latents[:, :, 1:])):
        vae._conv_idx = [0]
        chunks.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return torch.cat(chunks, 2)


def crops(random: np.random.Generator, count: int, frames: int = 9, size: int = 32) -> list[torch.Tensor]:
    """Return crops of moving shapes with shuffled and mirrored colours: clips in -1..1 and coverage."""
    clips, covers = [], []
    for _ in range(count):
        scene = random.choice(len(COLOUR)), random.choice(len(BACKGROUND))
        palette = np.array(list(COLOUR.values())[scene[0]]), np.array(list(BACKGROUND.values())[scene[1]])
        angle, speed = random.uniform(0, 2 * np.pi), random.choice([0, 1, 1, 1]) * random.uniform(1.8, 2.4)
        if random.random() < 0.7:
            angle = np.round(angle / (np.pi / 2)) * (np.pi / 2)
        middle = random.uniform(0, size, 2)
        centres = middle + (np.arange(frames) - frames / 2)[:, None] * speed * np.array([np.cos(angle), np.sin(angle)])
        radius = random.choice(list(RADIUS.values())) * random.uniform(0.97, 1.03)
        shape = random.choice(ATTRIBUTES["shape"])
        alpha = coverage(shape, centres[:, 0], centres[:, 1], np.full(frames, radius), size, size)[..., None]
        colour, background = (tone / 127.5 - 1 for tone in palette)
        if random.random() < 0.8:
            order, sign = random.permutation(3), random.choice([-1, 1], 3)
            colour, background = colour[order] * sign, background[order] * sign
        clips.append(background + alpha * (colour - background))
        covers.append(alpha)
    packed = (torch.from_numpy(np.stack(arrays).astype(np.float32)) for arrays in (clips, covers))
    return [rearrange(tensor, "b f h w c -> b c f h w").contiguous() for tensor in packed]


def whole_clips(random: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips of the world in -1..1, and where they differ from their corner colour (approximate object
    coverage)."""
    scenes = all_scenes()
    clips = np.stack([render(scenes[random.integers(len(scenes))], random) for _ in range(count)])
    video = videos(clips)
    return video, ((video - video[..., :1, :1]).abs().amax(1, keepdim=True) > 0.05).float()


def near(cover: torch.Tensor) -> torch.Tensor:
    """Return 1 within two pixels of the object, where errors have more weight."""
    return torch.nn.functional.max_pool3d(cover, (1, 5, 5), stride=1, padding=(0, 2, 2)).gt(0.01).float()


def train(args: argparse.Namespace, stage: str) -> None:
    path = args.work / f"vae_{stage}.pt"
    torch.manual_seed(args.seed)
    device, dtype = device_for_training()
    vae = AutoencoderKLWan(**CONFIG).to(device).train()
    if stage == "decoder":
        load_state(args.work / "vae_both.pt", vae)
        parts = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder])
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    else:
        parts = torch.nn.ModuleList([vae.encoder, vae.quant_conv, vae.post_quant_conv, vae.decoder])
    steps = args.steps_both if stage == "both" else args.steps_decoder
    optimiser = Optimiser(parts, muon_lr=4e-3, adam_lr=2e-3, steps=steps)
    finished = load_state(path, vae, optimiser) if path.exists() else 0
    started, average = time.time(), None
    for step in range(finished, steps):
        random = seeded(args.seed + (stage == "decoder"), step)
        video, cover = crops(random, args.batch) if stage == "both" else whole_clips(random, max(args.batch // 4, 1))
        video, cover = video.to(device), cover.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            mean = encode(vae, video) if stage == "both" else encode(vae, video).detach()
            noise = NOISE if stage == "both" else 0.03
            output = decode(vae, mean + noise * torch.randn_like(mean))
        error = (output.float() - patches(video)).square()
        weight = patches((1 + 3 * near(cover)).expand_as(video))
        loss = (error * weight).mean() / weight.mean() + 1e-4 * mean.float().square().mean() * (stage == "both")
        optimiser.step(loss, step)
        plain, done = error.mean().item(), step + 1
        average = plain if average is None else 0.95 * average + 0.05 * plain
        if done % 25 == 0:
            psnr = 10 * np.log10(4 / average)
            elapsed = round(time.time() - started)
            print(json.dumps(dict(stage=stage, step=done, seconds=elapsed, psnr=round(psnr, 2))), flush=True)
        if done % SAVED_EVERY == 0 or done == steps:
            save_state(path, vae, optimiser, done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--stages", nargs="+", default=["both", "decoder"])
    parser.add_argument("--steps-both", type=int, default=1500)
    parser.add_argument("--steps-decoder", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in args.stages:
        train(args, stage)


if __name__ == "__main__":
    main()
