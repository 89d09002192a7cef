"""Text alignment in the synthetic world by the dual encoder that ships: graded where the oracle says yes or no.

A namespace of its own: its numbers compare with no other model's, and the oracle stays the judge. What it adds is a
similarity for clips that are half right or damaged, measured as papers measure it with CLIP.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidguide.eval.metrics.base import AVOIDANCE_GUARDS, COSINE, GAP, Guard, Value, metric
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.world_attributes import avoided, check_world, words

if TYPE_CHECKING:
    from vidguide.eval.world.dual_encoder import TrainedEncoder

FOLDER = Path(__file__).parents[1] / "weights" / "dual"
WEIGHTS = f"dual {hashlib.sha256((FOLDER / 'model.safetensors').read_bytes()).hexdigest()[:16]}"
DUAL: dict[str, Any] = dict(version="dual/8-frames/1", min_frames=2, weights=WEIGHTS)
GUARDS = (
    *AVOIDANCE_GUARDS,
    Guard(id="dual.similarity", change=-0.05, relative=False, words="less of what was asked for"),
)


@cache
def shipped() -> "TrainedEncoder":
    """The encoder that ships, loaded when it is first used."""
    from vidguide.eval.world.dual_encoder import TrainedEncoder

    return TrainedEncoder(FOLDER)


def to_prompt(sample: Sample) -> float:
    """Cosine of the clip and its eval_prompt."""
    check_world(sample)
    return float(sample.dual @ shipped().caption(words(str(sample.eval_prompt))))


def to_negative(sample: Sample) -> list[float]:
    """Cosine of the clip and each word of this world in the negative_prompt."""
    check_world(sample)
    return [float(sample.dual @ shipped().caption([word])) for _, word in avoided(sample.negative_prompt)]


@metric(id="dual.similarity", **DUAL, **COSINE, better="higher", needs=("eval_prompt",))
def similarity(sample: Sample) -> Value:
    """Cosine of the shipped dual encoder's features of the clip and of the eval_prompt.

    Direction: higher is better. Range: -1 to 1; of a caption with all five attributes about 0.36 where all are right,
    and 0.18 less for each that is wrong; of a single word about 0.5 where it is so and 0 where not. Unit: cosine.
    Fooled by: it was trained on renders, so what a renderer cannot draw may score anything. Source: own; two towers as
    in CLIP (Radford et al. 2021), sigmoid loss as in SigLIP (Zhai et al. 2023); see eval/weights/dual/README.md.
    """
    cosine = to_prompt(sample)
    return Value(value=cosine, details={"probability": shipped().probability(cosine)})


@metric(
    id="dual.negative_similarity",
    **DUAL,
    **COSINE,
    better="lower",
    needs=("eval_prompt", "negative_prompt"),
    guards=GUARDS,
)
def negative_similarity(sample: Sample) -> Value:
    """Mean cosine of the clip and each word of the negative_prompt that this world has.

    Direction: lower is better; the paired drop against the reference arm is the negative adherence. Range: -1 to 1, in
    practice about 0.5 where the word is so and 0 where not. Unit: cosine. Fooled by: a destroyed picture is near to
    nothing, hence the guards. Source: own, as dual.similarity.
    """
    cosines = to_negative(sample)
    return Value(value=sum(cosines) / len(cosines), details={"words": dict(enumerate(cosines))})


@metric(
    id="dual.margin",
    **DUAL,
    **GAP,
    better="higher",
    needs=("eval_prompt", "negative_prompt"),
    guards=GUARDS[:1],
)
def margin(sample: Sample) -> Value:
    """How much nearer the clip is to its eval_prompt than to the negative_prompt, by the shipped dual encoder.

    Direction: higher is better. Range: -2 to 2. Unit: difference of cosines. Fooled by: short prompts lie nearer than
    long ones, so it compares clips of the same texts. Source: own, as dual.similarity.
    """
    cosines = to_negative(sample)
    return Value(value=to_prompt(sample) - sum(cosines) / len(cosines))
