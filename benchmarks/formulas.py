"""Measure the eager formulas against the same equations as separate operations.

    python benchmarks/formulas.py [--tokens 4096] [--repeats 15]

Features of 12 heads of 128 channels, as in Wan 2.1 1.3B. Each round times both implementations in process time; the
result is the median over rounds.
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


def library_nag(positive: Tensor, negative: Tensor) -> Tensor:
    """Return NAG by the library's formula."""
    return nag(positive, negative, *STRENGTH).output.to(positive.dtype)


def library_average(average: Tensor, live: Tensor) -> Tensor:
    """Update EMAG's average and return D, by the library's formulas."""
    ema(average, live, DECAY)
    return attention_gradient(average, live, 2)


def measure(ways: dict[str, Callable[..., Any]], arguments: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each implementation."""
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
        positive, negative, average = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape)
        cases: dict[str, tuple[dict[str, Callable[..., Any]], tuple[Tensor, ...]]] = {
            "NAG": ({"written out": plain_nag, "ours": library_nag}, (positive, negative)),
            "average and D": ({"written out": plain_average, "ours": library_average}, (average, positive)),
        }
        for name, (ways, tensors) in cases.items():
            times = measure(ways, tensors, arguments.repeats)
            label = str(dtype).removeprefix("torch.")
            results[f"{name}, {label}"] = times
            share = times["ours"] / times["written out"]
            cells = {f"{way}, ms": f"{value:.1f}" for way, value in times.items()}
            rows.append({"formula": name, "dtype": label, **cells, "ours, x written out": f"{share:.2f}"})
    title = f"# Eager formulas on a CPU, {arguments.tokens} tokens of {HEADS} x {WIDTH}\n\n"
    write("formulas", title + table(rows), {"tokens": arguments.tokens, "ms": results})


if __name__ == "__main__":
    main()
