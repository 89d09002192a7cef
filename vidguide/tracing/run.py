"""A run is one sampling of one video: which step it is at, and a record of what the guidances did."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidguide.tracing.stopwatch import Stopwatch


@dataclass(frozen=True)
class Record:
    """What a guidance did at one layer in one step: share of tokens held by tau, relative change of the features."""

    step: int
    layer: int
    clamped: float
    change: float


@dataclass(frozen=True)
class Choice:
    """Which layers a weak pass perturbed in a step, `D` of every candidate layer where it was measured, its time."""

    step: int
    guidance: str
    layers: tuple[int, ...]
    gradients: dict[int, float]
    stopwatch: Stopwatch

    @property
    def seconds(self) -> float:
        """What the weak pass took; on CUDA, waits for it."""
        return self.stopwatch.seconds


class Trace:
    """What the guidances of one run did, step by step and layer by layer.

    Measurements stay on their device as tensors until they are read, so that tracing never waits for the GPU. Under
    context parallel they are of this rank's tokens, except for D.

    Attributes:
        steps: how many steps of the run are done.
    """

    def __init__(self) -> None:
        self._measured: list[tuple[int, int, Tensor]] = []
        self.steps = 0
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
        """Means over steps and layers, and how many steps and layers were guided; of weak passes, how many there were
        and their time; empty when nothing was done."""
        records, found = list(self), {}
        if self.choices:
            seconds = sum(choice.seconds for choice in self.choices)
            found = {"weak_passes": len(self.choices), "weak_seconds": round(seconds, 3)}
        if not records:
            return found
        return found | {
            "steps": len({record.step for record in records}),
            "layers": len({record.layer for record in records}),
            "clamped": sum(record.clamped for record in records) / len(records),
            "change": sum(record.change for record in records) / len(records),
        }

    def __str__(self) -> str:
        """A line per step: relative change of the attention features in each layer, and the share held by tau; then a
        line per weak pass."""
        if not self._measured and not self.choices:
            return "nothing was measured in this run"
        return "\n".join([*self._features(), *self._weak_passes()])

    def _features(self) -> list[str]:
        records = list(self)
        if not records:
            return []
        layers = sorted({record.layer for record in records})
        lines = ["step  clamped  change in layer " + " ".join(f"{layer:>6}" for layer in layers)]
        for step in sorted({record.step for record in records}):
            here = {record.layer: record for record in records if record.step == step}
            clamped = sum(record.clamped for record in here.values()) / len(here)
            cells = " ".join(f"{here[layer].change:6.2f}" if layer in here else "     -" for layer in layers)
            lines.append(f"{step:>4}  {clamped:>6.0%}   {'':15} {cells}")
        return lines

    def _weak_passes(self) -> list[str]:
        """One line per weak pass: which layers, its time, and D of the candidates where it was measured."""
        if not self.choices:
            return []
        lines = ["step  weak pass  layers   seconds  D of the candidates"]
        for choice in self.choices:
            layers = ",".join(str(layer) for layer in choice.layers)
            gradients = "  ".join(f"{layer}: {value:.4f}" for layer, value in choice.gradients.items())
            lines.append(f"{choice.step:>4}  {choice.guidance:<9}  {layers:<7}  {choice.seconds:7.3f}  {gradients}")
        return lines


class Run:
    """The step a sampling is at. The scheduler's own calls move it.

    Attributes:
        steps: steps of this run; None for a bare transformer without a scheduler.
        step: index of the step at work, from 0.
        skipped: steps of the schedule that the run leaves out at its beginning, as video-to-video does.
        trace: what was done in this run; `traces` keeps those of all runs within one `guide`.
    """

    def __init__(self) -> None:
        self.steps: int | None = None
        self.step = 0
        self.number = 0
        self.traces: list[Trace] = []
        self.skipped = 0
        self._reached: int | None = None
        self._traced = False

    @property
    def trace(self) -> Trace:
        """What the guidances did in the latest run of which a step was taken."""
        return self.traces[-1] if self.traces else Trace()

    @property
    def current(self) -> Trace:
        """The trace of the run at work. Pipelines may begin a run at their end of which they take no step."""
        if not self._traced:
            self.traces.append(Trace())
            self._traced = True
        return self.traces[-1]

    def begin(self, steps: int | None) -> None:
        """A new sampling begins: nothing kept from the last one is used again."""
        self.steps, self.step, self._reached, self._traced, self.skipped = steps, 0, None, False, 0
        self.number += 1

    def skip(self, skipped: int) -> None:
        """Before the first step: the run begins at this index of its schedule, and has fewer steps."""
        if self.steps is not None:
            self.steps += self.skipped - skipped
            self.skipped = skipped

    def advance(self, steps: int, reached: int | None = None) -> None:
        """One of the run's `steps` is done, and the scheduler's own count, where it has one, has `reached` that number.
        Cosmos' pipelines let it take each step twice and turn the count back in between."""
        if reached is None or reached != self._reached:
            self.steps, self.step, self._reached = steps, self.step + 1, reached
            self.current.steps = self.step

    def __deepcopy__(self, memo: dict[int, Any]) -> "Run":
        # Some pipelines copy their scheduler, which points here; a copy of the run would count on its own.
        return self
