"""Timing on a GPU by its own events, or on a CPU by the clock."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Function = Callable[[], Any]


def milliseconds(function: Function, device: torch.device) -> float:
    """How long one call takes."""
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
    """Bytes in use on a GPU; 0 on a CPU, where they are not counted."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak(function: Function, device: torch.device) -> int:
    """Bytes that a call takes above what was in use before it."""
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
    """Milliseconds of every function, one after another in each round, so that whatever else the machine does falls on
    all: as many rounds as fit in the seconds, and at least a few."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    while len(next(iter(times.values()))) < least or time.perf_counter() - begin < seconds:
        for name, function in functions.items():
            times[name].append(milliseconds(function, device))
    return times


def told(times: list[float]) -> str:
    """Median, and from the shortest to the longest."""
    return f"{statistics.median(times):.3g} [{min(times):.3g}, {max(times):.3g}]"
