"""Measure how well a shipped model follows its prompt, as read by the oracle: the tables of the model cards.

    python benchmarks/shipped_model.py [--model tiny | tiny-4step]

Captions of attribute combinations that are not in the training data, one seed each, by a plain WanPipeline call at the
pipeline's default text length (512), without vidguide. `tiny`: with its shipped defaults (20 steps, no guidance), the
same with one attribute omitted, and with the pipeline's defaults (50 steps, guidance_scale 5); the oracle is checked on
renders and their reconstructions. `tiny-4step`: compared with its teacher at 20 and at 4 steps.
"""

import argparse
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from reporting import percent, share, table, write
from rich.progress import track

from vidguide.eval.world.oracle import Reading, read
from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption, held_out, render
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.models.spec import SHIPPED

BATCH = 16
FOUR: dict[str, Any] = dict(num_inference_steps=4, guidance_scale=1.0)
TWENTY: dict[str, Any] = dict(num_inference_steps=20, guidance_scale=1.0)
UNSAID = ", one attribute unsaid"
ROWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "tiny": {
        "20 steps, no guidance (shipped defaults)": ("tiny", TWENTY),
        f"20 steps, no guidance{UNSAID}": ("tiny", TWENTY),
        "50 steps, guidance_scale 5 (the pipeline's defaults)": ("tiny", {}),
    },
    "tiny-4step": {
        "student, 4 steps (shipped defaults)": ("tiny-4step", FOUR),
        "teacher, 20 steps": ("tiny", TWENTY),
        "teacher, 4 steps": ("tiny", FOUR),
        f"student, 4 steps{UNSAID}": ("tiny-4step", FOUR),
        f"teacher, 20 steps{UNSAID}": ("tiny", TWENTY),
        f"teacher, 4 steps{UNSAID}": ("tiny", FOUR),
    },
}


def held_out_captions(count: int, unsaid: bool) -> list[tuple[Scene, str]]:
    """Return held-out scenes in equal numbers and their captions in alternating phrase orders; with `unsaid`, each
    omits one attribute in turn."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(scenes)), count))
    captions = []
    for turn, index in enumerate(order):
        omitted = list(ATTRIBUTES)[turn % len(ATTRIBUTES)] if unsaid else None
        scene = Scene(**asdict(scenes[index]) | ({omitted: None} if omitted else {}))
        captions.append((scene, caption(scene, turn)))
    return captions


def sample(pipe: Any, prompts: list[tuple[Scene, str]], about: str, **settings: Any) -> list[Reading]:
    """Return the readings of one clip per caption; the seed is the index of the caption."""
    readings: list[Reading] = []
    for start in track(range(0, len(prompts), BATCH), about):
        captions = [text for _, text in prompts[start : start + BATCH]]
        generators = [torch.Generator().manual_seed(start + offset) for offset in range(len(captions))]
        video = pipe(captions, height=64, width=64, num_frames=13, generator=generators, **settings).frames
        readings += [read(to_frames(clip)) for clip in video]
    return readings


def accuracy(scenes: list[Scene], readings: list[Reading]) -> dict[str, tuple[float, float, float]]:
    """Return shares with exact intervals: correct per named attribute, well-formed in every frame, and all named
    attributes correct."""
    pairs = list(zip(scenes, readings, strict=True))
    right: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "well-formed", "all that is asked")}
    for scene, reading in pairs:
        correct = {name: reading.matches(scene, name) for name in ATTRIBUTES if getattr(scene, name) is not None}
        for name, value in (
            correct | {"well-formed": reading.well_formed, "all that is asked": all(correct.values())}
        ).items():
            right[name].append(value)
    return {name: share(sum(values), len(values)) for name, values in right.items()}


def reconstruct(pipe: Any, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Encode and decode the clips by the VAE."""
    results = []
    for clip in track(clips, "reconstructions"):
        video = torch.from_numpy(clip).float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]
        with torch.no_grad():
            decoded = pipe.vae.decode(pipe.vae.encode(video).latent_dist.mode()).sample
        results.append(to_frames(decoded[0].permute(1, 2, 3, 0) / 2 + 0.5))
    return results


def oracle_readings(pipe: Any, count: int) -> dict[str, tuple[list[Scene], list[Reading]]]:
    """Return readings of renders, and of the reconstructions of half of them."""
    random = np.random.default_rng(1)
    scenes = [all_scenes()[index] for index in random.integers(0, len(all_scenes()), count)]
    renders = [render(scene, random) for scene in scenes]
    decoded = reconstruct(pipe, renders[: count // 2])
    return {
        "the oracle on clean renders": (scenes, [read(clip) for clip in renders]),
        "the oracle on reconstructions": (scenes[: len(decoded)], [read(clip) for clip in decoded]),
    }


def load_plain(name: str) -> Any:
    """Load a shipped pipeline by diffusers."""
    pipe: Any = WanPipeline.from_pretrained(SHIPPED[name].path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Measure, print and write `benchmarks/results/shipped_model_MODEL[_length_N].{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(ROWS))
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument(
        "--clips-defaults",
        type=int,
        default=512,
        help="clips for the pipeline's defaults, which take ten times as long",
    )
    parser.add_argument("--length", type=int, default=512, help="text length, in tokens")
    args = parser.parse_args()
    pipes = {name: load_plain(name) for name in {name for name, _ in ROWS[args.model].values()}}
    pairs_of = oracle_readings(pipes["tiny"], args.clips) if args.model == "tiny" else {}
    for about, (name, settings) in ROWS[args.model].items():
        count = args.clips if settings else args.clips_defaults
        if not count:
            continue
        prompts = held_out_captions(count, UNSAID in about)
        readings = sample(pipes[name], prompts, about, **settings, max_sequence_length=args.length)
        pairs_of[about] = ([scene for scene, _ in prompts], readings)
        results = {about: accuracy(*pairs) for about, pairs in pairs_of.items()}
        rows = [
            {"percent right [95% interval]": about, "clips": str(len(pairs_of[about][0]))}
            | {name: percent(value) for name, value in row.items()}
            for about, row in results.items()
        ]
        clips = {about: len(scenes) for about, (scenes, _) in pairs_of.items()}
        file = f"shipped_model_{args.model}" + (f"_length_{args.length}" if args.length != 512 else "")
        write(file, table(rows), {"clips": clips, "length": args.length, "results": results})


if __name__ == "__main__":
    main()
