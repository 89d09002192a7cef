"""Timing on a GPU by CUDA events, or on a CPU by the clock."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Function = Callable[[], Any]


def milliseconds(function: Function, device: torch.device) -> float:
    """Return the duration of one call."""
    if device.type != "cuda":
        begin = time.perf_counter()
        function()
        return 1000 * (time.perf_counter() - begin)
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin_event.record()
    function()
    end_event.record()
    end_event.synchronize()
    return begin_event.elapsed_time(end_event)


def allocated(device: torch.device) -> int:
    """Return the allocated bytes of a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak(function: Function, device: torch.device) -> int:
    """Return the peak of allocated bytes during a call, relative to the bytes before it."""
    if device.type != "cuda":
        function()
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = allocated(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def rounds(
    functions: Mapping[str, Function], device: torch.device, seconds: float, least: int
) -> dict[str, list[float]]:
    """Return the milliseconds of every function, alternating in rounds: at least `least` rounds, and as many as fit in
    `seconds`."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    while len(next(iter(times.values()))) < least or time.perf_counter() - begin < seconds:
        for name, function in functions.items():
            times[name].append(milliseconds(function, device))
    return times


def median_and_range(times: list[float]) -> str:
    """Format the median and the range."""
    return f"{statistics.median(times):.3g} [{min(times):.3g}, {max(times):.3g}]"
