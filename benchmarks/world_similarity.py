"""Measure how well the dual encoder of `vidguide.eval` distinguishes clips and captions of the shipped world.

    python benchmarks/world_similarity.py

Retrieval: a render of every held-out attribute combination against the captions of all of them, none of which was in
the training data. Words: each word of the world against the renders, as the share of (true, false) pairs of clips in
the correct order. Agreement: clips of the shipped model from held-out captions, with 20 steps and with too few, with
the oracle's reading as ground truth: correlation of the similarity of every clip to every held-out caption with the
share of the caption's attributes that the oracle reads.
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
STEPS = (20, 2, 1)  # of the shipped model: its default, and too few


def caption_features(texts: list[str]) -> np.ndarray:
    """Return unit features `(N, D)`."""
    return np.stack([shipped_encoder().caption(text.split()) for text in texts])


def retrieval() -> dict[str, tuple[float, float, float]]:
    """Return the shares of clips and captions that retrieve their counterpart first among all held-out ones, with
    intervals."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    hits = {"clip to caption": 0, "caption to clip": 0}
    for seed in range(SEEDS):
        random = np.random.default_rng([7, seed])
        clips = np.stack([shipped_encoder().clip(render(scene, random)) for scene in scenes])
        texts = caption_features([caption(scene, seed + number) for number, scene in enumerate(scenes)])
        similar, index = clips @ texts.T, np.arange(len(scenes))
        hits["clip to caption"] += int((similar.argmax(1) == index).sum())
        hits["caption to clip"] += int((similar.argmax(0) == index).sum())
    return {way: share(count, SEEDS * len(scenes)) for way, count in hits.items()}


def share_in_order(values: np.ndarray, true: np.ndarray) -> float:
    """Return the share of (true, false) pairs in which the true one has the larger value; ties count half."""
    gaps = values[true][:, None] - values[~true][None]
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


def words_on_renders() -> dict[str, float]:
    """Return for each attribute the lowest share over its words of held-out renders in the correct order."""
    scenes = [scene for scene in all_scenes() if held_out(scene)]
    clips = np.stack(
        [shipped_encoder().clip(render(scene, np.random.default_rng([8, i]))) for i, scene in enumerate(scenes)]
    )
    return {
        name: min(
            share_in_order(
                clips @ shipped_encoder().caption([value]),
                np.array([getattr(scene, name) == value for scene in scenes]),
            )
            for value in values
        )
        for name, values in ATTRIBUTES.items()
    }


def generate_clips(pipe: Any, count: int, steps: int) -> tuple[list[str], list[np.ndarray]]:
    """Return captions of held-out scenes and clips of the shipped model for them."""
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
    """Compare the encoder's similarity with the oracle's reading, by clip and by word."""
    readings = [read(clip) for clip in clips]
    features = np.stack([shipped_encoder().clip(clip) for clip in clips])
    similarity = (features * caption_features(texts)).sum(1)
    right = np.array([share_correct(text, reading) for text, reading in zip(texts, readings, strict=True)])
    every = [caption(scene) for scene in all_scenes() if held_out(scene)]
    similar = features @ caption_features(every).T
    truth = np.array([[share_correct(text, reading) for text in every] for reading in readings])
    pairs = []
    for word, name in ATTRIBUTE_OF.items():
        true = np.array([getattr(reading.scene, name) == word for reading in readings])
        if true.any() and not true.all():
            pairs.append(share_in_order(features @ shipped_encoder().caption([word]), true))
    return {
        "clips": len(clips),
        "all as asked by the oracle": share(int((right == 1).sum()), len(right)),
        "rank correlation, all captions": float(spearmanr(similar.ravel(), truth.ravel()).statistic),
        "mean where all is right": float(similarity[right == 1].mean()) if (right == 1).any() else None,
        "mean where not": float(similarity[right < 1].mean()) if (right < 1).any() else None,
        "words in order": float(np.mean(pairs)),
    }


def share_correct(text: str, reading: Reading) -> float:
    """Return the share of the attributes named in a caption that the oracle reads."""
    named = [(ATTRIBUTE_OF[word], word) for word in text.split() if word in ATTRIBUTE_OF]
    return sum(getattr(reading.scene, name) == word for name, word in named) / len(named)


def main() -> None:
    """Measure, print and write `benchmarks/results/world_similarity.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=96, help="generated clips for each number of steps")
    args = parser.parse_args()
    retrieved, words = retrieval(), words_on_renders()
    pipe: Any = load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    agreements = {steps: agreement(*generate_clips(pipe, args.clips, steps)) for steps in STEPS}
    rows = [
        {"generated in": f"{steps} steps", **{k: format_cell(v) for k, v in result.items()}}
        for steps, result in agreements.items()
    ]
    scenes = sum(map(held_out, all_scenes()))
    text = "\n".join(
        [
            f"Held-out renders, {scenes} captions to choose from:\n",
            table(
                [{"first choice right, % [95% interval]": way, "": percent(value)} for way, value in retrieved.items()]
            ),
            "Words on held-out renders, share of pairs in the right order, worst word of each attribute:\n",
            table([{name: f"{value:.4f}" for name, value in words.items()}]),
            "Clips of the shipped model, similarity to their own held-out caption against the oracle:\n",
            table(rows),
        ]
    )
    write("world_similarity", text, {"retrieval": retrieved, "words": words, "agreement": agreements})


def format_cell(value: Any) -> str:
    """Format a table cell."""
    if value is None:
        return "-"
    return percent(value) if isinstance(value, tuple) else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
