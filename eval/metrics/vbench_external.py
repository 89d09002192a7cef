"""VBench's dimensions as scored by VBench itself: `import-vbench` imports the scores; nothing here computes them."""

from collections.abc import Callable

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample

STEADINESS = ("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness")
DIMENSIONS = (
    *STEADINESS,
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


def imported_score(dimension: str) -> Callable[[Sample], Value]:
    """Return the measure of an imported dimension, which is undefined for every sample."""

    def measure(sample: Sample) -> Value:
        raise UndefinedError("computed by VBench itself: export-vbench, run it, import-vbench")

    measure.__doc__ = (
        f"Import VBench's {dimension}, as VBench scored the clip.\n\nDirection: higher is better, according to VBench"
        f"{'; a guard here' if dimension == 'dynamic_degree' else ''}. Range: 0 to 1, styles and text consistency from "
        "-1. Unit: as VBench defines it. Fooled by: see the dimension; VBench scored lossy files, and prompts other "
        "than its own unless you used those. Source: VBench (Huang et al., CVPR 2024), run by you."
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
        guards=STEADINESS_GUARDS if name in STEADINESS else (),
        encoders=("external",),
    )(imported_score(name))
