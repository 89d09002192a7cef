"""The balanced design of blind pairs: which clips of the same prompt and seed a rater sees, their order and sides.

Each rater sees each pair of variants of each prompt and seed once. The order consists of rounds; a round has each
prompt once, and the pairs of variants equally often. A rater may therefore stop at any time. Sides are balanced in
blocks of two votes on the same pair of variants. Order and sides are random, from the rater's name and a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from vidguide.eval.clips.entries import Entry, entries
from vidguide.eval.clips.read import file_hash
from vidguide.eval.hashing import short_sha256

MIN_VARIANTS = 2


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A clip of one variant.

    Attributes:
        variant: name of its arm. path: of the clip. sha256: of the file.
    """

    variant: str
    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Two clips that a rater compares.

    Attributes:
        prompt: its id. seed: of both clips. text: what is asked for, and not wanted. left, right: the clips.
    """

    prompt: str
    seed: int | None
    text: str
    left: Candidate
    right: Candidate

    @property
    def clips(self) -> list[Candidate]:
        """Return both clips, sorted by the names of their variants, whichever side they have."""
        return sorted((self.left, self.right), key=lambda clip: clip.variant)

    @property
    def key(self) -> tuple[Any, ...]:
        """Return what identifies the pair of files, whichever side they have."""
        return self.prompt, self.seed, *((clip.variant, clip.sha256) for clip in self.clips)


@dataclass(frozen=True)
class Design:
    """The clips that can be compared.

    Attributes:
        clips: by prompt id and seed, then by variant.
        texts: what is asked for, and not wanted, by prompt id.
        identical: number of pairs of equal files, which are not shown.
        incomplete: number of prompts and seeds that lack a variant; their other pairs are shown.
    """

    clips: dict[tuple[str, int | None], dict[str, Candidate]]
    texts: dict[str, str]
    identical: int = 0
    incomplete: int = 0
    variants: list[str] = field(default_factory=list)

    def trials(self, rater: str, seed: int = 0) -> list[Trial]:
        """Return all trials of a rater in order; the same for the same clips, rater and seed."""
        random = np.random.default_rng([seed, int(short_sha256([rater.encode()]), 16)])
        order = [trial for part in rounds(self, random) for trial in part]
        return balance_sides(order, random)


def read_design(folder: Path) -> Design:
    """Return the design of the clips in a folder, such as that of a sweep: its arms are the variants.

    Raises:
        ValueError: fewer than two variants share a prompt and seed, or a variant has two clips of one.
        FileNotFoundError: there is no such folder.
    """
    return make_design(entries([folder]))


def make_design(clips: Sequence[Entry]) -> Design:
    """Return the design of clips; raises as :func:`read_design`."""
    groups: dict[tuple[str, int | None], dict[str, Candidate]] = {}
    for entry in clips:
        group = groups.setdefault((entry.prompt_id, entry.seed), {})
        if entry.arm in group:
            where = f"{group[entry.arm].path} and {entry.clip}"
            raise ValueError(f"clips: {where} have the same arm, prompt and seed; remove or rename one of them")
        group[entry.arm] = Candidate(variant=entry.arm, path=entry.clip, sha256=file_hash(entry.clip))
    variants = sorted({entry.arm for entry in clips})
    design = Design(
        clips=groups,
        texts={entry.prompt_id: describe_request(entry) for entry in clips},
        identical=sum(a.sha256 == b.sha256 for group in groups.values() for a, b in combinations(group.values(), 2)),
        incomplete=sum(len(group) < len(variants) for group in groups.values()),
        variants=variants,
    )
    if not any(True for part in rounds(design, np.random.default_rng(0)) if part):
        raise ValueError(
            f"clips: no two different clips of the same prompt and seed in {len(variants)} arms; "
            f"must be clips of at least {MIN_VARIANTS} variants, such as the folder of a sweep"
        )
    return design


def describe_request(entry: Entry) -> str:
    """Return what a clip should show, and what it should not."""
    text = entry.eval_prompt or entry.prompt or entry.prompt_id
    return f"{text}; not wanted: {entry.negative_prompt}" if entry.negative_prompt else text


def rounds(design: Design, random: np.random.Generator) -> list[list[Trial]]:
    """Return all trials in rounds of each prompt once.

    In round k, prompt i has combination i + k of a pair of variants and a seed, where the pair changes first.
    """
    prompts = shuffle(list(design.texts), random)
    seeds = shuffle(sorted({seed for _, seed in design.clips}, key=str), random)
    pairs = shuffle(list(combinations(design.variants, 2)), random)
    combinations_ = [(seed, pair) for seed in seeds for pair in pairs]
    parts = []
    for number in range(len(combinations_)):
        chosen = [(name, *combinations_[(i + number) % len(combinations_)]) for i, name in enumerate(prompts)]
        trials = [trial for name, seed, pair in chosen if (trial := make_trial(design, name, seed, pair))]
        parts.append(shuffle(trials, random))
    return parts


def make_trial(design: Design, prompt: str, seed: int | None, pair: tuple[str, str]) -> Trial | None:
    """Return the trial of two variants; None where one of them is missing, or both are equal."""
    group = design.clips.get((prompt, seed), {})
    left, right = (group.get(variant) for variant in pair)
    if left is None or right is None or left.sha256 == right.sha256:
        return None
    return Trial(prompt=prompt, seed=seed, text=design.texts[prompt], left=left, right=right)


def balance_sides(trials: Sequence[Trial], random: np.random.Generator) -> list[Trial]:
    """Return the trials with random sides: of two successive ones of the same pair of variants each side once."""
    swapped: dict[tuple[str, ...], list[bool]] = {}
    balanced = []
    for trial in trials:
        block = swapped.setdefault(tuple(clip.variant for clip in trial.clips), [])
        if not block:
            block += shuffle([False, True], random)
        left, right = reversed(trial.clips) if block.pop() else trial.clips
        balanced.append(Trial(prompt=trial.prompt, seed=trial.seed, text=trial.text, left=left, right=right))
    return balanced


def shuffle(items: list[Any], random: np.random.Generator) -> list[Any]:
    """Return the items in random order."""
    return [items[index] for index in random.permutation(len(items))]
