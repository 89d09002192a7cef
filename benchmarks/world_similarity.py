"""How well the dual encoder of the evaluation room tells clips and captions of the shipped world apart.

    python benchmarks/world_similarity.py

Retrieval: a render of every held-out combination of attributes against the captions of all of them, of which none was
seen in training. Words: each word of the world against the renders, as the share of (true, false) pairs of clips in the
right order. Agreement: clips of the shipped model from held-out captions, in 20 steps and in too few, with the oracle's
reading of each clip as the truth: the similarity of every clip to every held-out caption goes with the share of its
attributes that the oracle reads.
"""

import argparse
from typing import Any

import numpy as np
import torch
from reporting import percent, share, table, write
from rich.progress import track
from scipy.stats import spearmanr

from vidguide.eval.metrics.world_attributes import ATTRIBUTE_OF
from vidguide.eval.world.oracle import Reading, read
from vidguide.eval.world.scene import ATTRIBUTES, all_scenes, caption, held_out, render
from vidguide.eval.world.shipped_encoder import shipped_encoder
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.loading.load import load

SEEDS = 4  # renders of each held-out scene
STEPS = (20, 2, 1)  # of the shipped model: as it is meant to be used, and too few


def features_of_captions(texts: list[str]) -> np.ndarray:
    """Unit features `(N, D)`."""
    return np.stack([shipped_encoder().caption(text.split()) for text in texts])


def retrieval() -> dict[str, tuple[float, float, float]]:
    """Share of clips that find their caption first among all held-out ones, and the other way, with intervals."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    found = {"clip to caption": 0, "caption to clip": 0}
    for seed in range(SEEDS):
        random = np.random.default_rng([7, seed])
        clips = np.stack([shipped_encoder().clip(render(scene, random)) for scene in scenes])
        texts = features_of_captions([caption(scene, seed + number) for number, scene in enumerate(scenes)])
        similar, own = clips @ texts.T, np.arange(len(scenes))
        found["clip to caption"] += int((similar.argmax(1) == own).sum())
        found["caption to clip"] += int((similar.argmax(0) == own).sum())
    return {way: share(count, SEEDS * len(scenes)) for way, count in found.items()}


def ordered(values: np.ndarray, true: np.ndarray) -> float:
    """Share of (true, false) pairs of which the true one has the larger value; ties count half."""
    gaps = values[true][:, None] - values[~true][None]
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


def words_on_renders() -> dict[str, float]:
    """For each attribute, the worst of its words: share of pairs of held-out renders in the right order."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    clips = np.stack(
        [shipped_encoder().clip(render(scene, np.random.default_rng([8, i]))) for i, scene in enumerate(scenes)]
    )
    return {
        name: min(
            ordered(
                clips @ shipped_encoder().caption([value]),
                np.array([getattr(scene, name) == value for scene in scenes]),
            )
            for value in values
        )
        for name, values in ATTRIBUTES.items()
    }


def generated(pipe: Any, count: int, steps: int) -> tuple[list[str], list[np.ndarray]]:
    """Captions of held-out scenes and the clips that the shipped model makes of them."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    order = np.random.default_rng(steps).permutation(np.resize(np.arange(len(scenes)), count))
    texts, clips = [caption(scenes[index], turn) for turn, index in enumerate(order)], []
    for start in track(range(0, count, 16), f"{steps} steps"):
        batch = texts[start : start + 16]
        generators = [torch.Generator().manual_seed(start + offset) for offset in range(len(batch))]
        settings = dict(num_inference_steps=steps, guidance_scale=1.0, generator=generators)
        clips += [to_frames(clip) for clip in pipe(batch, height=64, width=64, num_frames=13, **settings).frames]
    return texts, clips


def agreement(texts: list[str], clips: list[np.ndarray]) -> dict[str, Any]:
    """How the encoder's similarity goes with the oracle's reading, clip by clip and word by word."""
    readings = [read(clip) for clip in clips]
    features = np.stack([shipped_encoder().clip(clip) for clip in clips])
    own = (features * features_of_captions(texts)).sum(1)
    right = np.array([shares(text, reading) for text, reading in zip(texts, readings, strict=True)])
    every = [caption(scene) for scene in all_scenes() if held_out(scene)]
    similar = features @ features_of_captions(every).T
    truth = np.array([[shares(text, reading) for text in every] for reading in readings])
    pairs = []
    for word, name in ATTRIBUTE_OF.items():
        true = np.array([getattr(reading.scene, name) == word for reading in readings])
        if true.any() and not true.all():
            pairs.append(ordered(features @ shipped_encoder().caption([word]), true))
    return {
        "clips": len(clips),
        "all as asked by the oracle": share(int((right == 1).sum()), len(right)),
        "rank correlation, all captions": float(spearmanr(similar.ravel(), truth.ravel()).statistic),
        "mean where all is right": float(own[right == 1].mean()) if (right == 1).any() else None,
        "mean where not": float(own[right < 1].mean()) if (right < 1).any() else None,
        "words in order": float(np.mean(pairs)),
    }


def shares(text: str, reading: Reading) -> float:
    """Share of the attributes named in a caption that the oracle reads."""
    named = [(ATTRIBUTE_OF[word], word) for word in text.split() if word in ATTRIBUTE_OF]
    return sum(getattr(reading.scene, name) == word for name, word in named) / len(named)


def main() -> None:
    """Measure, print and write `benchmarks/results/world_similarity.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=96, help="generated, for each number of steps")
    args = parser.parse_args()
    found, words = retrieval(), words_on_renders()
    pipe: Any = load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    made = {steps: agreement(*generated(pipe, args.clips, steps)) for steps in STEPS}
    rows = [{"generated in": f"{steps} steps", **{k: shown(v) for k, v in one.items()}} for steps, one in made.items()]
    scenes = sum(map(held_out, all_scenes()))
    text = "\n".join(
        [
            f"Held-out renders, {scenes} captions to choose from:\n",
            table([{"first choice right, % [95% interval]": way, "": percent(value)} for way, value in found.items()]),
            "Words on held-out renders, share of pairs in the right order, worst word of each attribute:\n",
            table([{name: f"{value:.4f}" for name, value in words.items()}]),
            "Clips of the shipped model, similarity to their own held-out caption against the oracle:\n",
            table(rows),
        ]
    )
    write("world_similarity", text, {"retrieval": found, "words": words, "agreement": made})


def shown(value: Any) -> str:
    """A cell."""
    if value is None:
        return "-"
    return percent(value) if isinstance(value, tuple) else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
