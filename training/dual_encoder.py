"""Train the dual encoder of eval/world on renders of the synthetic world, without held-out scenes.

    python training/dual_encoder.py --work work --output eval/weights/dual      # resumable, CPU or GPU

In this world it is known exactly which caption is true of which clip, so each pair of a batch has its correct label,
even if a short caption matches several clips: a sigmoid loss (Zhai et al., SigLIP, ICCV 2023) over all pairs. For each
true caption the batch has one with a single changed word. Clips are blurred, tinted, shifted and noisy like generated
ones; one clip in ten shows nothing of the world and matches no caption.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from optimiser import SAVED_EVERY, Optimiser, device_for_training, load_state, save_state, seeded
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from text import random_caption
from torch.nn import functional as F

from vidguide.eval.metrics.world_attributes import ATTRIBUTE_OF
from vidguide.eval.world.dual_encoder import NUM_FRAMES, DualEncoder, sample_frames, scale_pixels, word_counts
from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption, held_out, render

CONFIG = {"width": 128}
FOREIGN = 0.1  # share of clips that show nothing of the world
SHIFT = 4  # pixels, largest


def named_attributes(text: str) -> dict[str, str]:
    """Return the attributes that a caption names."""
    return {ATTRIBUTE_OF[word]: word for word in text.split() if word in ATTRIBUTE_OF}


def true_of(scene: Scene | None, text: str) -> bool:
    """Return whether every attribute that a caption names is true of the scene; an empty caption is true of every
    scene."""
    return scene is not None and all(getattr(scene, name) == value for name, value in named_attributes(text).items())


def near_miss(text: str, random: np.random.Generator) -> str:
    """Return the caption with one word changed to another value of its attribute, never a held-out scene."""
    named = named_attributes(text)
    while named:
        name = list(named)[random.integers(len(named))]
        value = str(random.choice([value for value in ATTRIBUTES[name] if value != named[name]]))
        changed = Scene(**{**named, name: value})
        if not (changed.complete and held_out(changed)):
            return caption(changed, int(random.integers(3))) if len(named) > 1 else value
    return ""


def foreign(random: np.random.Generator) -> np.ndarray:
    """Return frames `(NUM_FRAMES, 64, 64, 3)` uint8 from outside the world: noise of a random grain, still or
    changing."""
    grain, still = random.uniform(0, 8), random.random() < 0.5
    noise = random.standard_normal((1 if still else NUM_FRAMES, 64, 64, 3), np.float32)
    noise = gaussian_filter(noise, (0, grain, grain, 0))
    levels = random.uniform(40, 215, 3) + random.uniform(0, 80) * noise / max(noise.std(), 1e-6)
    return np.broadcast_to(np.clip(levels, 0, 255), (NUM_FRAMES, 64, 64, 3)).astype(np.uint8)


def degrade(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shift, blur, tint and add noise to a render, as in generated clips."""
    shift = random.integers(-SHIFT, SHIFT + 1, 2)
    padded = np.pad(frames, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    y, x = SHIFT + shift
    pixels = padded[:, y : y + 64, x : x + 64].astype(np.float32)
    blur = random.choice([0, 0, random.uniform(0.3, 1.0)])
    pixels = gaussian_filter(pixels, (0, blur, blur, 0)) if blur else pixels
    tint = random.normal(0, 6, 3) + (pixels - 128) * random.normal(0, 0.05)
    noise = random.standard_normal(pixels.shape, np.float32) * random.choice([0, random.uniform(0, 12)])
    return np.clip(np.rint(pixels + tint + noise), 0, 255).astype(np.uint8)


def batch(random: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return clips `(count, NUM_FRAMES, 64, 64, 3)`, word counts of up to twice as many captions, and their labels."""
    known = [scene for scene in all_scenes() if not held_out(scene)]
    scenes: list[Scene | None] = []
    frames, texts = [], []
    for _ in range(count):
        scene = known[random.integers(len(known))]
        texts += [text := random_caption(scene, random), near_miss(text, random)]
        is_foreign = random.random() < FOREIGN
        clip = foreign(random) if is_foreign else degrade(sample_frames(render(scene, random)), random)
        frames.append(scale_pixels(clip))
        scenes.append(None if is_foreign else scene)
    texts = [text for text in texts if text]
    labels = [[float(true_of(scene, text)) for text in texts] for scene in scenes]
    words = np.stack([word_counts(text.split()) for text in texts])
    return torch.from_numpy(np.stack(frames)), torch.from_numpy(words), torch.tensor(labels)


def train(args: argparse.Namespace) -> DualEncoder:
    path = args.work / "dual.pt"
    torch.manual_seed(args.seed)
    device, dtype = device_for_training()
    model = DualEncoder(**CONFIG).to(device).train()
    optimiser = Optimiser(model, muon_lr=2e-3, adam_lr=1e-3, steps=args.steps)
    finished = load_state(path, model, optimiser) if path.exists() else 0
    started = time.time()
    for step in range(finished, args.steps):
        frames, words, labels = (tensor.to(device) for tensor in batch(seeded(args.seed, step), args.batch))
        with torch.autocast(device.type, dtype, enabled=device.type == "cuda"):
            logits = model.logits(model.clips(frames), model.captions(words)).float()
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)
        optimiser.step(loss, step)
        done = step + 1
        if done % 50 == 0:
            elapsed, right = round(time.time() - started), ((logits > 0) == (labels > 0)).float()
            metrics = dict(step=done, seconds=elapsed, loss=round(loss.item(), 3))
            print(json.dumps(metrics | dict(recall=round(right[labels > 0].mean().item(), 3))), flush=True)
        if done % SAVED_EVERY == 0 or done == args.steps:
            save_state(path, model, optimiser, done)
    return model.cpu().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for folder in (args.work, args.output):
        folder.mkdir(parents=True, exist_ok=True)
    model = train(args)
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, args.output / "model.safetensors")
    (args.output / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    print(f"{sum(tensor.numel() for tensor in model.parameters())} parameters")


if __name__ == "__main__":
    main()
