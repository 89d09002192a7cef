"""What the eager formulas cost beside the same equations written out operation by operation.

    python benchmarks/formulas.py [--tokens 4096] [--repeats 15]

Features of 12 heads of 128 channels, as Wan 2.1 1.3B has them. Each round times both ways one after the other, by the
time of the process, so that whatever else the machine does falls on neither; medians over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from reporting import table, write
from torch import Tensor

from vidguide.functional.emag import attention_gradient, ema
from vidguide.functional.nag import nag

HEADS, WIDTH = 12, 128
STRENGTH, DECAY = (11.0, 2.5, 0.25), 0.988


def plain_nag(positive: Tensor, negative: Tensor) -> Tensor:
    """NAG's equation, one operation after another."""
    scale, tau, alpha = STRENGTH
    wide, other = positive.float(), negative.float()
    guided = wide + (scale - 1) * (wide - other)
    own, norm = wide.abs().sum((-2, -1), keepdim=True), guided.abs().sum((-2, -1), keepdim=True)
    limited = guided * torch.where(norm > tau * own, tau * own / norm, 1.0)
    return (wide + alpha * (limited - wide)).to(positive.dtype)


def plain_average(average: Tensor, live: Tensor) -> Tensor:
    """EMAG's average and D, one operation after another."""
    wide = live.float()
    average.copy_(DECAY * average + (1 - DECAY) * wide)
    return (average - wide).abs().mean((0, 1, 3))


def ours_nag(positive: Tensor, negative: Tensor) -> Tensor:
    """NAG by the library's formula."""
    return nag(positive, negative, *STRENGTH).output.to(positive.dtype)


def ours_average(average: Tensor, live: Tensor) -> Tensor:
    """The same by the library's formulas."""
    ema(average, live, DECAY)
    return attention_gradient(average, live, 2)


def measure(ways: dict[str, Callable[..., Any]], arguments: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    """Milliseconds of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.process_time()
            way(*arguments)
            times[name].append(1000 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure both formulas in two dtypes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    shape = (1, arguments.tokens, HEADS, WIDTH)
    rows, results = [], {}
    for dtype in (torch.float32, torch.bfloat16):
        one, two, average = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape)
        cases: dict[str, tuple[dict[str, Callable[..., Any]], tuple[Tensor, ...]]] = {
            "NAG": ({"written out": plain_nag, "ours": ours_nag}, (one, two)),
            "average and D": ({"written out": plain_average, "ours": ours_average}, (average, one)),
        }
        for name, (ways, given) in cases.items():
            found = measure(ways, given, arguments.repeats)
            label = str(dtype).removeprefix("torch.")
            results[f"{name}, {label}"] = found
            share = found["ours"] / found["written out"]
            times = {f"{way}, ms": f"{value:.1f}" for way, value in found.items()}
            rows.append({"formula": name, "dtype": label, **times, "ours, x written out": f"{share:.2f}"})
    title = f"# Eager formulas on a CPU, {arguments.tokens} tokens of {HEADS} x {WIDTH}\n\n"
    write("formulas", title + table(rows), {"tokens": arguments.tokens, "ms": results})


if __name__ == "__main__":
    main()
