"""Shared code of the benchmarks on shipped models: cases with a negative prompt, and alternating arms."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track

from vidguide import guide
from vidguide.eval.metrics.warping import warping_error
from vidguide.eval.world.oracle import Reading, read
from vidguide.eval.world.scene import ATTRIBUTES, Scene, caption
from vidguide.guidances.base import Guidance
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.models.spec import SHIPPED

KINDS = ("colour", "shape", "motion", "background")
PROMPT_SETS = ("one unsaid", "motion unsaid", "nothing said", "all said")
BATCH = 16
Arm = Callable[[list[str]], tuple[Guidance, ...]]  # negative prompts of a batch -> guidances


class Case:
    """Prompt, and an unwanted value of one attribute, which the prompt omits or to which it gives another value.

    Args:
        index: number of the case, also its seed.
        prompts: which attributes prompts omit: "one unsaid" (each of `KINDS` in turn), "motion unsaid", "nothing said"
            (the empty prompt) or "all said".
    """

    def __init__(self, index: int, prompts: str = "one unsaid") -> None:
        random = np.random.default_rng([7, index])
        self.kind = "motion" if prompts == "motion unsaid" else KINDS[index % len(KINDS)]
        values = {name: str(random.choice(ATTRIBUTES[name])) for name in ATTRIBUTES}
        self.unwanted = values.pop(self.kind)
        if prompts == "all said":
            others = [value for value in ATTRIBUTES[self.kind] if value != self.unwanted]
            values[self.kind] = str(random.choice(others))
        self.scene = Scene() if prompts == "nothing said" else Scene(**values)
        self.prompt = caption(self.scene, int(random.integers(3)))
        self.negative = (
            caption(Scene(**{self.kind: self.unwanted})) if self.kind in ("motion", "background") else self.unwanted
        )
        self.seed = index

    def judge(self, frames: np.ndarray) -> dict[str, float]:
        """Return the oracle's judgements of the clip as 0 or 1, and its warping error in percent."""
        reading: Reading = read(frames)
        named = [name for name in ATTRIBUTES if name != self.kind]
        return {
            "unwanted": float(getattr(reading.scene, self.kind) == self.unwanted),
            "as asked": float(all(reading.matches(self.scene, name) for name in named)),
            "readable": float(getattr(reading.scene, self.kind) is not None),
            "well-formed": float(reading.well_formed),
            "warping error": 100 * warping_error(frames),
        }


class Result:
    """Frames, judgements and seconds per clip of one arm."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.judged: list[dict[str, float]] = []
        self.seconds: list[float] = []  # per clip, one entry per batch


def sample(pipe: Any, model: str, arms: Mapping[str, Arm], indices: Sequence[int]) -> dict[str, Result]:
    """Run all arms on the same cases and seeds, alternating batch by batch so that times are comparable."""
    pipe.set_progress_bar_config(disable=True)
    shipped, results = SHIPPED[model], {arm: Result() for arm in arms}
    for start in track(range(0, len(indices), BATCH), "batches"):
        cases = [Case(index) for index in indices[start : start + BATCH]]
        for arm, make in arms.items():
            generators = [torch.Generator().manual_seed(case.seed) for case in cases]
            began = time.perf_counter()
            with guide(pipe, *make([case.negative for case in cases])):
                video = pipe(
                    [case.prompt for case in cases],
                    height=shipped.height,
                    width=shipped.width,
                    num_frames=shipped.frames,
                    num_inference_steps=shipped.steps,
                    guidance_scale=1.0,
                    generator=generators,
                ).frames
            results[arm].seconds.append((time.perf_counter() - began) / len(cases))
            frames = [to_frames(clip) for clip in video]
            results[arm].judged += [case.judge(clip) for case, clip in zip(cases, frames, strict=True)]
            results[arm].frames += frames
    return results
