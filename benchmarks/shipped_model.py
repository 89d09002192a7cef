"""How well the shipped model does what its prompt says, read by the oracle: the tables of the model card.

    python benchmarks/shipped_model.py

Captions of combinations that no training clip showed, one seed each, by a plain WanPipeline call at the pipeline's own
text length (512) with nothing of vidguide around it: with the shipped defaults (20 steps, no guidance) and with the
pipeline's own (50 steps, guidance_scale 5). The oracle itself is held against renders and their reconstructions.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from reporting import percent, share, table, write
from rich.progress import track

from vidguide.eval.oracle import Reading, read
from vidguide.eval.world import ATTRIBUTES, Scene, all_scenes, caption, held_out, render
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.models import SHIPPED

BATCH = 16
SETTINGS: dict[str, dict[str, Any]] = {
    "20 steps, no guidance (shipped defaults)": dict(num_inference_steps=20, guidance_scale=1.0),
    "50 steps, guidance_scale 5 (the pipeline's defaults)": {},
}


def held_out_captions(count: int) -> list[tuple[Scene, str]]:
    """Complete held-out scenes, each about as often, and their captions with the phrase orders taking turns."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(scenes)), count))
    return [(scenes[index], caption(scenes[index], turn)) for turn, index in enumerate(order)]


def sample(pipe: Any, asked: list[tuple[Scene, str]], about: str, **settings: Any) -> list[Reading]:
    """Readings of one clip per caption; the seed is the caption's place in the list."""
    readings: list[Reading] = []
    for start in track(range(0, len(asked), BATCH), about):
        captions = [text for _, text in asked[start : start + BATCH]]
        generators = [torch.Generator().manual_seed(start + offset) for offset in range(len(captions))]
        video = pipe(captions, height=64, width=64, num_frames=13, generator=generators, **settings).frames
        readings += [read(to_frames(clip)) for clip in video]
    return readings


def accuracy(scenes: list[Scene], readings: list[Reading]) -> dict[str, tuple[float, float, float]]:
    """Share right per attribute, well-formed in every frame, and all of it at once, with Wilson intervals."""
    pairs = list(zip(scenes, readings, strict=True))
    right = {name: [reading.matches(scene, name) for scene, reading in pairs] for name in ATTRIBUTES}
    right["well-formed"] = [reading.well_formed for reading in readings]
    right["all five right"] = [all(right[name][i] for name in ATTRIBUTES) for i in range(len(pairs))]
    return {name: share(sum(values), len(values)) for name, values in right.items()}


def reconstructions(pipe: Any, clips: list[np.ndarray]) -> list[np.ndarray]:
    """The clips through the VAE and back."""
    results = []
    for clip in track(clips, "reconstructions"):
        video = torch.from_numpy(clip).float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]
        with torch.no_grad():
            decoded = pipe.vae.decode(pipe.vae.encode(video).latent_dist.mode()).sample
        results.append(to_frames(decoded[0].permute(1, 2, 3, 0) / 2 + 0.5))
    return results


def main() -> None:
    """Measure, print and write `benchmarks/results/shipped_model.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED["tiny"].path)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument(
        "--clips-defaults", type=int, default=512, help="for the pipeline's defaults: ten times the work"
    )
    parser.add_argument("--length", type=int, default=512, help="text length, in tokens")
    args = parser.parse_args()
    pipe: Any = WanPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    results = {}
    random = np.random.default_rng(1)
    scenes = [all_scenes()[index] for index in random.integers(0, len(all_scenes()), args.clips)]
    renders = [render(scene, random) for scene in scenes]
    results["the oracle on clean renders"] = accuracy(scenes, [read(clip) for clip in renders])
    decoded = reconstructions(pipe, renders[: args.clips // 2])
    results["the oracle on reconstructions"] = accuracy(scenes[: len(decoded)], [read(clip) for clip in decoded])
    clips = {about: len(scenes) for about in results} | {"the oracle on reconstructions": len(decoded)}
    for (about, settings), count in zip(SETTINGS.items(), (args.clips, args.clips_defaults), strict=True):
        asked = held_out_captions(count)
        if not count:
            continue
        readings = sample(pipe, asked, about, **settings, max_sequence_length=args.length)
        results[about], clips[about] = accuracy([scene for scene, _ in asked], readings), count
        rows = [
            {"percent right [95% interval]": about, "clips": str(clips[about])}
            | {k: percent(v) for k, v in row.items()}
            for about, row in results.items()
        ]
        name = "shipped_model" if args.length == 512 else f"shipped_model_length_{args.length}"
        write(name, table(rows), {"clips": clips, "length": args.length, "results": results})


if __name__ == "__main__":
    main()
