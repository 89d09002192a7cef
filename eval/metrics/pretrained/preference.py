"""Human preference models, applied frame by frame.

Both were fine-tuned from CLIP ViT-H/14 on choices between still images: they do not see motion.
"""

from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.pretrained.clip_similarity import truncation_warnings
from vidguide.eval.metrics.sample import Sample


def preference_score(sample: Sample, kind: str, scale: float) -> Value:
    """Return the mean over frames of the scaled cosine of a frame and the eval_prompt; the details have the minimum."""
    features, excess = sample.encoder(kind).text(str(sample.eval_prompt))
    scores = scale * (sample.features(kind) @ features)
    details = {"worst frame": float(scores.min()), "remarks": truncation_warnings(excess, kind)}
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
    """Compute the PickScore of each frame for the eval_prompt, mean over frames.

    Direction: higher is better. Range: in practice 17 to 24. Unit: the model's cosine times its learned scale.
    Fooled by: the taste of its raters; still pictures; texts over 77 tokens are truncated (reported).
    Source: Kirstain et al., Pick-a-Pic, NeurIPS 2023.
    """
    return preference_score(sample, "pickscore", sample.encoder("pickscore").scale)


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
    """Compute the Human Preference Score v2 of each frame for the eval_prompt, mean over frames.

    Direction: higher is better. Range: in practice 20 to 35. Unit: cosine times 100, as in its paper. Versions 2 and
    2.1 have different scales; the report names the weights. Fooled by: as pickscore.score. Source: Wu et al., Human
    Preference Score v2, 2023.
    """
    return preference_score(sample, "hps", 100.0)
