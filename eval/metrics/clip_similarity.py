"""Text alignment and consistency by encoders with weights: asked for by name, never downloaded unasked.

All are image models of the web's pictures but X-CLIP: they see single frames, not motion, and their numbers compare
only within one model, which every result names.
"""

from typing import Any

import numpy as np

from vidguide.eval.encoders.transformers import Features
from vidguide.eval.metrics.base import AVOIDANCE_GUARDS, COSINE, GAP, STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample

HESSEL_WEIGHT, HESSEL_PREFIX = 2.5, "A photo depicts "
BY_CLIP: dict[str, Any] = dict(version="own-processor/mean-over-frames/1", encoders=("clip",))
CONSISTENCY: dict[str, Any] = dict(
    unit="cosine, clamped at 0", low=0.0, high=1.001, better="higher", min_frames=2, guards=STEADINESS_GUARDS
)


def frame_cosines(sample: Sample, text: str) -> tuple[np.ndarray, list[str]]:
    """Cosine of each frame and a text by CLIP, and a remark where the text was cut."""
    features, cut = sample.weights_of("clip").text(text)
    return sample.features("clip") @ features, remarks(cut, "CLIP")


def remarks(cut: int, who: str) -> list[str]:
    """What must be said where a text was longer than its encoder takes."""
    return [f"{who} did not see the last {cut} tokens of the text: score against a short eval_prompt"] if cut else []


@metric(id="clip.frame_cosine", **BY_CLIP, **COSINE, better="higher", needs=("eval_prompt",))
def frame_cosine(sample: Sample) -> Value:
    """Mean over frames of the cosine of CLIP's image and text features, not clamped, not scaled.

    Direction: higher is better. Range: -1 to 1, in practice 0.2 to 0.35. Unit: cosine; papers print it times 100.
    Fooled by: shuffled frames score the same; words out of its training; texts over 77 tokens, of which the rest is not
    seen (reported). Source: Radford et al. 2021; the mean over frames is that of most guidance papers.
    """
    cosines, told = frame_cosines(sample, str(sample.eval_prompt))
    details = {"x100": 100 * float(cosines.mean()), "remarks": told}
    return Value(value=float(cosines.mean()), per_frame=cosines.tolist(), details=details)


@metric(
    id="clip.score_hessel",
    version="hessel2021/w2.5/prefix/1",
    unit="2.5 x cosine, clamped at 0 per frame",
    low=0.0,
    high=2.51,
    better="higher",
    needs=("eval_prompt",),
    encoders=("clip",),
)
def score_hessel(sample: Sample) -> Value:
    """CLIPScore as its paper defines it: 2.5 max(cos, 0) per frame, text prefixed "A photo depicts ", then averaged.

    Direction: higher is better. Range: 0 to 2.5. Unit: 2.5 cosines. Fooled by: as clip.frame_cosine; comparable with
    published numbers for CLIP ViT-B/32 only. Source: Hessel et al., CLIPScore, EMNLP 2021.
    """
    cosines, told = frame_cosines(sample, HESSEL_PREFIX + str(sample.eval_prompt))
    scores = HESSEL_WEIGHT * np.maximum(cosines, 0)
    return Value(value=float(scores.mean()), per_frame=scores.tolist(), details={"remarks": told})


@metric(
    id="clip.negative_cosine",
    **BY_CLIP,
    **COSINE,
    better="lower",
    needs=("negative_prompt",),
    guards=AVOIDANCE_GUARDS,
)
def negative_cosine(sample: Sample) -> Value:
    """Mean over frames of the cosine of CLIP's features of the frame and of the negative_prompt.

    Direction: lower is better; the paired drop against the reference arm is the negative adherence. Range: -1 to 1.
    Unit: cosine. Fooled by: drifting away from everything, hence the guard clip.frame_cosine. Source: own use of CLIP.
    """
    cosines, told = frame_cosines(sample, str(sample.negative_prompt))
    return Value(value=float(cosines.mean()), per_frame=cosines.tolist(), details={"remarks": told})


@metric(
    id="clip.margin",
    **BY_CLIP,
    **GAP,
    better="higher",
    needs=("eval_prompt", "negative_prompt"),
    guards=AVOIDANCE_GUARDS,
)
def margin(sample: Sample) -> Value:
    """How much nearer the frames are to the eval_prompt than to the negative_prompt, by CLIP.

    Direction: higher is better. Range: -2 to 2. Unit: difference of cosines, mean over frames. Fooled by: negatives of
    quality ("blurry"), which CLIP sees badly. Source: own use of CLIP.
    """
    asked, told = frame_cosines(sample, str(sample.eval_prompt))
    avoided, more = frame_cosines(sample, str(sample.negative_prompt))
    gap = asked - avoided
    return Value(value=float(gap.mean()), per_frame=gap.tolist(), details={"remarks": told + more})


@metric(
    id="xclip.similarity",
    version="middle-frames/1",
    **COSINE,
    better="higher",
    needs=("eval_prompt",),
    encoders=("xclip",),
)
def xclip_similarity(sample: Sample) -> Value:
    """Cosine of X-CLIP's features of the clip and of the text, on frames spread evenly over the clip.

    Direction: higher is better. Range: -1 to 1. Unit: cosine. It sees motion. Fooled by: trained on classes of actions,
    it is weak on free prompts; texts over 77 tokens are cut (reported). Source: Ni et al., X-CLIP, ECCV 2022.
    """
    cosine, cut = sample.weights_of("xclip").similarity(sample.clip.frames, str(sample.eval_prompt))
    return Value(value=cosine, details={"remarks": remarks(cut, "X-CLIP")})


def consistency(features: Features) -> Value:
    """Mean over frames of the mean of the clamped cosines with the frame before and with the first."""
    before = np.maximum((features[1:] * features[:-1]).sum(-1), 0)
    first = np.maximum(features[1:] @ features[0], 0)
    scores = (before + first) / 2
    return Value(value=float(scores.mean()), per_frame=scores.tolist())


@metric(id="clip.consistency", version="own-processor/vbench-formula/1", **CONSISTENCY, encoders=("clip",))
def clip_consistency(sample: Sample) -> Value:
    """How alike the frames are to the one before and to the first, by CLIP's image features.

    Direction: higher is better. Range: 0 to 1, in practice above 0.9; a frozen clip has 1. Unit: cosine. Fooled by:
    stillness, hence the guards. Source: the formula of VBench's background_consistency, whose frames are prepared
    otherwise.
    """
    return consistency(sample.features("clip"))


@metric(id="dino.consistency", version="own-processor/vbench-formula/1", **CONSISTENCY, encoders=("dino",))
def dino_consistency(sample: Sample) -> Value:
    """How alike the frames are to the one before and to the first, by DINO's class token.

    Direction: higher is better. Range: 0 to 1, in practice above 0.8; a frozen clip has 1. Unit: cosine. Fooled by:
    stillness, hence the guards. Source: the formula of VBench's subject_consistency, which prepares frames otherwise.
    """
    return consistency(sample.features("dino"))
