"""VBench's dimensions as VBench itself scores them: nothing here computes them, `import-vbench` brings them in."""

from collections.abc import Callable

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample

STEADY = ("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness")
DIMENSIONS = (
    *STEADY,
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)


def of(dimension: str) -> Callable[[Sample], Value]:
    """A measure that has no value of its own."""

    def measure(sample: Sample) -> Value:
        raise UndefinedError("computed by VBench itself: export-vbench, run it, import-vbench")

    measure.__doc__ = (
        f"VBench's {dimension}, as VBench scored the clip.\n\nDirection: higher is better, by VBench's reading"
        f"{' of a guard' if dimension == 'dynamic_degree' else ''}. Range: 0 to 1, styles and consistency of text from "
        "-1. Unit: as VBench defines it. Fooled by: see the dimension; it was scored from lossy files, of prompts "
        "that are not VBench's own unless you used those. Source: VBench (Huang et al., CVPR 2024), run by you."
    )
    return measure


for name in DIMENSIONS:
    metric(
        id=f"external.{name}",
        version="VBench, as installed there",
        unit="as VBench defines it",
        low=-1.0,
        high=1.0,
        better="" if name == "dynamic_degree" else "higher",
        guards=STEADINESS_GUARDS if name in STEADY else (),
        encoders=("external",),
    )(of(name))
