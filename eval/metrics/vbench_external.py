"""Dimensions of VBench and VBench-2.0 as scored by them: `import-vbench` imports the scores; nothing is computed here.

VBench writes its dimensions in lower case, VBench-2.0 with capitals: `external.scene`, `external.Human_Anatomy`.
"""

from collections.abc import Callable
from functools import partial

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample

STEADINESS = (
    *("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness"),
    *("Human_Identity", "Human_Clothes"),
)
DIMENSIONS = (
    *("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness", "dynamic_degree"),
    *("aesthetic_quality", "imaging_quality", "object_class", "multiple_objects", "human_action", "color"),
    *("spatial_relationship", "scene", "appearance_style", "temporal_style", "overall_consistency"),
)
# Those that VBench-2.0 computes for any prompt, and how each is fooled; vbench2/__init__.py refuses the others.
CUSTOM_DIMENSIONS_2 = {
    "Human_Anatomy": "a clip in which no person is detected has 1",
    "Human_Identity": "a still clip; clips without a face in the first frame are invalid",
    "Human_Clothes": "a still clip; yes-or-no answers of LLaVA-Video; clips without a person are invalid",
    "Diversity": "noise is diverse; it is one number for 20 clips of a prompt, imported as that of the prompt",
    "Multi-View_Consistency": "only a camera that orbits is scored, other clips are invalid",
}
STANDARD_DIMENSIONS_2 = (
    *("Composition", "Dynamic_Spatial_Relationship", "Dynamic_Attribute", "Motion_Order_Understanding"),
    *("Human_Interaction", "Complex_Landscape", "Complex_Plot", "Camera_Motion", "Motion_Rationality"),
    *("Instance_Preservation", "Mechanics", "Thermotics", "Material"),
)
DIMENSIONS_2 = (*CUSTOM_DIMENSIONS_2, *STANDARD_DIMENSIONS_2)
STANDARD_ONLY = "another prompt than its own; answers of the models that it asks"
OF_A_PROMPT = "Diversity"  # of VBench-2.0: one number for all clips of a prompt


def imported_score(description: str) -> Callable[[Sample], Value]:
    """Return the measure of an imported dimension, with a docstring; it can be pickled."""
    measure = partial(refuse_to_measure, description)
    measure.__doc__ = description
    return measure


def refuse_to_measure(description: str, sample: Sample) -> Value:
    """Raise UndefinedError: an imported dimension has no value of a sample."""
    raise UndefinedError("computed by VBench itself: export-vbench, run it, import-vbench")


def describe(dimension: str) -> str:
    """Return the description of a dimension of VBench."""
    return (
        f"Import VBench's {dimension}, as VBench scored the clip.\n\nDirection: higher is better, according to VBench"
        f"{'; a guard here' if dimension == 'dynamic_degree' else ''}. Range: 0 to 1, styles and text consistency from "
        "-1. Unit: as VBench defines it. Fooled by: see the dimension; VBench scored lossy files, and prompts other "
        "than its own unless you used those. Source: VBench (Huang et al., CVPR 2024), run by you."
    )


def describe_2(dimension: str) -> str:
    """Return the description of a dimension of VBench-2.0."""
    return (
        f"Import VBench-2.0's {dimension}, as VBench-2.0 scored the clip.\n\nDirection: higher is better, according to "
        "VBench-2.0. Range: 0 to 1; a clip that it could not judge (-1) has no value. Unit: as VBench-2.0 defines it. "
        f"Fooled by: {CUSTOM_DIMENSIONS_2.get(dimension, STANDARD_ONLY)}; VBench-2.0 scored lossy files. "
        "Source: VBench-2.0 (Zheng et al. 2025, arXiv 2503.21755), run by you."
    )


for name in (*DIMENSIONS, *DIMENSIONS_2):
    suite = "VBench-2.0" if name in DIMENSIONS_2 else "VBench"
    metric(
        id=f"external.{name}",
        version=f"{suite}, as installed there",
        unit=f"as {suite} defines it",
        low=0.0 if name in DIMENSIONS_2 else -1.0,
        high=1.0,
        better="" if name == "dynamic_degree" else "higher",
        guards=STEADINESS_GUARDS if name in STEADINESS else (),
        encoders=("external",),
    )(imported_score(describe_2(name) if name in DIMENSIONS_2 else describe(name)))
