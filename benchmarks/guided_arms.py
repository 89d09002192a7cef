"""Measure self-guidance on the shipped model in combination with classifier-free guidance.

    python benchmarks/guided_arms.py [--model tiny] [--clips 256] [--first 300000]
    python benchmarks/guided_arms.py --tune [--clips 48] [--first 100000]

Each prompt omits one attribute, as in `negative_prompt.py`, where this model can improve most. NAG gets the negative
prompt; classifier-free guidance uses the empty prompt, so that the variants differ in nothing else. All variants run
the same prompts and seeds, alternating batch by batch. In addition to each published scale there is a lower one, chosen
by `--tune` on other prompts and seeds: the scale of each method with the highest share of well-formed clips, and among
equal ones with the lowest warping error. Metrics, 95% intervals and verdicts are those of
`vidguide.eval`: an improvement with less motion, less sharpness or fewer well-formed clips is reported as confounded.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from reporting import RESULTS, table, write
from sampling import Arm, Case, Result, sample

from vidguide import CFG, EMAG, NAG, PAG, SEG, STG, Clip
from vidguide.eval.metrics.base import REGISTRY
from vidguide.eval.metrics.registry import select_metrics
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring.score import measure
from vidguide.eval.scoring.statistics import Estimate, estimate, mean_by_prompt
from vidguide.eval.scoring.verdict import MetricComparison, compare_metrics, values_by_key
from vidguide.guidances.base import Guidance
from vidguide.pipelines.compare import add_label
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import SHIPPED

NONE, CFG_ONLY = "no guidance", "CFG 3"
EVERY_LAYER: dict[str, Any] = dict(decay=0.5, select=(0, 1, 2, 3, 4))  # of EMAG: every block, a faster average


def with_cfg(*guidances: Guidance) -> Arm:
    """Return a variant of CFG 3 and other guidances."""
    return lambda negatives: (CFG(scale=3), *guidances)


TUNING: dict[str, Arm] = {  # each with CFG 3
    **{f"STG {scale}": with_cfg(STG(scale=scale)) for scale in (0.1, 0.25, 0.5)},
    **{f"PAG {scale}": with_cfg(PAG(scale=scale)) for scale in (0.25, 0.5, 1.0)},
    **{f"SEG {scale}": with_cfg(SEG(scale=scale)) for scale in (0.25, 0.5, 1.0)},
    **{f"EMAG {scale}, decay 0.5, all layers": with_cfg(EMAG(scale=scale, **EVERY_LAYER)) for scale in (3, 5)},
}
ARMS: dict[str, Arm] = {
    NONE: lambda negatives: (),
    CFG_ONLY: with_cfg(),
    "CFG 3 + EMAG 1.5": with_cfg(EMAG()),
    "CFG 3 + EMAG 3, decay 0.5, all layers": with_cfg(EMAG(scale=3, **EVERY_LAYER)),
    "CFG 3 + STG 1": with_cfg(STG()),
    "CFG 3 + STG 0.1": with_cfg(STG(scale=0.1)),
    "CFG 3 + PAG 3": with_cfg(PAG()),
    "CFG 3 + PAG 0.25": with_cfg(PAG(scale=0.25)),
    "CFG 3 + SEG 3": with_cfg(SEG()),
    "CFG 3 + SEG 1": with_cfg(SEG(scale=1.0)),
    "CFG 3 + NAG + EMAG 1.5": lambda negatives: (CFG(scale=3), NAG(negative_prompt=negatives), EMAG()),
}
PRIMARY = ("world.attributes", "world.well_formed", "temporal.warp_error")
METRICS = {  # metric: (heading, factor, digits)
    "world.attributes": ("asked attributes right, %", 100, 1),
    "world.well_formed": ("well-formed, %", 100, 1),
    "world.negative_present": ("unwanted in frames, %", 100, 1),
    "temporal.warp_error": ("warping error, %", 100, 2),
    "temporal.luma_flicker": ("flicker, levels", 1, 2),
    "temporal.flow_jerk": ("jerk", 1, 1),
    "guard.motion": ("motion", 1, 1),
    "guard.detail": ("lasting detail", 1, 3),
    "guard.sharpness": ("sharpness", 1, 0),
    "guard.contrast": ("contrast, levels", 1, 1),
    "guard.saturation": ("saturation, levels", 1, 1),
    "guard.luma": ("luma, levels", 1, 1),
    "guard.tracked_share": ("tracked, %", 100, 1),
    "guard.frozen_share": ("frozen, %", 100, 1),
    "temporal.breaks": ("breaks", 1, 3),
}
SHEET_ARMS = (
    NONE,
    CFG_ONLY,
    "CFG 3 + EMAG 3, decay 0.5, all layers",
    "CFG 3 + SEG 1",
    "CFG 3 + STG 1",
    "CFG 3 + PAG 3",
)


def score(result: Result, cases: Sequence[Case], fps: float) -> list[dict[str, Any]]:
    """Return the rows of all metrics of an arm's clips, in the format of `vidguide.eval`."""
    rows = []
    for case, frames in zip(cases, result.frames, strict=True):
        sampled = Sample(Clip(frames=frames, fps=fps, provenance={}), case.prompt, case.negative)
        about = {"prompt_id": str(case.seed), "seed": case.seed, "clip": str(case.seed)}
        for metric in select_metrics(list(METRICS)):
            rows.append({"metric": metric.id, "version": metric.version, **about, **measure(metric, sampled)})
    return rows


def format_estimate(value: Estimate, metric: str) -> str:
    """Format a mean or a difference with its interval, in the units of the table."""
    _, factor, digits = METRICS[metric]
    if value.mean is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{factor * value.mean:.{digits}f}"
    return f"{factor * value.mean:.{digits}f} [{factor * value.low:.{digits}f}, {factor * value.high:.{digits}f}]"


def means(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Return a row per arm: mean of every metric."""
    table_rows = []
    for arm, scored in rows.items():
        row = {"arm": arm}
        for metric, (heading, _, _) in METRICS.items():
            row[heading] = format_estimate(
                estimate(list(mean_by_prompt(values_by_key(scored, metric)).values()), REGISTRY[metric].bounds), metric
            )
        table_rows.append(row)
    return table_rows


def differences(rows: dict[str, list[dict[str, Any]]], reference: str, arms: Sequence[str]) -> list[dict[str, str]]:
    """Return a row per arm: paired difference to a reference in every metric, with the verdict."""
    table_rows = []
    for arm in arms:
        lines: dict[str, MetricComparison] = {
            line.metric: line for line in compare_metrics(rows[reference], rows[arm], PRIMARY, ())
        }
        row = {"arm": arm}
        for metric, (heading, _, _) in METRICS.items():
            line = lines.get(metric)
            row[heading] = (
                "-" if line is None else f"{format_estimate(line.paired.difference, metric)}<br>{line.verdict}"
            )
        table_rows.append(row)
    return table_rows


def contact_sheet(results: dict[str, Result], cases: Sequence[Case], columns: int = 8) -> np.ndarray:
    """Return first, middle and last frames of clips of every omitted attribute, one row per arm."""
    places = np.linspace(0, len(cases) - 1, min(columns, len(cases))).astype(int)
    rows = []
    for arm in SHEET_ARMS:
        cells = []
        for place in places:
            clip = results[arm].frames[place]
            cell = np.concatenate([clip[0], clip[len(clip) // 2], clip[-1]]).repeat(2, 0).repeat(2, 1)
            cells.append(np.pad(cell, ((0, 0), (0, 4), (0, 0)), constant_values=255))
        rows.append(add_label(np.concatenate(cells, axis=1)[None], arm)[0])
    return np.concatenate(rows)


def write_report(name: str, first: int, results: dict[str, Result], rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write the tables, the values of every clip and the contact sheet."""
    cases = [Case(first + index) for index in range(len(results[NONE].frames))]
    guided = [arm for arm in rows if arm != NONE]
    on_top = [arm for arm in rows if arm.startswith(f"{CFG_ONLY} +")]
    parts = [
        f"Means over {len(cases)} clips a variant, and 95% intervals:\n\n{table(means(rows))}",
        f"Difference to {NONE}, paired:\n\n{table(differences(rows, NONE, guided))}",
        f"Difference to {CFG_ONLY}, paired:\n\n{table(differences(rows, CFG_ONLY, on_top))}",
    ]
    values = {
        arm: {metric: list(values_by_key(scored, metric).values()) for metric in METRICS}
        for arm, scored in rows.items()
    }
    write(name, "\n".join(parts), {"clips": len(cases), "first": first, "values": values})
    Image.fromarray(contact_sheet(results, cases)).save(RESULTS / f"{name}.png", optimize=True)


def write_tuning(name: str, first: int, judged: dict[str, list[dict[str, float]]]) -> None:
    """Write the mean oracle readings of every scale."""
    rows = []
    for arm, readings in judged.items():
        means_of = {metric: float(np.nanmean([reading[metric] for reading in readings])) for metric in readings[0]}
        shares = {f"{metric}, %": f"{100 * means_of[metric]:.1f}" for metric in list(means_of)[:-1]}
        rows.append({"with CFG 3": arm, **shares, "warping error, %": f"{means_of['warping error']:.2f}"})
    clips = len(next(iter(judged.values())))
    text = f"Scales tried, means over {clips} clips each:\n\n{table(rows)}"
    write(name, text, {"clips": clips, "first": first, "judged": judged})


def main() -> None:
    """Measure, print and write `benchmarks/results/guided_arms_MODEL[_tuning].{md,json}` and the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(SHIPPED))
    parser.add_argument("--tune", action="store_true", help="run the scales of TUNING")
    parser.add_argument("--clips", type=int, help="256; 48 for tuning")
    parser.add_argument("--first", type=int, help="number of the first case: 300000; 100000 for tuning")
    args = parser.parse_args()
    first = args.first if args.first is not None else 100_000 if args.tune else 300_000
    indices = range(first, first + (args.clips or (48 if args.tune else 256)))
    pipe, name = load(args.model), f"guided_arms_{args.model}"
    if args.tune:
        tuning = sample(pipe, args.model, TUNING, indices)
        write_tuning(f"{name}_tuning", first, {arm: result.judged for arm, result in tuning.items()})
        return
    fps = SHIPPED[args.model].fps
    assert fps is not None  # every shipped model has a frame rate
    results = sample(pipe, args.model, ARMS, indices)
    cases = [Case(index) for index in indices]
    write_report(name, first, results, {arm: score(result, cases, fps) for arm, result in results.items()})


if __name__ == "__main__":
    main()
