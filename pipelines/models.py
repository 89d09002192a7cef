"""The models that ship with the package: data."""

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model is meant to be called.

    Attributes:
        path: local folder in diffusers' pipeline format.
        height, width: pixels. frames: per clip. fps: frames per second.
        steps: denoising steps. guidance_scale: of the pipeline's own classifier-free guidance; 1 is off.
        about: one line for people.
    """

    path: Path
    height: int
    width: int
    frames: int
    fps: float
    steps: int
    guidance_scale: float
    about: str


SHIPPED = {
    "tiny": Model(
        path=WEIGHTS / "tiny",
        height=64,
        width=64,
        frames=13,
        fps=8,
        steps=20,
        guidance_scale=1.0,
        about="text to video in the real Wan format, trained on a world of coloured moving shapes; runs on a laptop",
    ),
}
