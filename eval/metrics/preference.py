"""Preference models with weights that the user has: what people liked in pictures, frame by frame.

Both were tuned from CLIP ViT-H/14 on choices between still pictures: they know nothing of motion.
"""

from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.clip_similarity import remarks
from vidguide.eval.metrics.sample import Sample


def preferred(sample: Sample, kind: str, scale: float) -> Value:
    """Mean over frames of the scaled cosine of a frame and the eval_prompt; the worst frame in the details."""
    features, cut = sample.weights_of(kind).text(str(sample.eval_prompt))
    scores = scale * (sample.features(kind) @ features)
    details = {"worst frame": float(scores.min()), "remarks": remarks(cut, kind)}
    return Value(value=float(scores.mean()), per_frame=scores.tolist(), details=details)


@metric(
    id="pickscore.score",
    version="logit-scale/mean-over-frames/1",
    unit="scaled cosine",
    low=-101.0,
    high=101.0,
    better="higher",
    needs=("eval_prompt",),
    encoders=("pickscore",),
)
def pickscore(sample: Sample) -> Value:
    """PickScore of each frame for the eval_prompt, mean over frames.

    Direction: higher is better. Range: in practice 17 to 24. Unit: the model's cosine times its learned scale.
    Fooled by: the taste of those who chose; still pictures; texts over 77 tokens are cut (reported). Source: Kirstain
    et al., Pick-a-Pic, NeurIPS 2023.
    """
    return preferred(sample, "pickscore", sample.weights_of("pickscore").scale)


@metric(
    id="hps.score",
    version="cosine-x100/mean-over-frames/1",
    unit="cosine x 100",
    low=-101.0,
    high=101.0,
    better="higher",
    needs=("eval_prompt",),
    encoders=("hps",),
)
def hps(sample: Sample) -> Value:
    """Human Preference Score v2 of each frame for the eval_prompt, mean over frames.

    Direction: higher is better. Range: in practice 20 to 35. Unit: cosine times 100, as its paper prints it. Versions
    2 and 2.1 have other scales: the report names the weights. Fooled by: as pickscore.score. Source: Wu et al., Human
    Preference Score v2, 2023.
    """
    return preferred(sample, "hps", 100.0)
