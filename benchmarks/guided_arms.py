"""Sample the clips of the study of self-guidance on a shipped model; `guided_arms_report.py` measures them.

    python benchmarks/guided_arms.py tuning [--model tiny] [--clips 64] [--work work/guided_arms]
    python benchmarks/guided_arms.py validation [--model tiny] [--clips 208] [--work work/guided_arms]
    python benchmarks/guided_arms.py reuse [--model tiny] [--clips 208] [--work work/guided_arms]

Settings are chosen on the prompts and seeds of `tuning`, and reported on those of `validation`. `reuse` has cheaper
forms of those arms, on the same prompts and seeds: a pass at every second or third step (`every`), and for EMAG the
last block alone or half of the steps; the report compares with the arm that has a pass at each step. Each set of
prompts omits other attributes: one of four in turn, the motion, all, or none. All arms of a set run the same prompts
and seeds, batch by batch in turn, so that their times are comparable. Finished batches are not sampled again. Self-
guidance uses no negative prompt, classifier-free guidance the empty one; NAG avoids a value of an attribute that the
prompt omits.

Clips are sampled in bfloat16 with compiled blocks, which is faster on a CPU.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from sampling import BATCH, PROMPT_SETS, Arm, Case

from vidguide import APG, CFG, EMAG, NAG, PAG, SEG, STG, guide
from vidguide.guidances.base import Guidance
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import SHIPPED

NONE, EVERY = "no guidance", ", every "  # an arm, and a part of the names of arms with a pass at every k-th step
WORK = Path("work/guided_arms")
FIRST = {  # number of the first case of each set of prompts
    "tuning": {"one unsaid": 100_000, "nothing said": 300_000},
    "validation": {"motion unsaid": 710_000, "nothing said": 720_000, "one unsaid": 700_000, "all said": 730_000},
}
FIRST["reuse"] = {name: FIRST["validation"][name] for name in ("motion unsaid", "one unsaid")}
CLIPS = {"tuning": 64, "validation": 208, "reuse": 208}
MORE_STEPS = {"32 steps": 1.6}  # arm: steps, relative to the model's default
GRAPHS = 512  # compiled graphs of a block: a few for each arm


def every_layer(depth: int, **settings: Any) -> EMAG:
    """Return EMAG over all blocks, with a faster average than published."""
    return EMAG(select=tuple(range(depth)), **settings)


def always(*guidances: Guidance) -> Arm:
    """Return an arm that needs no negative prompt."""
    return lambda negatives: guidances


def tuning_arms(depth: int) -> dict[str, Arm]:
    """Return the settings tried for a model of `depth` blocks."""
    return {
        NONE: always(),
        **{f"CFG {scale}": always(CFG(scale=scale)) for scale in (1.5, 2, 3)},
        **{f"SEG {scale}": always(SEG(scale=scale)) for scale in (0.25, 0.5, 1)},
        **{f"PAG {scale}": always(PAG(scale=scale)) for scale in (0.1, 0.25)},
        **{f"STG {scale}": always(STG(scale=scale)) for scale in (0.1, 0.25)},
        **{f"EMAG {scale}, decay 0.5, all": always(every_layer(depth, scale=scale, decay=0.5)) for scale in (3, 5, 8)},
        "EMAG 2, decay auto, all": always(every_layer(depth, scale=2, decay="auto")),
        "EMAG 7, decay 0.5, largest of all": always(EMAG(scale=7, decay=0.5, layers=tuple(range(depth)))),
        "EMAG 1.5, published": always(EMAG.published("sd3")),
    }


def validation_arms(depth: int) -> dict[str, Arm]:
    """Return the arms that are reported for a model of `depth` blocks."""
    emag = every_layer(depth, scale=5, decay=0.5)
    return {
        NONE: always(),
        "32 steps": always(),
        "CFG 2": always(CFG(scale=2)),
        "SEG 0.5": always(SEG(scale=0.5)),
        "PAG 0.25": always(PAG(scale=0.25)),
        "STG 0.25": always(STG(scale=0.25)),
        "EMAG": always(emag),
        "EMAG, scale 0": always(every_layer(depth, scale=0, decay=0.5)),
        "EMAG 5.1, published": always(EMAG.published("sd3", scale=5.1)),
        "CFG 2 + EMAG": always(CFG(scale=2), emag),
        "APG 2 + EMAG": always(APG(scale=2), emag),
        "NAG": lambda negatives: (NAG(negative_prompt=negatives),),
        "NAG + EMAG": lambda negatives: (NAG(negative_prompt=negatives), emag),
    }


def reuse_arms(depth: int) -> dict[str, Arm]:
    """Return the arms with an extra pass at each step, and with one at every second and third."""
    arms: dict[str, Arm] = {NONE: always()}
    for every in (1, 2, 3):
        suffix = "" if every == 1 else f"{EVERY}{every}"
        arms["EMAG" + suffix] = always(every_layer(depth, scale=5, decay=0.5, every=every))
        arms["SEG 0.5" + suffix] = always(SEG(scale=0.5, every=every))
        arms["PAG 0.25" + suffix] = always(PAG(scale=0.25, every=every))
        arms["STG 0.25" + suffix] = always(STG(scale=0.25, every=every))
        arms["CFG 2" + suffix] = always(CFG(scale=2, every=every))
    last = EMAG(select=(depth - 1,), scale=7, decay=0.5)  # calibration: as good a direction, |d| two thirds as large
    arms["EMAG, last block"] = always(last)
    arms["EMAG, last block, every 2"] = always(replace(last, every=2))
    arms["EMAG, stop 0.5"] = always(every_layer(depth, scale=5, decay=0.5, stop=0.5))
    return arms


STAGES = {"tuning": tuning_arms, "validation": validation_arms, "reuse": reuse_arms}
SKIPPED = {  # sets of prompts: arms without a purpose there; CFG is the identity if nothing is said
    "nothing said": ("CFG 1.5", "CFG 2", "CFG 3", "CFG 2 + EMAG", "APG 2 + EMAG", "NAG", "NAG + EMAG"),
    "all said": ("32 steps", "PAG 0.25", "STG 0.25", "EMAG, scale 0", "CFG 2 + EMAG", "APG 2 + EMAG"),
}


def depth_of(model: str) -> int:
    """Return the number of blocks of a shipped model."""
    config = Path(SHIPPED[model].source) / "transformer" / "config.json"
    return int(json.loads(config.read_text())["num_layers"])


def arms_of(stage: str, prompts: str, model: str) -> dict[str, Arm]:
    """Return the arms of a set of prompts."""
    arms = STAGES[stage](depth_of(model))
    return {name: arm for name, arm in arms.items() if name not in SKIPPED.get(prompts, ())}


def batch_path(work: Path, model: str, prompts: str, arm: str, first: int) -> Path:
    """Return the file of the clips of a batch."""
    return work / model / prompts / arm / f"{first}.npz"


def load_clips(work: Path, model: str, prompts: str, arm: str, indices: Sequence[int]) -> np.ndarray:
    """Return the clips `(N, F, H, W, 3)` of an arm.

    Raises:
        FileNotFoundError: they have not been sampled.
    """
    starts = indices[::BATCH]
    return np.concatenate([np.load(batch_path(work, model, prompts, arm, first))["frames"] for first in starts])


def load_seconds(work: Path, model: str, prompts: str, arm: str, indices: Sequence[int]) -> list[float]:
    """Return the seconds per clip of each batch of an arm."""
    return [float(np.load(batch_path(work, model, prompts, arm, first))["seconds"]) for first in indices[::BATCH]]


def sample_batch(pipe: Any, model: str, arm: Arm, steps: int, cases: Sequence[Case]) -> tuple[np.ndarray, float]:
    """Return the clips of a batch, and the seconds of processor time per clip."""
    shipped = SHIPPED[model]
    began = time.process_time()
    with guide(pipe, *arm([case.negative for case in cases])), torch.autocast("cpu", torch.bfloat16):
        video = pipe(
            [case.prompt for case in cases],
            height=shipped.height,
            width=shipped.width,
            num_frames=shipped.frames,
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(case.seed) for case in cases],
        ).frames
    seconds = (time.process_time() - began) / len(cases)
    return np.stack([to_frames(clip) for clip in video]), seconds


def sample_set(
    pipe: Any, model: str, prompts: str, arms: Mapping[str, Arm], indices: Sequence[int], work: Path
) -> None:
    """Sample all arms of a set of prompts, batch by batch, and write each batch; skip those that are written."""
    steps = SHIPPED[model].steps
    assert steps is not None  # every shipped model has a number of steps
    for start in track(range(0, len(indices), BATCH), prompts):
        batch = indices[start : start + BATCH]
        cases = [Case(index, prompts) for index in batch]
        for name, arm in arms.items():
            path = batch_path(work, model, prompts, name, batch[0])
            if path.exists():
                continue
            frames, seconds = sample_batch(pipe, model, arm, round(steps * MORE_STEPS.get(name, 1)), cases)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp.npz")
            np.savez_compressed(temporary, frames=frames, seconds=seconds)
            temporary.replace(path)


def main() -> None:
    """Sample the clips of a stage under `--work`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=sorted(FIRST))
    parser.add_argument("--model", default="tiny", choices=sorted(SHIPPED))
    parser.add_argument("--clips", type=int, help="for each arm and set of prompts; 64 for tuning, else 208")
    parser.add_argument("--prompts", nargs="+", choices=PROMPT_SETS, help="sets of prompts; all of the stage")
    parser.add_argument("--work", type=Path, default=WORK)
    args = parser.parse_args()
    torch._dynamo.config.recompile_limit = GRAPHS
    pipe: Any = load(args.model, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.compile_repeated_blocks()
    for prompts, first in FIRST[args.stage].items():
        if args.prompts is None or prompts in args.prompts:
            arms = arms_of(args.stage, prompts, args.model)
            indices = range(first, first + (args.clips or CLIPS[args.stage]))
            sample_set(pipe, args.model, prompts, arms, indices, args.work)


if __name__ == "__main__":
    main()
