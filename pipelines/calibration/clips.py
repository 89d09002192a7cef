"""The clips of a calibration, with their prompts: given ones, or renders of the world of the shipped models."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidguide.eval.clips.entries import Entry, entries
from vidguide.eval.clips.read import read
from vidguide.eval.world.scene import ATTRIBUTES, Scene, caption, render

UNSAID = ("colour", "shape", "motion", "background")  # in turn, in the captions of renders
NEEDED = 2  # clips of an interval

Clips = str | os.PathLike[str] | Sequence[tuple[Any, str]]


class Sources:
    """Clips with prompts, read when they are encoded.

    Attributes:
        sources: each a path, frames in memory, or any other that :func:`vidguide.eval.clips.read.read` reads.
        prompts: one for each.
        name: of all, for the record of a calibration.
    """

    def __init__(self, pairs: Sequence[tuple[Any, str]], name: str) -> None:
        self.sources, self.prompts = [source for source, _ in pairs], [prompt for _, prompt in pairs]
        self.name = name
        if len(pairs) < NEEDED:
            raise ValueError(f"clips={name}: has {len(pairs)}; must be at least {NEEDED}, for an interval over clips")

    def __len__(self) -> int:
        return len(self.sources)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return some of the clips, `(B, F, H, W, 3)` uint8."""
        return np.stack([read(self.sources[index]).frames for index in indices])

    def check(self, frames: int, height: int, width: int) -> None:
        """Read every clip and refuse one of another size.

        Raises:
            ValueError: naming the clip, its size and the expected one. ReadError: a clip cannot be read.
        """
        for index, source in enumerate(self.sources):
            length, *size = read(source).frames.shape[:3]
            if (length, *size) != (frames, height, width):
                name = str(source) if isinstance(source, str | os.PathLike) else f"clip {index}"
                raise ValueError(
                    f"clips={name!r}: has {length} frames of {size[1]}x{size[0]}; must have {frames} of "
                    f"{width}x{height}: convert it, or give its frames, height and width"
                )


def list_clips(clips: Clips, prompts: str | os.PathLike[str] | None, count: int | None) -> Sources:
    """Return the clips that the user gives.

    Args:
        clips: a video, a folder of videos or of frame folders; or pairs of a clip and its prompt.
        prompts: manifest of the prompts by clip; None for the JSON files next to the clips.
        count: the first so many; None for all.

    Raises:
        ValueError: no clips, or one without a prompt. FileNotFoundError: no such file or folder.
    """
    if not isinstance(clips, str | os.PathLike):
        return Sources(list(clips)[:count], "the given pairs")
    manifest = None if prompts is None else Path(prompts)
    listed = entries([Path(clips)], manifest)[:count]
    if not listed:
        raise ValueError(f"clips={os.fspath(clips)!r}: has no videos or folders of frames")
    return Sources([(entry.clip, prompt_of(entry)) for entry in listed], repr(os.fspath(clips)))


def prompt_of(entry: Entry) -> str:
    """Return the text that describes a clip.

    Raises:
        ValueError: it has none.
    """
    text = entry.eval_prompt
    if text is None:
        raise ValueError(
            f"clips={str(entry.clip)!r}: has no prompt; write one as the field prompt of {entry.clip.stem}.json next "
            "to it, or give a manifest of prompts"
        )
    return text


def render_clips(count: int, seed: int) -> Sources:
    """Return renders of random scenes, whose captions leave one attribute unsaid.

    Args:
        count: number of clips. seed: of the scenes.
    """
    return Sources(list(random_renders(count, seed)), f"{count} renders, seed {seed}")


def random_renders(count: int, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Yield a render and its caption for each index."""
    for index in range(count):
        random = np.random.default_rng([seed, index])
        values = {name: str(random.choice(ATTRIBUTES[name])) for name in ATTRIBUTES}
        frames = render(Scene(**values), random)
        values.pop(UNSAID[index % len(UNSAID)])
        yield frames, caption(Scene(**values), int(random.integers(3)))
