"""How well a shipped model does what its prompt says, read by the oracle: the tables of the model cards.

    python benchmarks/shipped_model.py [--model tiny | tiny-4step]

Captions of combinations that no training clip showed, one seed each, by a plain WanPipeline call at the pipeline's own
text length (512) with nothing of vidguide around it. `tiny`: with its shipped defaults (20 steps, no guidance), the
same with one attribute unsaid, and with the pipeline's own defaults (50 steps, guidance_scale 5); the oracle itself is
held against renders and their reconstructions. `tiny-4step`: beside its teacher, at 20 steps and at its own four.
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
    """Held-out scenes, each about as often, and captions with the phrase orders taking turns; without one attribute,
    each in its turn, where `unsaid`."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(scenes)), count))
    asked = []
    for turn, index in enumerate(order):
        left_out = list(ATTRIBUTES)[turn % len(ATTRIBUTES)] if unsaid else None
        scene = Scene(**asdict(scenes[index]) | ({left_out: None} if left_out else {}))
        asked.append((scene, caption(scene, turn)))
    return asked


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
    """Share right per attribute where it is asked for, well-formed in every frame, and all asked for at once, with
    Wilson intervals."""
    pairs = list(zip(scenes, readings, strict=True))
    right: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "well-formed", "all that is asked")}
    for scene, reading in pairs:
        said = {name: reading.matches(scene, name) for name in ATTRIBUTES if getattr(scene, name) is not None}
        for name, value in (
            said | {"well-formed": reading.well_formed, "all that is asked": all(said.values())}
        ).items():
            right[name].append(value)
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


def of_the_oracle(pipe: Any, count: int) -> dict[str, tuple[list[Scene], list[Reading]]]:
    """Readings of renders, and of half as many of them through the VAE."""
    random = np.random.default_rng(1)
    scenes = [all_scenes()[index] for index in random.integers(0, len(all_scenes()), count)]
    renders = [render(scene, random) for scene in scenes]
    decoded = reconstructions(pipe, renders[: count // 2])
    return {
        "the oracle on clean renders": (scenes, [read(clip) for clip in renders]),
        "the oracle on reconstructions": (scenes[: len(decoded)], [read(clip) for clip in decoded]),
    }


def load_plain(name: str) -> Any:
    """A shipped pipeline as diffusers loads it."""
    pipe: Any = WanPipeline.from_pretrained(SHIPPED[name].path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Measure, print and write `benchmarks/results/shipped_model_MODEL[_length_N].{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(ROWS))
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument(
        "--clips-defaults", type=int, default=512, help="for the pipeline's defaults: ten times the work"
    )
    parser.add_argument("--length", type=int, default=512, help="text length, in tokens")
    args = parser.parse_args()
    pipes = {name: load_plain(name) for name in {name for name, _ in ROWS[args.model].values()}}
    found = of_the_oracle(pipes["tiny"], args.clips) if args.model == "tiny" else {}
    for about, (name, settings) in ROWS[args.model].items():
        count = args.clips if settings else args.clips_defaults
        if not count:
            continue
        asked = held_out_captions(count, UNSAID in about)
        readings = sample(pipes[name], asked, about, **settings, max_sequence_length=args.length)
        found[about] = ([scene for scene, _ in asked], readings)
        results = {about: accuracy(*pairs) for about, pairs in found.items()}
        rows = [
            {"percent right [95% interval]": about, "clips": str(len(found[about][0]))}
            | {name: percent(value) for name, value in row.items()}
            for about, row in results.items()
        ]
        clips = {about: len(scenes) for about, (scenes, _) in found.items()}
        file = f"shipped_model_{args.model}" + (f"_length_{args.length}" if args.length != 512 else "")
        write(file, table(rows), {"clips": clips, "length": args.length, "results": results})


if __name__ == "__main__":
    main()
