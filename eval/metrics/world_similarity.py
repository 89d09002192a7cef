"""Text alignment in the synthetic world by the shipped dual encoder: graded, where the oracle answers yes or no.

The metrics have a namespace of their own: their values are not comparable with another model's. They add a similarity
for clips that match in part or are damaged, computed as papers compute it with CLIP.
"""

from typing import Any

from vidguide.eval.metrics.base import AVOIDANCE_GUARDS, COSINE, COSINE_DIFFERENCE, Guard, Value, metric
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.world_attributes import check_world, negative_attributes, split_words
from vidguide.eval.world.shipped_encoder import WEIGHTS, shipped_encoder

DUAL: dict[str, Any] = dict(version="dual/8-frames/1", min_frames=2, weights=WEIGHTS)
GUARDS = (
    *AVOIDANCE_GUARDS,
    Guard(id="dual.similarity", change=-0.05, relative=False, violation="less of what was asked for"),
)


def prompt_cosine(sample: Sample) -> float:
    """Return the cosine of the clip and its eval_prompt."""
    check_world(sample)
    return float(sample.dual_features @ shipped_encoder().caption(split_words(str(sample.eval_prompt))))


def word_cosines(sample: Sample) -> list[float]:
    """Return the cosine of the clip and each word of the world in the negative_prompt."""
    check_world(sample)
    words = [word for _, word in negative_attributes(sample.negative_prompt)]
    return [float(sample.dual_features @ shipped_encoder().caption([word])) for word in words]


@metric(id="dual.similarity", **DUAL, **COSINE, better="higher", needs=("eval_prompt",))
def similarity(sample: Sample) -> Value:
    """Measure the cosine of the shipped dual encoder's features of the clip and of the eval_prompt.

    Direction: higher is better. Range: -1 to 1; for a caption with all five attributes about 0.36 if all are right,
    and 0.18 less for each wrong one; for a single word about 0.5 if it is true and 0 if not. Unit: cosine.
    Fooled by: it was trained on renders, so anything that the renderer cannot draw may get any score. Source: specific
    to vidguide; two encoders as in CLIP (Radford et al. 2021), sigmoid loss as in SigLIP (Zhai et al. 2023); see
    eval/weights/dual/README.md. The details hold the features of the clip, for the distance between sets.
    """
    cosine = prompt_cosine(sample)
    features = [round(float(feature), 6) for feature in sample.dual_features]
    return Value(value=cosine, details={"probability": shipped_encoder().probability(cosine), "features": features})


@metric(
    id="dual.negative_similarity",
    **DUAL,
    **COSINE,
    better="lower",
    needs=("eval_prompt", "negative_prompt"),
    guards=GUARDS,
)
def negative_similarity(sample: Sample) -> Value:
    """Measure the mean cosine of the clip and each word of the world in the negative_prompt.

    Direction: lower is better; the paired decrease from the reference arm is the negative adherence. Range: -1 to 1, in
    practice about 0.5 if the word is true and 0 if not. Unit: cosine. Fooled by: a destroyed picture is similar to
    nothing, hence the guards. Source: as dual.similarity.
    """
    cosines = word_cosines(sample)
    return Value(value=sum(cosines) / len(cosines), details={"words": dict(enumerate(cosines))})


@metric(
    id="dual.margin",
    **DUAL,
    **COSINE_DIFFERENCE,
    better="higher",
    needs=("eval_prompt", "negative_prompt"),
    guards=GUARDS[:2],
)
def margin(sample: Sample) -> Value:
    """Measure how much closer the clip is to its eval_prompt than to the negative_prompt, by the dual encoder.

    Direction: higher is better. Range: -2 to 2. Unit: difference of cosines. Fooled by: short prompts have higher
    cosines than long ones, so compare clips of the same texts. Source: as dual.similarity.
    """
    cosines = word_cosines(sample)
    return Value(value=prompt_cosine(sample) - sum(cosines) / len(cosines))
