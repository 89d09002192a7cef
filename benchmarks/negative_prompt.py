"""What a negative prompt does on the shipped model: how often the unwanted thing still shows, and what it costs.

    python benchmarks/negative_prompt.py [--clips 256] [--model tiny]

Each clip has a prompt that leaves one attribute unsaid and a negative prompt that names one value of it, drawn at
random; colour, shape, motion and background take turns. All arms see the same prompts, negatives and seeds, and take
turns batch by batch, so that their times compare. Intervals are 95%: Wilson for shares, paired bootstrap for
differences to no guidance.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from reporting import RESULTS, paired, percent, share, table, write
from rich.progress import track

from vidguide import CFG, NAG, guide
from vidguide.eval.oracle import Reading, read
from vidguide.eval.world import ATTRIBUTES, Scene, caption
from vidguide.pipelines.compare import labelled
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.load import load
from vidguide.pipelines.models import SHIPPED

KINDS = ("colour", "shape", "motion", "background")
BATCH = 16
ARMS: dict[str, Any] = {
    "no guidance": lambda n: (),
    "CFG 3, empty negative": lambda n: (CFG(scale=3),),
    "CFG 3": lambda n: (CFG(scale=3, negative_prompt=n),),
    "NAG (default: 11, 2.5, 0.25)": lambda n: (NAG(negative_prompt=n),),
    "NAG scale 5, alpha 0.5": lambda n: (NAG(negative_prompt=n, scale=5, alpha=0.5),),
    "NAG scale 11, alpha 0.5": lambda n: (NAG(negative_prompt=n, alpha=0.5),),
    "CFG 3, empty negative + NAG": lambda n: (CFG(scale=3), NAG(negative_prompt=n)),
}
SHOWN = ("no guidance", "CFG 3", "NAG scale 11, alpha 0.5")  # rows of the contact sheet


class Case:
    """A prompt that leaves one attribute unsaid, and the value of it that is not wanted."""

    def __init__(self, index: int) -> None:
        random = np.random.default_rng([7, index])
        self.kind = KINDS[index % len(KINDS)]
        values = {name: str(random.choice(ATTRIBUTES[name])) for name in ATTRIBUTES}
        self.unwanted = values.pop(self.kind)
        self.asked = Scene(**values)
        self.prompt = caption(self.asked, int(random.integers(3)))
        self.negative = (
            caption(Scene(**{self.kind: self.unwanted})) if self.kind in ("motion", "background") else self.unwanted
        )
        self.seed = index

    def judge(self, reading: Reading) -> dict[str, bool]:
        """Whether the unwanted value shows, and whether the rest is as asked."""
        said = [name for name in ATTRIBUTES if name != self.kind]
        return {
            "unwanted": getattr(reading.scene, self.kind) == self.unwanted,
            "as asked": all(reading.matches(self.asked, name) for name in said),
            "well-formed": reading.well_formed,
            "readable": getattr(reading.scene, self.kind) is not None,
        }


def run(pipe: Any, clips: int, steps: int) -> dict[str, dict[str, Any]]:
    """Frames, judgements and seconds of every arm, batch by batch in turn."""
    results: dict[str, dict[str, Any]] = {arm: {"frames": [], "judged": [], "seconds": []} for arm in ARMS}
    for start in track(range(0, clips, BATCH), "batches"):
        cases = [Case(index) for index in range(start, min(start + BATCH, clips))]
        for arm, make in ARMS.items():
            generators = [torch.Generator().manual_seed(case.seed) for case in cases]
            began = time.perf_counter()
            with guide(pipe, *make([case.negative for case in cases])):
                video = pipe(
                    [case.prompt for case in cases],
                    height=64,
                    width=64,
                    num_frames=13,
                    num_inference_steps=steps,
                    guidance_scale=1.0,
                    generator=generators,
                ).frames
            results[arm]["seconds"].append((time.perf_counter() - began) / len(cases))
            frames = [to_frames(clip) for clip in video]
            results[arm]["judged"] += [case.judge(read(clip)) for case, clip in zip(cases, frames, strict=True)]
            results[arm]["frames"] += frames
    return results


def rows_of(results: dict[str, dict[str, Any]], picked: list[int]) -> list[dict[str, str]]:
    """A row per arm over the picked cases."""
    rows = []
    base = results["no guidance"]
    for arm, result in results.items():
        judged = [result["judged"][i] for i in picked]
        before = [base["judged"][i] for i in picked]
        row = {"arm": arm, "unwanted shows, %": percent(share(sum(j["unwanted"] for j in judged), len(judged)))}
        differences = [float(j["unwanted"]) - float(b["unwanted"]) for j, b in zip(judged, before, strict=True)]
        row["against no guidance, points"] = "-" if arm == "no guidance" else percent(paired(differences))
        for name in ("as asked", "readable", "well-formed"):
            row[f"{name}, %"] = percent(share(sum(j[name] for j in judged), len(judged)))
        ratios = [a / b for a, b in zip(result["seconds"], base["seconds"], strict=True)]
        row["seconds per clip"] = f"{np.median(result['seconds']):.2f}"
        row["time, x no guidance"] = f"{np.median(ratios):.2f}"
        rows.append(row)
    return rows


def contact_sheet(results: dict[str, dict[str, Any]], clips: int, columns: int = 8) -> np.ndarray:
    """First, middle and last frame of clips in which the unwanted thing showed unguided, under each shown arm."""
    showing = [i for i in range(clips) if results["no guidance"]["judged"][i]["unwanted"]]
    by_kind = sorted(showing, key=lambda index: index % len(KINDS))
    picked = by_kind[:: max(len(showing) // columns, 1)][:columns]
    rows = []
    for arm in SHOWN:
        cells = []
        for index in picked:
            clip = results[arm]["frames"][index]
            cell = np.concatenate([clip[0], clip[6], clip[12]]).repeat(2, 0).repeat(2, 1)
            marked = labelled(cell[None], f"not {Case(index).negative}")[0]
            cells.append(np.pad(marked, ((0, 0), (0, 4), (0, 0)), constant_values=255))
        rows.append(labelled(np.concatenate(cells, axis=1)[None], arm)[0])
    return np.concatenate(rows)


def main() -> None:
    """Measure, print and write `benchmarks/results/negative_prompt_MODEL.{md,json,png}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=256)
    args = parser.parse_args()
    pipe = load(args.model)
    pipe.set_progress_bar_config(disable=True)
    shipped = SHIPPED.get(args.model, SHIPPED["tiny"])
    results = run(pipe, args.clips, shipped.steps)
    parts = [table(rows_of(results, list(range(args.clips))))]
    for number, kind in enumerate(KINDS):
        picked = list(range(number, args.clips, len(KINDS)))
        short = [
            {k: v for k, v in row.items() if "second" not in k and "time" not in k} for row in rows_of(results, picked)
        ]
        parts.append(f"Negated {kind}, {len(picked)} clips an arm:\n\n{table(short)}")
    name = f"negative_prompt_{args.model}"
    data = {arm: {"judged": result["judged"], "seconds": result["seconds"]} for arm, result in results.items()}
    write(name, "\n".join(parts), {"clips": args.clips, "steps": shipped.steps, "arms": data})
    Image.fromarray(contact_sheet(results, args.clips)).save(RESULTS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
