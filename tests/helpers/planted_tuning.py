"""A tuning whose optimum is known: clips whose colour is a function of the setting, and metrics that read it."""

from pathlib import Path
from typing import Any

import numpy as np

from vidguide import NAG
from vidguide.clip import Clip
from vidguide.eval.metrics.base import Metric, Value
from vidguide.eval.metrics.sample import Sample
from vidguide.pipelines.request.guidance_spec import parse
from vidguide.pipelines.sweep.jobs import REQUEST, Job
from vidguide.pipelines.sweep.run import Made
from vidguide.pipelines.sweep.storage import save_clip
from vidguide.pipelines.tuning.config import Tuning, make_tuning

OBJECTIVE, KEPT = "temporal.planted", "temporal.planted_kept"
OPTIMUM = {"tau": 1.6, "alpha": 0.4}  # improvement 0.3, with nothing lost
LIMIT = 0.6  # of alpha, above which the kept metric falls


def measure_red(sample: Sample) -> Value:
    """Measure the mean of red."""
    return Value(value=float(sample.clip.frames[..., 0].mean()) / 255)


def measure_green(sample: Sample) -> Value:
    """Measure the mean of green."""
    return Value(value=float(sample.clip.frames[..., 1].mean()) / 255)


SHARE: dict[str, Any] = dict(version="1", unit="share", low=0.0, high=1.0)
METRICS = {
    OBJECTIVE: Metric(id=OBJECTIVE, better="lower", measure=measure_red, **SHARE),
    KEPT: Metric(id=KEPT, better="higher", measure=measure_green, **SHARE),
}


def noise(job: Job) -> float:
    """Return a part of the value that prompt and seed determine, for all settings alike."""
    return float(np.random.default_rng([job.seed, *job.prompt.id.encode()]).uniform(-0.1, 0.1))


def planted(job: Job) -> tuple[float, float]:
    """Return the objective (lower is better) and the kept metric of a clip."""
    guidances = parse(job.arm.guidance)
    if not guidances:
        return 0.6 + noise(job), 0.8 + noise(job)
    (nag,) = guidances
    assert isinstance(nag, NAG)
    distance = (np.log(nag.tau / OPTIMUM["tau"]) / 0.7) ** 2 + ((nag.alpha - OPTIMUM["alpha"]) / 0.4) ** 2
    jitter = float(np.random.default_rng([job.seed, *job.prompt.id.encode(), *repr(nag.tau).encode()]).normal(0, 0.02))
    return 0.6 + noise(job) - 0.3 * np.exp(-distance) + jitter, 0.8 + noise(job) - max(nag.alpha - LIMIT, 0)


class PlantedWorker:
    """Writes clips of the planted values, in the place of :class:`vidguide.pipelines.sweep.run.ClipWorker`.

    Attributes:
        kind: type of its device. made: jobs of all workers. inverted: whether held-out clips have opposite values.
    """

    kind = "planted"
    made: list[Job] = []  # noqa: RUF012
    inverted = False

    def __init__(self, *arguments: Any) -> None:
        """Accept the arguments of a worker of a sweep."""

    def __call__(self, job: Job) -> Made:
        objective, guard = planted(job)
        if self.inverted and job.seed > 0:
            objective = 1 - objective
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        frames[..., 0], frames[..., 1] = round(255 * objective), round(255 * guard)
        provenance = {REQUEST: job.request, "device_name": self.kind}
        save_clip(Clip(frames=frames, fps=8, provenance=provenance), job.path)
        self.made.append(job)
        return Made(str(job.path), "", 0.0)


def planted_tuning(**changes: Any) -> Tuning:
    """Return a small tuning of the planted problem."""
    arguments: dict[str, Any] = dict(
        model="tiny-4step",
        guidance="nag",
        over=["tau=1:4", "alpha=0.05:1"],
        prompts=[f"a large circle {number}" for number in range(24)],
        objective=OBJECTIVE,
        keep=[f"{KEPT}:0.05"],
        budget=260,
        negative_prompt="red",
        pairs=12,
        held_out=12,
    )
    return make_tuning(**{**arguments, **changes})


def files_of(folder: Path) -> list[str]:
    """Return the clips of a folder, by path."""
    return sorted(str(path.relative_to(folder)) for path in (folder / "clips").rglob("*.mkv"))
