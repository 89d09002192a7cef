"""Measure whether NAG's L1 ratio over a frame or clip flickers less than over a token, at equal suppression.

    python benchmarks/norms.py [--model tiny | tiny-4step] [--clips 256] [--first 2048]

The cases of `negative_prompt.py`; all arms run the same prompts, negative prompts and seeds: each norm at several
`tau`, scale 11, alpha 0.5. Each is compared in pairs with the paper's norm at the same `tau`: share of clips with the
unwanted value (suppression), warping error, and warping error of the pairs in which the oracle reads the same scene in
both clips, so that the motion is equal. Intervals are 95% and agree with the p-values, which are by sign flips and,
in the table, corrected by Holm.
"""

import argparse
from typing import Any

import numpy as np
from reporting import percent, share, table, write
from sampling import Arm, Result, sample

from vidguide import NAG
from vidguide.edits.nag_combine import NORMS
from vidguide.eval.scoring.statistics import PairedComparison, compare_pairs, holm
from vidguide.eval.world.oracle import read
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import SHIPPED

TAUS = (1.25, 2.5, 5.0)
PAPER = NORMS[0]


def nag_arm(norm: str, tau: float) -> Arm:
    """Return NAG with the negative prompt."""
    return lambda n: (NAG(negative_prompt=n, tau=tau, alpha=0.5, norm=norm),)


ARMS: dict[tuple[str, float], Arm] = {(norm, tau): nag_arm(norm, tau) for tau in TAUS for norm in NORMS}


def values(result: Result, name: str, cases: list[int]) -> dict[tuple[str, object], float]:
    """Return a judgement of the given cases by case and seed, without undefined ones."""
    judged = {(str(i), i): result.judged[i][name] for i in cases}
    return {key: value for key, value in judged.items() if np.isfinite(value)}


def same_scene(first: Result, second: Result) -> list[int]:
    """Return the cases in which the oracle reads the same scene in the clips of both arms."""
    pairs = enumerate(zip(first.frames, second.frames, strict=True))
    return [i for i, clips in pairs if read(clips[0]).scene == read(clips[1]).scene]


def compare(results: dict[tuple[str, float], Result]) -> dict[tuple[str, float], dict[str, PairedComparison]]:
    """Return the differences of each arm to the paper's norm at the same tau."""
    comparisons = {}
    for (norm, tau), result in results.items():
        if norm == PAPER:
            continue
        base, every = results[PAPER, tau], list(range(len(result.judged)))
        alike = same_scene(base, result)
        comparisons[norm, tau] = {
            "unwanted": compare_pairs(values(base, "unwanted", every), values(result, "unwanted", every)),
            "warping error": compare_pairs(
                values(base, "warping error", every), values(result, "warping error", every)
            ),
            "of equal scenes": compare_pairs(
                values(base, "warping error", alike), values(result, "warping error", alike)
            ),
        }
    return comparisons


def arm_rows(results: dict[tuple[str, float], Result]) -> list[dict[str, str]]:
    """Return a row per arm."""
    compared = compare(results)
    flicker = {str(arm): comparison["of equal scenes"].p for arm, comparison in compared.items()}
    corrected = holm({arm: p for arm, p in flicker.items() if p is not None})
    rows = []
    for (norm, tau), result in results.items():
        judged, against = result.judged, compared.get((norm, tau), {})
        row = {"tau": f"{tau:g}", "norm": norm}
        row["unwanted shows, %"] = percent(share(int(sum(judgement["unwanted"] for judgement in judged)), len(judged)))
        row["against token, points"] = format_difference(against.get("unwanted"), 100, 1)
        row["as asked, %"] = f"{100 * np.mean([judgement['as asked'] for judgement in judged]):.1f}"
        row["well-formed, %"] = f"{100 * np.mean([judgement['well-formed'] for judgement in judged]):.1f}"
        row["warping error, %"] = f"{np.nanmean([judgement['warping error'] for judgement in judged]):.3f}"
        row["against token"] = format_difference(against.get("warping error"), 1, 3)
        alike = against.get("of equal scenes")
        row["of equal scenes"] = format_difference(alike, 1, 3) + (f" ({alike.pairs} pairs)" if alike else "")
        row["p"] = f"{corrected[str((norm, tau))]:.3f}" if str((norm, tau)) in corrected else "-"
        rows.append(row)
    return rows


def format_difference(comparison: PairedComparison | None, factor: float, digits: int) -> str:
    """Format a mean difference with its interval."""
    if comparison is None or comparison.difference.mean is None:
        return "-"
    mean, low, high = (comparison.difference.mean, comparison.difference.low, comparison.difference.high)
    if low is None or high is None:
        return f"{factor * mean:+.{digits}f}"
    return f"{factor * mean:+.{digits}f} [{factor * low:+.{digits}f}, {factor * high:+.{digits}f}]"


def main() -> None:
    """Measure, print and write `benchmarks/results/norms_MODEL.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(SHIPPED))
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--first", type=int, default=2048, help="number of the first case")
    args = parser.parse_args()
    indices = range(args.first, args.first + args.clips)
    named = sample(load(args.model), args.model, {str(arm): make for arm, make in ARMS.items()}, indices)
    results = {arm: named[str(arm)] for arm in ARMS}
    data: dict[str, Any] = {f"{norm} {tau:g}": results[norm, tau].judged for norm, tau in ARMS}
    text = f"{args.clips} clips an arm, cases {indices.start} to {indices.stop - 1}.\n\n{table(arm_rows(results))}"
    write(f"norms_{args.model}", text, {"clips": args.clips, "first": args.first, "arms": data})


if __name__ == "__main__":
    main()
