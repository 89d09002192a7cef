"""Time of a block of code, measured without waiting for the device."""

import time
from types import TracebackType
from typing import Any

import torch


class Stopwatch:
    """Measures the time of a `with` block on a device; on CUDA by events, which are read with `seconds`."""

    def __init__(self, device: torch.device) -> None:
        make: Any = torch.cuda.Event
        self.events = [make(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self.times = [0.0, 0.0]

    def __enter__(self) -> None:
        self._mark(0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._mark(1)

    def _mark(self, which: int) -> None:
        if self.events:
            self.events[which].record()
        else:
            self.times[which] = time.perf_counter()

    @property
    def seconds(self) -> float:
        if self.events:
            self.events[1].synchronize()
            return float(self.events[0].elapsed_time(self.events[1])) / 1000
        return self.times[1] - self.times[0]
