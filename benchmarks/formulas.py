"""Measure the eager formulas against the same equations as separate operations.

    python benchmarks/formulas.py [--tokens 1024 4096 16384] [--rounds 15] [--compiled] [--short]

Features of 12 heads of 128 channels, as in Wan 2.1 1.3B. Each round times every implementation in process time; the
result is the median over rounds of the ratio to the equation written out, with its range. "Whole" is the formula at
once, "ours" what a guided call runs: in chunks where the features are large. "Compiled" is Inductor's code of the
formula, which requires a C++ compiler. `--short` is 1024 and 4096 tokens, for `make bench`.
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from reporting import Summary, add_output, ratios, summary, table, write
from torch import Tensor

from vidguide.attention.site import KernelCall
from vidguide.edits.nag_combine import Combination
from vidguide.functional.emag import attention_gradient, ema
from vidguide.functional.nag import nag

HEADS, WIDTH = 12, 128
STRENGTH, DECAY = (11.0, 2.5, 0.25), 0.988
COMBINE = Combination(STRENGTH)
FIRST = "written out, ms"
COLUMNS = (FIRST, "copy", "whole", "ours", "compiled")
Function = Callable[..., Any]


def plain_nag(positive: Tensor, negative: Tensor) -> Tensor:
    """Return NAG by one operation after another."""
    scale, tau, alpha = STRENGTH
    pos, neg = positive.float(), negative.float()
    guided = pos + (scale - 1) * (pos - neg)
    pos_norm, norm = pos.abs().sum((-2, -1), keepdim=True), guided.abs().sum((-2, -1), keepdim=True)
    limited = guided * torch.where(norm > tau * pos_norm, tau * pos_norm / norm, 1.0)
    return (pos + alpha * (limited - pos)).to(positive.dtype)


def plain_average(average: Tensor, live: Tensor) -> Tensor:
    """Update EMAG's average and return D, by one operation after another."""
    query = live.float()
    average.copy_(DECAY * average + (1 - DECAY) * query)
    return (average - query).abs().mean((1, 3))


def whole_nag(positive: Tensor, negative: Tensor) -> Tensor:
    """Return NAG by the library's formula, at once."""
    return nag(positive, negative, *STRENGTH).output.to(positive.dtype)


def library_nag(positive: Tensor, negative: Tensor) -> Tensor:
    """Return NAG as a guided call combines features."""
    return COMBINE(cast(KernelCall, SimpleNamespace()), positive, negative)


def library_average(average: Tensor, live: Tensor) -> Tensor:
    """Update EMAG's average and return D, by the library's formulas."""
    ema(average, live, DECAY)
    return attention_gradient(average, live, 2)


def cases(compiled: bool) -> dict[str, dict[str, Function]]:
    """Return the implementations of each formula, the first of them written out."""
    ways: dict[str, Function] = {"written out": plain_nag, "copy": lambda positive, _: positive.clone()}
    ways |= {"whole": whole_nag, "ours": library_nag}
    if compiled:
        ways["compiled"] = torch.compile(whole_nag, dynamic=True)
    return {"NAG": ways, "average and D": {"written out": plain_average, "ours": library_average}}


def measure(ways: dict[str, Function], arguments: tuple[Tensor, ...], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each implementation in every round, after one that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way(*arguments)
            if index:
                times[name].append(1000 * (time.process_time() - begin))
    return times


def measure_all(tokens: int, dtype: torch.dtype, rounds: int, compiled: bool) -> dict[str, dict[str, Summary]]:
    """Return, for each formula, the ratio of each implementation to the first, and the first's milliseconds."""
    shape, results = (1, tokens, HEADS, WIDTH), {}
    positive, negative, average = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape)
    tensors = {"NAG": (positive, negative), "average and D": (average, positive)}
    for name, ways in cases(compiled).items():
        times = measure(ways, tensors[name], rounds)
        first = times["written out"]
        results[name] = {FIRST: summary(first)}
        results[name] |= {way: ratios(values, first) for way, values in times.items() if way != "written out"}
    return results


def main() -> None:
    """Measure both formulas at every length and in two dtypes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--short", action="store_true", help="1024 and 4096 tokens only")
    add_output(parser)
    arguments = parser.parse_args()
    rows, results = [], {}
    for tokens in [1024, 4096] if arguments.short else arguments.tokens:
        for dtype in (torch.float32, torch.bfloat16):
            label = str(dtype).removeprefix("torch.")
            for name, columns in measure_all(tokens, dtype, arguments.rounds, arguments.compiled).items():
                measured = {way: value for way, value in columns.items() if way != FIRST}
                results[f"{name}, {tokens} tokens, {label}"] = measured
                cells = {column: columns[column].text if column in columns else "-" for column in COLUMNS}
                rows.append({"formula": name, "tokens": str(tokens), "dtype": label, **cells})
    title = f"# Eager formulas on a CPU, {HEADS} x {WIDTH} features: process time relative to the first column\n\n"
    write("formulas", title + table(rows), {"ratios": results}, arguments.output)


if __name__ == "__main__":
    main()
