"""What a model is to us: its weights, and how it is meant to be called. One form for shipped models and presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One safetensors file that takes the place of a pipeline's own weights.

    Attributes:
        source: hub id or local folder. file: path of the file in it. revision: of a hub id.
        components: parts of the pipeline that are read from the file.
    """

    source: str
    file: str
    revision: str | None = None
    components: tuple[str, ...] = ("transformer",)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A low-rank adapter put on a transformer.

    Attributes:
        source: hub id or local folder. file: path of the safetensors file in it. revision: of a hub id.
        strength: factor of the adapter. component: the transformer it is put on; Wan 2.2's second is transformer_2.
    """

    source: str
    file: str
    revision: str | None = None
    strength: float = 1.0
    component: str = "transformer"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model and how it is meant to be called; None leaves a choice to the pipeline.

    Attributes:
        source: folder in diffusers' pipeline format, or hub id. revision: of a hub id.
        variant: of the weight files' names, such as "bf16".
        pipeline: class name of the diffusers pipeline; None for the one that the folder names.
        checkpoint: single file that replaces weights of the folder.
        loras: adapters.
        scheduler: class name of the scheduler; None for the folder's own. scheduler_settings: changes to its settings.
        sigmas: noise levels in 0..1 as the scheduler's `set_timesteps` takes them, before its shift; one per step.
        timesteps: the same in 0..1000, for a pipeline whose call takes those.
        boundary: Wan 2.2, the fraction of the timesteps above which the first expert is at work.
        height, width: pixels. frames: per clip. fps: frames per second.
        steps: denoising steps.
        guidance_scale: of the pipeline's own classifier-free guidance; 1 is off.
        distilled: made to run without classifier-free guidance.
        image: whether clips start from an image: "no", "may" or "must"; None to ask the pipeline's class.
        nag: parameters of the NAG that a negative prompt brings; empty for NAG's own defaults.
        call: further arguments of the pipeline's call.
        tiling: decode in tiles, which large sizes need.
        cites: where these values are from.
        ran: on real weights, where and with which result; None for not yet.
        about: one line for people.
    """

    source: str
    revision: str | None = None
    variant: str | None = None
    pipeline: str | None = None
    checkpoint: Checkpoint | None = None
    loras: tuple[Lora, ...] = ()
    scheduler: str | None = None
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)
    sigmas: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None
    boundary: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    distilled: bool = False
    image: str | None = None
    nag: Mapping[str, float] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    tiling: bool = False
    cites: tuple[str, ...] = ()
    ran: str | None = None
    about: str = ""

    def __post_init__(self) -> None:
        for name in ("sigmas", "timesteps"):
            given = getattr(self, name)
            if given is not None and len(given) != self.steps:
                raise ValueError(f"Model({name}=...): has {len(given)} values for steps={self.steps}")

    @property
    def path(self) -> Path:
        """Its source as a local folder."""
        return Path(self.source)

    def values(self) -> dict[str, Any]:
        """All of it as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Model":
        """The model that :meth:`values` told of, also after a way through JSON.

        Raises:
            TypeError: a value that no model has, by name.
        """
        made: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        made["loras"] = tuple(Lora(**lora) for lora in made.get("loras", ()))
        if made.get("checkpoint"):
            parts = tuple(made["checkpoint"]["components"])
            made["checkpoint"] = Checkpoint(**{**made["checkpoint"], "components": parts})
        return cls(**made)


SHIPPED = {
    "tiny": Model(
        source=str(WEIGHTS / "tiny"),
        height=64,
        width=64,
        frames=13,
        fps=8,
        steps=20,
        guidance_scale=1.0,
        image="no",
        ran="by the tests of this repository",
        about="text to video in the real Wan format, trained on a world of coloured moving shapes; runs on a laptop",
    ),
    "tiny-4step": Model(
        source=str(WEIGHTS / "tiny-4step"),
        height=64,
        width=64,
        frames=13,
        fps=8,
        steps=4,
        guidance_scale=1.0,
        distilled=True,
        image="no",
        ran="by the tests of this repository",
        nag=dict(tau=1.25, alpha=0.5),  # chosen from benchmarks/negative_prompt.py, as the README tells
        about="tiny distilled to four steps with its guidance built in, as few-step models are",
    ),
}
