"""A run samples one batch of videos: its current step, and a trace of what the guidances did."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidguide.tracing.heat_map import LARGEST, Cell, Panel, Picture, draw, scaled
from vidguide.tracing.stopwatch import Stopwatch

STREAMS = ("video", "audio")  # whose tokens attend to text


@dataclass(frozen=True)
class Record:
    """Effect of NAG or VSF on one stream at one layer in one step.

    Attributes:
        stream: what attends to the text there, "video" or "audio".
        clamped: share of the tokens whose norm tau limits. change: relative L1 change of the features.
    """

    step: int
    layer: int
    stream: str
    clamped: float
    change: float


@dataclass(frozen=True)
class SampleChoice:
    """EMAG's choice for one sample of the batch in one step.

    Attributes:
        layers: the perturbed layers. gradients: `D` of every candidate layer.
    """

    layers: tuple[int, ...]
    gradients: dict[int, float]


@dataclass(frozen=True)
class PerturbedPass:
    """One perturbed pass.

    Attributes:
        step: index of the step. guidance: class name of the guidance. layers: the perturbed layers, of any sample.
        samples: EMAG's choice for each sample of the batch; empty for other guidances. stopwatch: measured its time.
    """

    step: int
    guidance: str
    layers: tuple[int, ...]
    samples: tuple[SampleChoice, ...]
    stopwatch: Stopwatch

    @property
    def gradients(self) -> dict[int, float]:
        """EMAG's `D` of every candidate layer, the mean over the samples that have it; empty for other guidances."""
        layers = dict.fromkeys(layer for choice in self.samples for layer in choice.gradients)
        by_layer = {
            layer: [choice.gradients[layer] for choice in self.samples if layer in choice.gradients] for layer in layers
        }
        return {layer: sum(values) / len(values) for layer, values in by_layer.items()}

    @property
    def layers_of_samples(self) -> str:
        """The perturbed layers, `1,2`; where they differ, of each sample, `1 | 2 | 1`."""
        each = [choice.layers for choice in self.samples]
        different = each if len(set(each)) > 1 else [self.layers]
        return " | ".join(",".join(map(str, layers)) for layers in different)

    @property
    def seconds(self) -> float:
        """Time of the pass in seconds; on CUDA, waits for it."""
        return self.stopwatch.seconds


class Trace:
    """Effects of the guidances in one run, by step, layer and stream.

    Measurements remain tensors on their device until they are read, so that tracing never waits for the GPU. Under
    context parallel they are of this rank's tokens, except for D.

    Attributes:
        steps: number of completed steps. choices: the perturbed passes, with the layers chosen for each.
        notes: why guidances were off in this run, and what was left out of computations without a change of results.
    """

    def __init__(self) -> None:
        self._measured: list[tuple[int, int, str, Tensor]] = []
        self.steps = 0
        self.choices: list[PerturbedPass] = []
        self.notes: list[str] = []

    def add(self, step: int, layer: int, stream: str, measured: Tensor) -> None:
        self._measured.append((step, layer, stream, measured.detach()))

    def note(self, notes: Iterable[str]) -> None:
        """Add notes that are not yet there."""
        self.notes += [note for note in dict.fromkeys(notes) if note not in self.notes]

    def __iter__(self) -> Iterator[Record]:
        for step, layer, stream, measured in self._measured:
            clamped, change, norm = measured.tolist()
            yield Record(step, layer, stream, clamped, change / norm if norm else 0.0)

    def __len__(self) -> int:
        return len(self._measured)

    def summary(self) -> dict[str, Any]:
        """Return means over steps and layers, those of the audio as `audio_clamped` and `audio_change`, the numbers of
        guided steps and layers, and the number and time of the perturbed passes; an empty dict where nothing was
        done."""
        records, passes = list(self), {}
        if self.choices:
            seconds = sum(choice.seconds for choice in self.choices)
            passes = {"weak_passes": len(self.choices), "weak_seconds": round(seconds, 3)}
        if not records:
            return passes
        counts = {name: len({getattr(record, name[:-1]) for record in records}) for name in ("steps", "layers")}
        video, audio = ([record for record in records if record.stream == stream] for stream in STREAMS)
        audio_means = {f"audio_{name}": value for name, value in _means(audio).items()}
        return passes | counts | _means(video) | audio_means

    def plot(self) -> Picture:
        """Draw heat maps of steps by layers as SVG: change of the features and share of the clamped tokens, for each
        stream, and the perturbed layers of each guidance, with EMAG's D of the candidates.

        Returns:
            the picture, which notebooks show; `save("trace.svg")` writes it.
        """
        panels = [*_feature_panels(list(self)), *_pass_panels(self.choices)]
        title = f"trace of {self.steps} steps" if panels else "nothing was measured in this run"
        return draw(panels, title, self.notes)

    def __str__(self) -> str:
        """Format a line per step and stream, the relative change of features in each layer and the share limited by
        tau, then a line per perturbed pass."""
        if not self._measured and not self.choices:
            return "\n".join(["nothing was measured in this run", *self.notes])
        return "\n".join([*self._features(), *self._perturbed_passes(), *self.notes])

    def _features(self) -> list[str]:
        records = list(self)
        if not records:
            return []
        layers = sorted({record.layer for record in records})
        lines = ["step  stream  clamped  change in layer " + " ".join(f"{layer:>6}" for layer in layers)]
        for step, stream in dict.fromkeys((record.step, record.stream) for record in records):
            at = {record.layer: record for record in records if (record.step, record.stream) == (step, stream)}
            clamped = _means(list(at.values()))["clamped"]
            cells = " ".join(f"{at[layer].change:6.2f}" if layer in at else "     -" for layer in layers)
            lines.append(f"{step:>4}  {stream:<6}  {clamped:>6.0%}   {'':15} {cells}")
        return lines

    def _perturbed_passes(self) -> list[str]:
        """Format a line per perturbed pass: its layers, its time, and D of the candidates where it was measured, the
        mean over the samples."""
        if not self.choices:
            return []
        lines = ["step  perturbed  layers   seconds  D of the candidates"]
        for choice in self.choices:
            layers = choice.layers_of_samples
            gradients = "  ".join(f"{layer}: {value:.4f}" for layer, value in choice.gradients.items())
            lines.append(f"{choice.step:>4}  {choice.guidance:<9}  {layers:<7}  {choice.seconds:7.3f}  {gradients}")
        return lines


MEASURES = {"change": "relative change of the features", "clamped": "share of the tokens that tau limits"}


def _feature_panels(records: list[Record]) -> list[Panel]:
    """Return a heat map for each measure and stream; the colour is full at its largest value."""
    panels = []
    for stream in dict.fromkeys(record.stream for record in records):
        shown = [record for record in records if record.stream == stream]
        layers, steps = (sorted({getattr(record, name) for record in shown}) for name in ("layer", "step"))
        for name, description in MEASURES.items():
            largest = max(getattr(record, name) for record in shown)
            cells = {
                (layers.index(record.layer), steps.index(record.step)): scaled(
                    getattr(record, name), largest, f"step {record.step}, layer {record.layer}: {getattr(record, name)}"
                )
                for record in shown
            }
            panels.append(_panel(f"{stream}: {description}, at most {largest:.1%}", layers, steps, cells))
    return panels


def _pass_panels(choices: list[PerturbedPass]) -> list[Panel]:
    """Return a heat map for each guidance with perturbed passes: D where it was measured, and the perturbed layers
    framed."""
    panels = []
    for name in dict.fromkeys(choice.guidance for choice in choices):
        passes = {choice.step: choice for choice in choices if choice.guidance == name}
        layers = sorted({layer for choice in passes.values() for layer in (*choice.layers, *choice.gradients)})
        largest = max((value for choice in passes.values() for value in choice.gradients.values()), default=0.0)
        cells = {
            (layers.index(layer), column): _pass_cell(choice, layer, largest)
            for column, choice in enumerate(passes.values())
            for layer in layers
            if layer in choice.layers or layer in choice.gradients
        }
        gradients = f": D of the candidates, at most {largest:.4g}; framed:" if largest else ":"
        panels.append(_panel(f"{name}{gradients} perturbed layers", layers, list(passes), cells))
    return panels


def _pass_cell(choice: PerturbedPass, layer: int, largest: float) -> Cell:
    """Return the cell of one layer in a perturbed pass."""
    value, mark = choice.gradients.get(layer), layer in choice.layers
    title = f"step {choice.step}, layer {layer}" + ("" if value is None else f": D = {value}")
    if value is None:
        return Cell(text="", title=title, opacity=0.0, mark=mark)
    return Cell(text=f"{value:.2f}", title=title, opacity=LARGEST * value / largest if largest else 0.0, mark=mark)


def _panel(title: str, layers: list[int], steps: list[int], cells: dict[tuple[int, int], Cell]) -> Panel:
    """Return a heat map of layers by steps."""
    return Panel(title=title, rows=[*map(str, layers)], columns=[*map(str, steps)], cells=cells, axis="layer / step")


def _means(records: list[Record]) -> dict[str, float]:
    """Return the means of some records; an empty dict where there are none."""
    return {
        name: sum(getattr(record, name) for record in records) / len(records)
        for name in ("clamped", "change")
        if records
    }


class Run:
    """The current step of a sampling run. Calls of the scheduler advance it.

    Attributes:
        steps: steps of this run; None for a bare transformer without a scheduler.
        step: index of the current step, from 0. number: number of the run within one `guide`.
        skipped: steps of the schedule that the run leaves out at its beginning, as video-to-video does.
        traces: traces of all runs within one `guide`.
        foreign_calls: number of the transformer's calls by other threads and tasks, which were not guided.
        on_step: called after each step, with the number of completed steps and of all; what it raises ends the run.
    """

    def __init__(self) -> None:
        self.on_step: Callable[[int, int], object] | None = None
        self.steps: int | None = None
        self.step = 0
        self.number = 0
        self.traces: list[Trace] = []
        self.foreign_calls = 0
        self.skipped = 0
        self._reached: int | None = None
        self._traced = False

    @property
    def trace(self) -> Trace:
        """Trace of the latest run that completed a step or recorded something."""
        return self.traces[-1] if self.traces else Trace()

    @property
    def current(self) -> Trace:
        """Trace of the current run, created on first use: pipelines may begin a run without taking a step of it."""
        if not self._traced:
            self.traces.append(Trace())
            self._traced = True
        return self.traces[-1]

    def begin(self, steps: int | None) -> None:
        """Begin a new run, for which nothing cached in the previous one is valid."""
        self.steps, self.step, self._reached, self._traced, self.skipped = steps, 0, None, False, 0
        self.number += 1

    def skip(self, skipped: int) -> None:
        """Begin the run at this index of its schedule, before its first step; it has fewer steps then."""
        if self.steps is not None:
            self.steps += self.skipped - skipped
            self.skipped = skipped

    def advance(self, steps: int, reached: int | None = None) -> None:
        """Complete one of the run's `steps`.

        Args:
            reached: the scheduler's step index, None where it has none. Cosmos' pipelines take each step twice and
                reset the index in between; the second one is not counted.
        """
        if reached is None or reached != self._reached:
            self.steps, self.step, self._reached = steps, self.step + 1, reached
            self.current.steps = self.step
            if self.on_step is not None:
                self.on_step(self.step, steps)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Run":
        # Some pipelines copy their scheduler, which refers to the run; a copy of the run would count separately.
        return self
