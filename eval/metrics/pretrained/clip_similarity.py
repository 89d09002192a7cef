"""Text alignment and consistency by pretrained encoders, computed only if their weights are given.

All but X-CLIP are image models: they see single frames, not motion. Values are comparable only within one model, which
every result names.
"""

from typing import Any

import numpy as np

from vidguide.eval.encoders.transformers import Features
from vidguide.eval.metrics.base import AVOIDANCE_GUARDS, COSINE, COSINE_DIFFERENCE, STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample

HESSEL_WEIGHT, HESSEL_PREFIX = 2.5, "A photo depicts "
BY_CLIP: dict[str, Any] = dict(version="own-processor/mean-over-frames/1", encoders=("clip",))
CONSISTENCY: dict[str, Any] = dict(
    unit="cosine, clamped at 0", low=0.0, high=1.001, better="higher", min_frames=2, guards=STEADINESS_GUARDS
)


def frame_cosines(sample: Sample, text: str) -> tuple[np.ndarray, list[str]]:
    """Return the cosine `(F,)` of each frame and a text by CLIP, and a warning if the text was truncated."""
    features, excess = sample.encoder("clip").text(text)
    return sample.features("clip") @ features, truncation_warnings(excess, "CLIP")


def truncation_warnings(excess: int, model: str) -> list[str]:
    """Return a warning if a text exceeded its encoder's limit by `excess` tokens; else an empty list."""
    if not excess:
        return []
    return [f"{model} did not see the last {excess} tokens of the text: score against a short eval_prompt"]


@metric(id="clip.frame_cosine", **BY_CLIP, **COSINE, better="higher", needs=("eval_prompt",))
def frame_cosine(sample: Sample) -> Value:
    """Measure the mean over frames of the cosine of CLIP's image and text features, neither clamped nor scaled.

    Direction: higher is better. Range: -1 to 1, in practice 0.2 to 0.35. Unit: cosine; papers print it times 100.
    Fooled by: shuffled frames score the same; words outside its training data; tokens beyond the 77th are not seen
    (reported). Source: Radford et al. 2021; most guidance papers average over frames.
    """
    cosines, warnings = frame_cosines(sample, str(sample.eval_prompt))
    details = {"x100": 100 * float(cosines.mean()), "remarks": warnings}
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
    """Compute CLIPScore as in its paper: 2.5 max(cos, 0) per frame, text prefixed "A photo depicts ", then averaged.

    Direction: higher is better. Range: 0 to 2.5. Unit: 2.5 cosines. Fooled by: as clip.frame_cosine; comparable with
    published numbers for CLIP ViT-B/32 only. Source: Hessel et al., CLIPScore, EMNLP 2021.
    """
    cosines, warnings = frame_cosines(sample, HESSEL_PREFIX + str(sample.eval_prompt))
    scores = HESSEL_WEIGHT * np.maximum(cosines, 0)
    return Value(value=float(scores.mean()), per_frame=scores.tolist(), details={"remarks": warnings})


@metric(
    id="clip.negative_cosine",
    **BY_CLIP,
    **COSINE,
    better="lower",
    needs=("negative_prompt",),
    guards=AVOIDANCE_GUARDS,
)
def negative_cosine(sample: Sample) -> Value:
    """Measure the mean over frames of the cosine of CLIP's features of the frame and of the negative_prompt.

    Direction: lower is better; the paired decrease from the reference arm is the negative adherence. Range: -1 to 1.
    Unit: cosine. Fooled by: a clip that resembles no text at all, hence the guard clip.frame_cosine.
    Source: Radford et al. 2021; the use for negative prompts is specific to vidguide.
    """
    cosines, warnings = frame_cosines(sample, str(sample.negative_prompt))
    return Value(value=float(cosines.mean()), per_frame=cosines.tolist(), details={"remarks": warnings})


@metric(
    id="clip.margin",
    **BY_CLIP,
    **COSINE_DIFFERENCE,
    better="higher",
    needs=("eval_prompt", "negative_prompt"),
    guards=AVOIDANCE_GUARDS,
)
def margin(sample: Sample) -> Value:
    """Measure how much closer the frames are to the eval_prompt than to the negative_prompt, by CLIP.

    Direction: higher is better. Range: -2 to 2. Unit: difference of cosines, mean over frames. Fooled by: negatives
    about quality ("blurry"), to which CLIP is not sensitive. Source: Radford et al. 2021; the use for negative prompts
    is specific to vidguide.
    """
    prompt_cosines, prompt_warnings = frame_cosines(sample, str(sample.eval_prompt))
    negative_cosines, negative_warnings = frame_cosines(sample, str(sample.negative_prompt))
    margins = prompt_cosines - negative_cosines
    details = {"remarks": prompt_warnings + negative_warnings}
    return Value(value=float(margins.mean()), per_frame=margins.tolist(), details=details)


@metric(
    id="xclip.similarity",
    version="middle-frames/1",
    **COSINE,
    better="higher",
    needs=("eval_prompt",),
    encoders=("xclip",),
)
def xclip_similarity(sample: Sample) -> Value:
    """Measure the cosine of X-CLIP's features of the clip and of the text, on frames spread evenly over the clip.

    Direction: higher is better. Range: -1 to 1. Unit: cosine. It sees motion. Fooled by: free prompts, as it was
    trained on action classes; texts over 77 tokens are truncated (reported). Source: Ni et al., X-CLIP, ECCV 2022.
    """
    cosine, excess = sample.encoder("xclip").similarity(sample.clip.frames, str(sample.eval_prompt))
    return Value(value=cosine, details={"remarks": truncation_warnings(excess, "X-CLIP")})


def consistency(features: Features) -> Value:
    """Return the mean over frames of the mean of two clamped cosines: with the previous and with the first frame."""
    previous = np.maximum((features[1:] * features[:-1]).sum(-1), 0)
    first = np.maximum(features[1:] @ features[0], 0)
    scores = (previous + first) / 2
    return Value(value=float(scores.mean()), per_frame=scores.tolist())


@metric(id="clip.consistency", version="own-processor/vbench-formula/1", **CONSISTENCY, encoders=("clip",))
def clip_consistency(sample: Sample) -> Value:
    """Measure the similarity of each frame to the previous and to the first one, by CLIP's image features.

    Direction: higher is better. Range: 0 to 1, in practice above 0.9; a frozen clip has 1. Unit: cosine. Fooled by:
    stillness, hence the guards. Source: the formula of VBench's background_consistency, with the preprocessing of
    CLIP's own processor.
    """
    return consistency(sample.features("clip"))


@metric(id="dino.consistency", version="own-processor/vbench-formula/1", **CONSISTENCY, encoders=("dino",))
def dino_consistency(sample: Sample) -> Value:
    """Measure the similarity of each frame to the previous and to the first one, by DINO's class token.

    Direction: higher is better. Range: 0 to 1, in practice above 0.8; a frozen clip has 1. Unit: cosine. Fooled by:
    stillness, hence the guards. Source: the formula of VBench's subject_consistency, with the preprocessing of DINO's
    own processor.
    """
    return consistency(sample.features("dino"))
