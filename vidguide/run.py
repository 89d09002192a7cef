"""A run is one sampling of one video: which step it is at, and a record of what the guidances did."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Record:
    """What a guidance did at one layer in one step: share of tokens held by tau, relative change of the features."""

    step: int
    layer: int
    clamped: float
    change: float


@dataclass(frozen=True)
class Choice:
    """Which layers a weak pass perturbed in a step, and `D` of every candidate layer where it was measured."""

    step: int
    guidance: str
    layers: tuple[int, ...]
    gradients: dict[int, float]


class Trace:
    """What the guidances of one run did, step by step and layer by layer.

    Measurements stay on their device as tensors until they are read, so that tracing never waits for the GPU.
    """

    def __init__(self) -> None:
        self._measured: list[tuple[int, int, Tensor]] = []
        self.choices: list[Choice] = []

    def add(self, step: int, layer: int, measured: Tensor) -> None:
        self._measured.append((step, layer, measured.detach()))

    def __iter__(self) -> Iterator[Record]:
        for step, layer, measured in self._measured:
            clamped, change, norm = measured.tolist()
            yield Record(step, layer, clamped, change / norm if norm else 0.0)

    def __len__(self) -> int:
        return len(self._measured)

    def summary(self) -> dict[str, Any]:
        """Means over steps and layers, and how many steps and layers were guided; empty when nothing was."""
        records = list(self)
        if not records:
            return {}
        return {
            "steps": len({record.step for record in records}),
            "layers": len({record.layer for record in records}),
            "clamped": sum(record.clamped for record in records) / len(records),
            "change": sum(record.change for record in records) / len(records),
        }

    def __str__(self) -> str:
        """One line per step: relative change of the attention features in each layer, and the share held by tau."""
        records = list(self)
        if not records:
            return "no attention was changed in this run"
        layers = sorted({record.layer for record in records})
        lines = ["step  clamped  change in layer " + " ".join(f"{layer:>6}" for layer in layers)]
        for step in sorted({record.step for record in records}):
            here = {record.layer: record for record in records if record.step == step}
            clamped = sum(record.clamped for record in here.values()) / len(here)
            cells = " ".join(f"{here[layer].change:6.2f}" if layer in here else "     -" for layer in layers)
            lines.append(f"{step:>4}  {clamped:>6.0%}   {'':15} {cells}")
        return "\n".join(lines)


class Run:
    """The step a sampling is at. Guidances read `progress`; the scheduler's own calls move it.

    Attributes:
        steps: steps of this run; None for a bare transformer without a scheduler.
        step: index of the step at work, from 0.
        trace: what was done in this run; `traces` keeps those of all runs within one `guide`.
    """

    def __init__(self) -> None:
        self.steps: int | None = None
        self.step = 0
        self.number = 0
        self.traces: list[Trace] = []

    @property
    def trace(self) -> Trace:
        """What the guidances did in the latest run."""
        return self.traces[-1] if self.traces else Trace()

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, 0 to 1; 0 where the number of steps is not known."""
        return self.step / self.steps if self.steps else 0.0

    def begin(self, steps: int | None) -> None:
        """A new sampling begins: nothing kept from the last one is used again."""
        self.steps, self.step = steps, 0
        self.number += 1
        self.traces.append(Trace())

    def advance(self, steps: int) -> None:
        """One of the run's `steps` is done."""
        self.steps, self.step = steps, self.step + 1

    def __deepcopy__(self, memo: dict[int, Any]) -> "Run":
        # Some pipelines copy their scheduler, which points here; a copy of the run would count on its own.
        return self
