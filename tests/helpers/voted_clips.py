"""Small clips of several variants, and simulated raters who vote on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vidguide.clip import Clip
from vidguide.eval.preference.design import Trial, read_design
from vidguide.eval.preference.votes import append_vote, make_vote, remaining_trials

VARIANTS = ("none", "nag", "cfg")


def make_clips(
    folder: Path, variants: Sequence[str] = VARIANTS, prompts: int = 4, seeds: Sequence[int] = (0, 1), frames: int = 4
) -> Path:
    """Write a clip of one random picture per variant, prompt and seed, as a sweep names them."""
    random = np.random.default_rng(0)
    for variant in variants:
        for prompt in range(prompts):
            for seed in seeds:
                path = folder / "clips" / variant / f"{prompt:04d}-{seed}.mkv"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = random.integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
                provenance = {"prompt": f"prompt {prompt}", "prompt_id": f"p{prompt}", "seed": seed}
                Clip(frames=picture.repeat(frames, axis=0), fps=8, provenance=provenance).save(path)
    return folder


def choose(trial: Trial, strengths: Mapping[str, float], random: np.random.Generator, ties: float = 0.3) -> str:
    """Return the choice of a rater who sees the strengths with logistic noise; a small difference is a tie."""
    difference = strengths[trial.right.variant] - strengths[trial.left.variant] + random.logistic()
    return "tie" if abs(difference) < ties else "right" if difference > 0 else "left"


def vote_on_all(folder: Path, raters: Sequence[str], strengths: Mapping[str, float], file: Path | None = None) -> Path:
    """Write the votes of raters on all pairs of a folder of clips, and return their file."""
    random, design = np.random.default_rng(1), read_design(folder)
    file = file or folder / "votes.jsonl"
    for rater in raters:
        for trial in remaining_trials(design, [], rater):
            append_vote(
                file, make_vote(trial, rater, choose(trial, strengths, random), int(random.integers(900, 4000)))
            )
    return file
