"""Measure negative prompts on the shipped models: how often the unwanted attribute still shows, and the cost.

    python benchmarks/negative_prompt.py [--model tiny | tiny-4step] [--arms chosen] [--clips 256] [--first 0]
    python benchmarks/negative_prompt.py [--model ...] [--arms ...] --tables    # from the recorded judgements

The prompt of each clip omits one attribute (in turn colour, shape, motion, background), and the negative prompt names a
random value of it. All arms run the same prompts, negative prompts and seeds, alternating batch by batch, so that times
are comparable. `--arms grid` runs many settings; `chosen` compares the settings selected from the grid, on cases that
the grid did not use (`--first`); `window` ends NAG after a part of the steps. Intervals are 95% and exact, also of the
paired differences to no guidance.
"""

import argparse
import json
from typing import Any

import numpy as np
from PIL import Image
from reporting import RESULTS, paired, percent, share, table, write
from sampling import KINDS, Arm, Case, Result, sample

from vidguide import CFG, NAG, VSF
from vidguide.pipelines.compare import add_label
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import SHIPPED

BASE = "no guidance"
SHARES = ("as asked", "readable", "well-formed")


def cfg_arm(scale: float) -> Arm:
    """Return classifier-free guidance with the negative prompt."""
    return lambda n: (CFG(scale=scale, negative_prompt=n),)


def nag_arm(**settings: Any) -> Arm:
    """Return NAG with the negative prompt."""
    return lambda n: (NAG(negative_prompt=n, **settings),)


def vsf_arm(scale: float) -> Arm:
    """Return VSF with the negative prompt."""
    return lambda n: (VSF(negative_prompt=n, scale=scale),)


NONE: dict[str, Arm] = {BASE: lambda n: ()}
CFGS = {f"CFG {scale}, negative": cfg_arm(scale) for scale in (2, 3, 4, 5, 6, 7)}
GRID: dict[str, Arm] = {
    **NONE,
    "CFG 3, empty negative": lambda n: (CFG(scale=3),),
    **CFGS,
    **{
        f"NAG {scale}, tau 2.5, alpha {alpha}": nag_arm(scale=scale, alpha=alpha)
        for scale in (3, 5, 11)
        for alpha in (0.25, 0.5, 1.0)
    },
    "NAG 11, tau 2.5, alpha 0.125": nag_arm(alpha=0.125),
    **{f"NAG 11, tau {tau}, alpha 0.5": nag_arm(tau=tau, alpha=0.5) for tau in (1.25, 5.0)},
    **{f"VSF {scale}": vsf_arm(scale) for scale in (0.5, 1.0, 2.0, 4.0)},
}
CHOSEN: dict[str, dict[str, Arm]] = {
    "tiny": {
        **NONE,
        "CFG 3, empty negative": lambda n: (CFG(scale=3),),
        **CFGS,
        "NAG (default: 11, 2.5, 0.25)": nag_arm(),
        "NAG 11, alpha 0.5": nag_arm(alpha=0.5),
        "NAG 11, tau 1.25, alpha 0.5": nag_arm(tau=1.25, alpha=0.5),
        "CFG 3, empty negative + NAG": lambda n: (CFG(scale=3), NAG(negative_prompt=n)),
        "VSF": lambda n: (VSF(negative_prompt=n),),
        "VSF 0.5": vsf_arm(0.5),
    },
    "tiny-4step": {
        **NONE,
        **{name: arm for name, arm in CFGS.items() if name[4] in "2357"},
        "NAG (default: 11, 2.5, 0.25)": nag_arm(),
        "NAG 11, alpha 0.5": nag_arm(alpha=0.5),
        "NAG 11, tau 1.25, alpha 0.5": nag_arm(tau=1.25, alpha=0.5),
        "VSF 0.5": vsf_arm(0.5),
    },
}
SETTINGS: dict[str, dict[str, Any]] = {"tiny": {}, "tiny-4step": {"tau": 1.25, "alpha": 0.5}}  # NAG's for the model
WINDOWS = {
    model: {**NONE, **{f"NAG, stop {stop:g}": nag_arm(stop=stop, **settings) for stop in (0.25, 0.5, 0.75, 1)}}
    for model, settings in SETTINGS.items()
}
SHEET_ARMS = (BASE, "CFG 3, negative", "CFG 7, negative", "NAG (default: 11, 2.5, 0.25)")  # rows of the contact sheet


def arm_rows(results: dict[str, Result], picked: list[int], times: bool = True) -> list[dict[str, str]]:
    """Return a row per arm over the selected cases."""
    rows, base = [], results[BASE]
    for arm, result in results.items():
        judged, before = [result.judged[i] for i in picked], [base.judged[i] for i in picked]
        row = {"arm": arm, "unwanted shows, %": format_share(judged, "unwanted")}
        row["against no guidance, points"] = (
            "-" if arm == BASE else percent(paired(paired_differences(judged, before, "unwanted")))
        )
        for name in SHARES:
            row[f"{name}, %"] = format_share(judged, name)
        row["warping error, %"] = f"{np.nanmean([judgement['warping error'] for judgement in judged]):.2f}"
        if times:
            ratios = [a / b for a, b in zip(result.seconds, base.seconds, strict=True)]
            row["seconds per clip"] = f"{np.median(result.seconds):.2f}"
            row["time, x no guidance"] = f"{np.median(ratios):.2f}"
        rows.append(row)
    return rows


def format_share(judged: list[dict[str, float]], name: str) -> str:
    """Format the share of clips for which a judgement is true."""
    return percent(share(int(sum(judgement[name] for judgement in judged)), len(judged)))


def arms_of(name: str, model: str) -> dict[str, Arm]:
    """Return a set of arms."""
    return GRID if name == "grid" else WINDOWS[model] if name == "window" else CHOSEN[model]


def paired_differences(judged: list[dict[str, float]], before: list[dict[str, float]], name: str) -> list[float]:
    """Return the paired differences of a judgement."""
    return [guided[name] - unguided[name] for guided, unguided in zip(judged, before, strict=True)]


def contact_sheet(results: dict[str, Result], cases: list[Case], shown: tuple[str, ...], columns: int = 8) -> Any:
    """Return first, middle and last frames of clips whose unguided version shows the unwanted value, one row per
    arm."""
    showing = [i for i in range(len(cases)) if results[BASE].judged[i]["unwanted"]]
    by_kind = sorted(showing, key=lambda index: KINDS.index(cases[index].kind))
    picked = by_kind[:: max(len(showing) // columns, 1)][:columns]
    rows = []
    for arm in shown:
        cells = []
        for index in picked:
            clip = results[arm].frames[index]
            middle, last = len(clip) // 2, len(clip) - 1
            cell = np.concatenate([clip[0], clip[middle], clip[last]]).repeat(2, 0).repeat(2, 1)
            marked = add_label(cell[None], f"not {cases[index].negative}")[0]
            cells.append(np.pad(marked, ((0, 0), (0, 4), (0, 0)), constant_values=255))
        rows.append(add_label(np.concatenate(cells, axis=1)[None], arm)[0])
    return np.concatenate(rows)


def tables(results: dict[str, Result], first: int) -> str:
    """Format the table of all cases and one for each attribute."""
    kinds = [Case(first + index).kind for index in range(len(results[BASE].judged))]
    parts = [table(arm_rows(results, list(range(len(kinds)))))]
    for kind in KINDS:
        picked = [place for place, negated in enumerate(kinds) if negated == kind]
        parts.append(f"Negated {kind}, {len(picked)} clips an arm:\n\n{table(arm_rows(results, picked, times=False))}")
    return "\n".join(parts)


def recorded(name: str) -> tuple[dict[str, Result], int]:
    """Return the recorded judgements and times of each arm, without frames, and the number of the first case."""
    data = json.loads((RESULTS / f"{name}.json").read_text())
    results = {arm: Result() for arm in data["arms"]}
    for arm, result in results.items():
        result.judged, result.seconds = data["arms"][arm]["judged"], data["arms"][arm]["seconds"]
    return results, data["first"]


def main() -> None:
    """Measure, print and write `benchmarks/results/negative_prompt_MODEL[_grid|_window].{md,json,png}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(SHIPPED))
    parser.add_argument("--arms", default="chosen", choices=("chosen", "grid", "window"))
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--tables", action="store_true", help="make the tables again, without sampling")
    args = parser.parse_args()
    name = f"negative_prompt_{args.model}" + ("" if args.arms == "chosen" else f"_{args.arms}")
    if args.tables:
        results, first = recorded(name)
        (RESULTS / f"{name}.md").write_text(tables(results, first))
        return
    indices = range(args.first, args.first + args.clips)
    results = sample(load(args.model), args.model, arms_of(args.arms, args.model), indices)
    data = {arm: {"judged": result.judged, "seconds": result.seconds} for arm, result in results.items()}
    write(name, tables(results, args.first), {"clips": args.clips, "first": args.first, "arms": data})
    if args.arms == "chosen":
        sheet = contact_sheet(results, [Case(index) for index in indices], SHEET_ARMS)
        Image.fromarray(sheet).save(RESULTS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
