"""What every guidance is: frozen, keyword-only parameters, checked when made, and the places to act."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vidguide.validation import check_number

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """A guidance acts in a window of the run, on some layers.

    Attributes:
        start, stop: window in fractions of the steps; it acts at step i of n where `start <= i / n < stop`.
        layers: indices of the transformer's blocks it acts in; None for the guidance's own choice.
    """

    start: float = 0.0
    stop: float = 1.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_number(self, "start", 0, 1)
        check_number(self, "stop", 0, 1)
        if self.start >= self.stop:
            raise ValueError(f"{type(self).__name__}(start={self.start}, stop={self.stop}): start must be below stop")
        if self.layers is not None:
            if not isinstance(self.layers, tuple | list) or not all(type(layer) is int for layer in self.layers):
                raise TypeError(f"{type(self).__name__}(layers={self.layers!r}): must be a tuple of block indices")
            if not self.layers:
                raise ValueError(f"{type(self).__name__}(layers={self.layers!r}): name a block, or leave layers out")
            object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def neutral(self) -> bool:
        """Whether these parameters change nothing, whatever the model."""
        return False

    def active(self, progress: float) -> bool:
        """Whether it acts at this fraction of the run: the one place where a window is tested."""
        return not self.neutral and self.start <= progress < self.stop

    @property
    def weak(self) -> bool:
        """Whether it runs the model a second time, perturbed."""
        return False

    @property
    def attends(self) -> bool:
        """Whether it edits or watches attention."""
        return self.weak

    @property
    def extra_pass(self) -> bool:
        """Whether it runs the whole model more often than the pipeline does."""
        return self.weak

    def skipped(self, depth: int) -> tuple[int, ...]:
        """Blocks, of `depth`, that its further pass leaves out whole."""
        return ()

    @property
    def windowed(self) -> bool:
        """Whether it leaves out a part of the run."""
        return (self.start, self.stop) != (0.0, 1.0)

    def check(self, denoiser: "Denoiser") -> None:
        """Refuse, before any step, a model that these parameters do not fit."""
        if self.layers is not None and not set(self.layers) <= set(range(denoiser.depth)):
            who = f"{type(self).__name__}(layers={self.layers})"
            raise ValueError(f"{who}: the model's blocks are 0 to {denoiser.depth - 1}")

    def change_inputs(self, denoiser: "Denoiser", inputs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the conditional call that comes next, and of its weak passes; one guidance at most changes
        them."""
        return inputs

    def check_run(self, denoiser: "Denoiser") -> None:
        """Refuse, before the first step of a run, a call that these parameters do not fit, though they act later."""

    def prepare(self, denoiser: "Denoiser") -> None:
        """Set edits at attention sites for the conditional call that comes next."""

    def correction(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor | None:
        """What to add to the conditional prediction, which is as the model made it: so order does not matter."""
        return None

    def combine(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor:
        """Combine the corrected conditional prediction with an unconditional one; one guidance at most does."""
        return prediction

    def beside_uncond(self) -> None:
        """The pipeline asks for an unconditional branch of its own: refuse, if that cannot be."""

    def describe(self) -> dict[str, Any]:
        """Name and parameters as plain values, for provenance."""
        return {
            "name": type(self).__name__,
            **{field.name: _plain(getattr(self, field.name)) for field in fields(self)},
        }


def _plain(value: Any) -> Any:
    """A parameter without its tensors, whose shapes stand for them, and functions, whose names do."""
    if callable(value):
        return getattr(value, "__qualname__", repr(value))
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else value
