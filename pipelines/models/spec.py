"""`Model`: the declaration of a model's weights and sampling settings, shared by shipped models and presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

WEIGHTS = Path(__file__).parents[1] / "weights"
REJECT_UNKNOWN = ConfigDict(extra="forbid")  # for pydantic, which reads a declaration back from a clip's JSON


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A single safetensors file that replaces weights of a pipeline folder.

    Attributes:
        source: Hugging Face repo id or local folder.
        file: path of the file in `source`.
        revision: branch, tag or commit of a repo id.
        components: pipeline components that are read from the file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = REJECT_UNKNOWN
    source: str
    file: str
    revision: str | None = None
    components: tuple[str, ...] = ("transformer",)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA and the transformer it is loaded into.

    Attributes:
        source: Hugging Face repo id or local folder.
        file: path of the safetensors file in `source`.
        revision: branch, tag or commit of a repo id.
        strength: factor of the LoRA's weights.
        component: `transformer`, or `transformer_2` for the second expert of Wan 2.2.
    """

    __pydantic_config__: ClassVar[ConfigDict] = REJECT_UNKNOWN
    source: str
    file: str
    revision: str | None = None
    strength: float = 1.0
    component: str = "transformer"


@dataclass(frozen=True, kw_only=True)
class Model:
    """Declaration of a model: its weights and sampling settings. None means the default of the pipeline.

    Attributes:
        source: local folder in diffusers' pipeline format, or Hugging Face repo id.
        revision: branch, tag or commit of a repo id.
        variant: variant in the names of the weight files, such as "bf16".
        pipeline: class name of the diffusers pipeline; None for the class in `model_index.json`.
        checkpoint: single file that replaces weights of the folder.
        loras: LoRAs to load.
        scheduler: class name of the scheduler; None for the scheduler of the folder.
        scheduler_settings: entries of the scheduler config to change.
        sigmas: noise levels in 0..1 as the scheduler's `set_timesteps` takes them, before its shift; one per step.
        timesteps: noise levels in 0..1000, for a pipeline whose call takes `timesteps`; one per step.
        boundary: Wan 2.2: fraction of the timesteps above which the first expert runs.
        height, width: pixels.
        frames: number of frames.
        fps: frames per second.
        steps: number of denoising steps.
        guidance_scale: scale of the pipeline's classifier-free guidance; 1 switches it off.
        distilled: True for a model distilled to run without classifier-free guidance.
        image: first image: "no", "may" or "must"; None to derive it from the pipeline class.
        nag: parameters of the NAG that is the default for a negative prompt; empty for NAG's defaults.
        call: further arguments of the pipeline call.
        tiling: decode in tiles, to bound memory at large sizes.
        cites: URLs of the sources of these values.
        ran: where the model was run on real weights; None if it was not.
        about: one-line description.

    Raises:
        ValueError: the number of sigmas or timesteps is not `steps`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = REJECT_UNKNOWN
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
            levels = getattr(self, name)
            if levels is not None and len(levels) != self.steps:
                raise ValueError(f"Model({name}=...): has {len(levels)} values for steps={self.steps}")

    @property
    def path(self) -> Path:
        """Local path of `source`."""
        return Path(self.source)

    def values(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return dataclasses.asdict(self)


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
        about="text to video in the Wan format, trained on a world of coloured moving shapes; runs on a laptop",
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
        nag=dict(tau=1.25, alpha=0.5),  # selected by benchmarks/negative_prompt.py; docs/results.md
        about="tiny, distilled to four steps with guidance built in, as few-step models are",
    ),
}
