"""Text alignment as the answer of a vision-language model to a question about single frames."""

import numpy as np

from vidguide.eval.encoders.transformers import segment_centres
from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.sample import Sample

FRAMES = 8  # at the centres of equal segments of the clip


@metric(
    id="vqa.score",
    version="question-of-lin2024/first-token/8-frames/1",
    unit="probability",
    low=0.0,
    high=1.001,
    better="higher",
    needs=("eval_prompt",),
    encoders=("vqa",),
)
def vqa_score(sample: Sample) -> Value:
    """Measure the probability of "Yes" to 'Does this figure show "eval_prompt"? Please answer yes or no.'

    Direction: higher is better. Range: 0 to 1. Unit: probability of the first token of the answer, mean over at most 8
    frames. Fooled by: shuffled frames score the same, as it sees single frames; models that tend to agree; a text
    written in the picture; a frame outside the model's training data. Comparable only within one model: the models of
    the paper (CLIP-FlanT5) need its code. Source: VQAScore (Lin et al., ECCV 2024, arXiv 2404.01291); mean over frames
    as in GenAI-Bench (Li et al. 2024, arXiv 2406.13743).
    """
    model, text = sample.encoder("vqa"), str(sample.eval_prompt)
    chosen = dict.fromkeys(segment_centres(len(sample.clip.frames), FRAMES).tolist())
    scores = [model.probability(sample.clip.frames[frame], text) for frame in chosen]
    return Value(value=float(np.mean(scores)), per_frame=list(scores), details={"frames": list(chosen)})
