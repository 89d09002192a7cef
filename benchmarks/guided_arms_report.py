"""Measure the clips that `guided_arms.py` sampled, and write the tables of the study of self-guidance.

    python benchmarks/guided_arms_report.py tuning|validation|reuse [--model tiny] [--clips N] [--work work/guided_arms]

Primary metrics, declared before the validation clips were sampled: the share of clips in the world (well-formed, all
five attributes readable), the overlap with the exact shape in the worst frame and on average, and the Fréchet distance
to renderings of the same prompts with its recall, in the features of the dual encoder. Differences are paired, with
exact tests and intervals of `vidguide.eval`; p-values are corrected over the primary metrics of an arm (Holm). All else
is descriptive. The warping error is a guard, not a measure of quality: it sees no shape that is wrong in all frames.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from guided_arms import CLIPS, FIRST, NONE, WORK, arms_of, load_clips, load_seconds
from PIL import Image
from reporting import RESULTS, paired, table, write
from rich.progress import track
from sampling import BATCH, KINDS, Case

from vidguide import Clip
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring.set_distances import Values
from vidguide.eval.scoring.sets import RENDERINGS, complete_scene, dual_features, frechet_pseudo_values, shares_covered
from vidguide.eval.scoring.statistics import estimate_difference, holm
from vidguide.eval.world.oracle import read
from vidguide.eval.world.scene import ATTRIBUTES, render
from vidguide.pipelines.compare import add_label
from vidguide.pipelines.models.spec import SHIPPED

BY_CLIP = {  # primary metrics with a value per clip: (heading, factor, digits)
    "in world": ("in world, %", 100, 1),
    "worst fit": ("worst-frame fit x 1000", 1000, 0),
    "mean fit": ("mean fit x 1000", 1000, 1),
}
BY_SET = {"Fréchet": ("Fréchet distance x 1000", 1000, 1), "recall": ("recall, %", 100, 1)}  # to renderings
OTHERS = {
    "well-formed": ("well-formed, %", 100, 1),
    "asked": ("asked attributes right, %", 100, 1),
    "unwanted": ("unwanted in frames, %", 100, 1),
    "temporal.warp_error": ("warping error, %", 100, 2),
    "temporal.luma_flicker": ("flicker, levels", 1, 2),
    "guard.motion": ("motion", 1, 1),
    "guard.contrast": ("contrast, levels", 1, 1),
    "guard.saturation": ("saturation, levels", 1, 1),
}
PRIMARY = {**BY_CLIP, **BY_SET}
GUARDS = tuple(name for name in OTHERS if "." in name)
SHEET_ARMS = (NONE, "EMAG", "SEG 0.5", "CFG 2", "EMAG 5.1, published")
Scores = dict[str, np.ndarray]  # metric to (clips,), "features" to (clips, D)


def score(frames: np.ndarray, case: Case, fps: float) -> dict[str, Any]:
    """Return all values of a clip."""
    reading = read(frames)
    asked = [reading.matches(case.scene, name) for name in ATTRIBUTES if getattr(case.scene, name) is not None]
    sample = Sample(Clip(frames=frames, fps=fps, provenance={}), case.prompt, case.negative)
    guards = {name: METRICS[name](sample).value for name in GUARDS}
    return {
        "in world": float(reading.in_world),
        "worst fit": reading.worst_fit,
        "mean fit": reading.fit,
        "well-formed": float(reading.well_formed),
        "asked": float(np.mean(asked)) if asked else np.nan,
        "unwanted": float(getattr(reading.scene, case.kind) == case.unwanted),
        **{name: np.nan if value is None else value for name, value in guards.items()},
        "features": dual_features(frames),
    }


def score_arm(clips: np.ndarray, cases: Sequence[Case], fps: float) -> Scores:
    """Return the values of all clips of an arm."""
    rows = [score(frames, case, fps) for frames, case in zip(clips, cases, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def render_features(cases: Sequence[Case]) -> list[Values]:
    """Return the features of renderings of each prompt; what a prompt omits is drawn at random."""
    features = []
    for case in cases:
        random = np.random.default_rng(crc32(f"{case.seed} {case.prompt}".encode()))
        drawn = [render(complete_scene(case.scene, random), random) for _ in range(RENDERINGS)]
        features.append(np.stack([dual_features(frames) for frames in drawn]))
    return features


def add_set_values(scores: dict[str, Scores], cases: Sequence[Case]) -> None:
    """Add the jackknife pseudo-values of the Fréchet distance and the covered share of each prompt's renderings."""
    real = render_features(cases)
    for values in track(scores.values(), "distances to renderings"):
        arm = [features[None].astype(float) for features in values["features"]]
        values["Fréchet"] = frechet_pseudo_values(arm, real)
        values["recall"] = shares_covered(real, arm)


def format_value(triple: tuple[float, float, float], style: tuple[str, float, int]) -> str:
    """Format a value with its interval, in the units of the table."""
    _, factor, digits = style
    value, low, high = (factor * number for number in triple)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def format_mean(values: np.ndarray, style: tuple[str, float, int]) -> str:
    """Format the mean of the values that are defined."""
    _, factor, digits = style
    return f"{factor * np.nanmean(values):.{digits}f}" if np.isfinite(values).any() else "-"


def format_change(values: np.ndarray, reference: np.ndarray, style: tuple[str, float, int]) -> str:
    """Format the paired difference with its interval."""
    differences = (values - reference)[np.isfinite(values - reference)]
    return format_value(paired(differences.tolist()), style) if len(differences) else "-"


def gained_and_lost(values: np.ndarray, reference: np.ndarray) -> str:
    """Return how many clips an arm adds to a share, and how many it takes from it."""
    return f"+{int((values > reference).sum())} -{int((values < reference).sum())}"


def primary_p_values(values: Scores, reference: Scores) -> dict[str, float]:
    """Return the p-values of the primary metrics of an arm, corrected over them."""
    raw = {name: estimate_difference((values[name] - reference[name]).tolist())[1] for name in PRIMARY}
    return holm({name: 1.0 if p is None else p for name, p in raw.items()})


def primary_table(scores: dict[str, Scores], costs: dict[str, float], reference: str) -> str:
    """Return the table of the primary metrics: means of the reference, differences of the other arms."""
    first = scores[reference]
    means = {style[0]: format_mean(first[name], style) for name, style in PRIMARY.items()}
    rows = [{"arm": reference, "time": "1", **means, "clips gained, lost": ""}]
    for arm, values in scores.items():
        if arm == reference:
            continue
        p_values, row = primary_p_values(values, first), {"arm": arm, "time": f"{costs[arm]:.2f}"}
        for name, style in PRIMARY.items():
            mark = " *" if p_values[name] <= 0.05 else ""
            row[style[0]] = format_change(values[name], first[name], style) + mark
        rows.append(row | {"clips gained, lost": gained_and_lost(values["in world"], first["in world"])})
    return table(rows)


def other_table(scores: dict[str, Scores], reference: str) -> str:
    """Return the table of the other metrics."""
    first = scores[reference]
    rows = [{"arm": reference, **{style[0]: format_mean(first[name], style) for name, style in OTHERS.items()}}]
    rows += [
        {"arm": arm, **{style[0]: format_change(values[name], first[name], style) for name, style in OTHERS.items()}}
        for arm, values in scores.items()
        if arm != reference
    ]
    return table(rows)


def pooled_table(sets: Mapping[str, dict[str, Scores]], names: Sequence[str]) -> str:
    """Return the differences of the arms that all the named sets have, over all their clips."""
    arms = [arm for arm in sets[names[0]] if arm != NONE and all(arm in sets[name] for name in names)]
    rows = []
    for arm in arms:
        row = {"arm": arm}
        for metric, style in BY_CLIP.items():
            values, first = (np.concatenate([sets[name][which][metric] for name in names]) for which in (arm, NONE))
            row[style[0]] = format_change(values, first, style)
            if metric == "in world":
                row["clips gained, lost"] = gained_and_lost(values, first)
        rows.append(row)
    return table(rows)


def by_kind_table(scores: dict[str, Scores], cases: Sequence[Case]) -> str:
    """Return the differences in clips in the world for each omitted attribute: a look at subgroups."""
    kinds = np.array([case.kind for case in cases])
    style, rows = BY_CLIP["in world"], []
    for arm, values in scores.items():
        row = {"arm": arm}
        for kind in KINDS:
            now, before = (part["in world"][kinds == kind] for part in (values, scores[NONE]))
            row[f"{kind} unsaid"] = format_mean(now, style) if arm == NONE else format_change(now, before, style)
        rows.append(row)
    return table(rows)


def contact_sheet(clips: Mapping[str, np.ndarray], columns: int = 8) -> np.ndarray:
    """Return first, middle and last frames of some clips, one row per arm."""
    rows = []
    for arm, frames in clips.items():
        cells = []
        for clip in frames[np.linspace(0, len(frames) - 1, columns).astype(int)]:
            cell = np.concatenate([clip[0], clip[len(clip) // 2], clip[-1]]).repeat(2, 0).repeat(2, 1)
            cells.append(np.pad(cell, ((0, 0), (0, 4), (0, 0)), constant_values=255))
        rows.append(add_label(np.concatenate(cells, axis=1)[None], arm)[0])
    return np.concatenate(rows)


def relative_costs(args: argparse.Namespace, prompts: str, arms: Sequence[str], indices: range) -> dict[str, float]:
    """Return the processor time of each arm relative to no guidance: the median over batches sampled in turn."""
    seconds = {arm: np.array(load_seconds(args.work, args.model, prompts, arm, indices)) for arm in arms}
    warm = slice(1, None) if len(indices) > BATCH else slice(None)  # the first batch compiles
    return {arm: float(np.median(values[warm] / seconds[NONE][warm])) for arm, values in seconds.items()}


def write_values(name: str, sets: Mapping[str, dict[str, Scores]]) -> None:
    """Write the values of every clip, compressed."""
    columns: dict[str, Any] = {
        f"{prompts}/{arm}/{metric}": values[metric].astype(np.float32)
        for prompts, scores in sets.items()
        for arm, values in scores.items()
        for metric in values
        if metric != "features"
    }
    np.savez_compressed(RESULTS / f"{name}.npz", **columns)


def tuning_text(sets: Mapping[str, dict[str, Scores]], clips: int) -> str:
    """Return the table of the settings tried: means of the metrics of single clips, in each set of prompts."""
    shown = {**BY_CLIP, "temporal.warp_error": OTHERS["temporal.warp_error"]}
    parts = [f"Settings tried, means over {clips} clips a set of prompts, without intervals: for the choice alone.\n"]
    for prompts, scores in sets.items():
        rows = [
            {"arm": arm, **{style[0]: format_mean(values[name], style) for name, style in shown.items()}}
            for arm, values in scores.items()
        ]
        parts.append(f"Prompts: {prompts}\n\n{table(rows)}")
    return "\n".join(parts)


def validation_text(sets: Mapping[str, dict[str, Scores]], costs: Mapping[str, dict[str, float]], clips: int) -> str:
    """Return all tables of the validation."""
    parts = [
        f"{clips} clips an arm and set of prompts. First row: no guidance; other rows: paired difference to it, with "
        "95% intervals. `*`: p <= 0.05 after correction over the five primary metrics of the arm (Holm). Time: "
        "processor time relative to no guidance, median of batches sampled in turn.\n"
    ]
    for prompts, scores in sets.items():
        parts.append(f"## Prompts: {prompts}\n\nPrimary metrics:\n\n{primary_table(scores, costs[prompts], NONE)}")
        parts.append(f"Other metrics, without correction:\n\n{other_table(scores, NONE)}")
    first = FIRST["validation"]
    if "one unsaid" in sets:
        cases = [Case(first["one unsaid"] + index, "one unsaid") for index in range(clips)]
        by_kind = by_kind_table(sets["one unsaid"], cases)
        parts.append(f"## One unsaid, by the attribute\n\nIn world, %; subgroups, exploratory:\n\n{by_kind}")
    pooled = [name for name in sets if name != "all said"]
    if len(pooled) > 1:
        parts.append(f"## Pooled: {', '.join(pooled)}\n\n{pooled_table(sets, pooled)}")
    return "\n".join(parts)


def reuse_text(sets: Mapping[str, dict[str, Scores]], costs: Mapping[str, dict[str, float]], clips: int) -> str:
    """Return a table for each guidance: its cheaper forms, compared with a pass at each step."""
    parts = [
        f"{clips} clips an arm and set of prompts. First row: a pass at each step; other rows: paired difference to "
        "it, with 95% intervals. An interval above minus the margin is non-inferior. Time: relative to the first row.\n"
    ]
    for prompts, scores in sets.items():
        for first in (arm for arm in scores if arm != NONE and "," not in arm):
            group = {arm: values for arm, values in scores.items() if arm.split(",")[0] == first}
            relative = {arm: costs[prompts][arm] / costs[prompts][first] for arm in group}
            parts.append(f"## {first}. Prompts: {prompts}\n\n{primary_table(group, relative, first)}")
    return "\n".join(parts)


def report_text(stage: str, sets: Mapping[str, dict[str, Scores]], costs: Any, clips: int) -> str:
    """Return the report of a stage."""
    if stage == "tuning":
        return tuning_text(sets, clips)
    return (validation_text if stage == "validation" else reuse_text)(sets, costs, clips)


def main() -> None:
    """Measure, print and write `benchmarks/results/guided_arms_MODEL[_STAGE].{md,json,npz,png}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=sorted(FIRST))
    parser.add_argument("--model", default="tiny", choices=sorted(SHIPPED))
    parser.add_argument("--clips", type=int, help="for each arm and set of prompts; 64 for tuning, else 208")
    parser.add_argument("--prompts", nargs="+", help="sets of prompts; all of the stage")
    parser.add_argument("--work", type=Path, default=WORK)
    args = parser.parse_args()
    clips = args.clips or CLIPS[args.stage]
    sets, costs, sheet, fps = {}, {}, {}, SHIPPED[args.model].fps
    assert fps is not None  # every shipped model has a frame rate
    for prompts, first in FIRST[args.stage].items():
        if args.prompts is not None and prompts not in args.prompts:
            continue
        indices = range(first, first + clips)
        arms, cases = list(arms_of(args.stage, prompts, args.model)), [Case(index, prompts) for index in indices]
        scores = {}
        for arm in track(arms, prompts):
            frames = load_clips(args.work, args.model, prompts, arm, indices)
            scores[arm] = score_arm(frames, cases, fps)
            if prompts == "motion unsaid" and arm in SHEET_ARMS:
                sheet[arm] = frames
        if args.stage != "tuning":
            add_set_values(scores, cases)
        sets[prompts], costs[prompts] = scores, relative_costs(args, prompts, arms, indices)
    name = f"guided_arms_{args.model}" + ("" if args.stage == "validation" else f"_{args.stage}")
    text = report_text(args.stage, sets, costs, clips)
    write(name, text, {"clips": clips, "first": FIRST[args.stage], "costs": costs})
    write_values(name, sets)
    if sheet and args.stage == "validation":
        ordered = {arm: sheet[arm] for arm in SHEET_ARMS}
        Image.fromarray(contact_sheet(ordered)).save(RESULTS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
