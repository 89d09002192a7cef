"""VBench's dimensions that equal its own functions on the same frames, given the same weights.

No other metric is named `vbench.`: imaging_quality and motion_smoothness need networks with non-commercial licences,
and the text dimensions need ViCLIP, which no library here loads. For those, run VBench itself: see `vbench_exchange`.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.encoders.transformers import Features
from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.pretrained.clip_similarity import CONSISTENCY, consistency
from vidguide.eval.metrics.sample import Sample

FRAMES_PER_SECOND = 8  # at which VBench measures motion
MIN_SPEED = 6.0  # pixels at a short side of 256 above which a pair of frames moves
MIN_MOVING_SHARE = 4 / 16  # share of the frames from which a clip is dynamic
FASTEST = 0.05  # share of the pixels


def vbench_features(sample: Sample, kind: str, patch: int, width: int, name: str) -> Features:
    """Return unit features `(F, D)` of the frames, preprocessed as in VBench.

    Args:
        sample: with an encoder of the kind.
        kind: of encoder.
        patch, width: patch size in pixels and feature width of the model that VBench uses.
        name: of that model, for the error message.

    Raises:
        UndefinedError: there is no such encoder, or it is another model.
    """
    encoder = sample.encoder(kind)
    if encoder.shape != (patch, width):
        actual = f"patches of {encoder.shape[0]} pixels and {encoder.shape[1]} features"
        raise UndefinedError(f"VBench uses {name}; {encoder.weights} has {actual}")
    return sample.cached_features(f"{kind}/vbench", lambda: encoder.vbench_frames(sample.clip.frames))


@metric(id="vbench.subject_consistency", version="vbench/subject_consistency/1", **CONSISTENCY, encoders=("dino",))
def subject_consistency(sample: Sample) -> Value:
    """Compute VBench's subject_consistency: similarity of each frame to the previous and the first, by DINO ViT-B/16.

    Direction: higher is better. Range: 0 to 1; a frozen clip has 1. Unit: cosine. Fooled by: stillness, hence guards.
    Positions are interpolated as in DINO's own code. Values for other prompts than VBench's are not comparable with its
    leaderboard. Source: VBench (Huang et al., CVPR 2024), subject_consistency.py, per clip.
    """
    return consistency(vbench_features(sample, "dino", 16, 768, "DINO ViT-B/16"))


@metric(
    id="vbench.background_consistency", version="vbench/background_consistency/1", **CONSISTENCY, encoders=("clip",)
)
def background_consistency(sample: Sample) -> Value:
    """Compute VBench's background_consistency: similarity of frames to the previous and the first, by CLIP ViT-B/32.

    Direction: higher is better. Range: 0 to 1; a frozen clip has 1. Unit: cosine. Fooled by: stillness; it compares
    whole frames, not backgrounds. VBench's published values used CLIP in half precision on a GPU. Source: VBench,
    background_consistency.py, per clip.
    """
    return consistency(vbench_features(sample, "clip", 32, 512, "CLIP ViT-B/32"))


@metric(
    id="vbench.aesthetic_quality",
    version="vbench/aesthetic_quality/1",
    unit="tenths of LAION's score of 0 to 10",
    low=-1.0,
    high=2.0,
    better="higher",
    encoders=("clip", "aesthetic"),
)
def aesthetic_quality(sample: Sample) -> Value:
    """Compute VBench's aesthetic_quality: LAION's first linear aesthetic predictor on CLIP ViT-L/14, mean over frames.

    Direction: higher is better. Range: about 0.3 to 0.8, not clamped. Unit: a tenth of a rating of 0 to 10. Fooled by:
    style; a single good frame shown for the whole clip. Source: VBench, aesthetic_quality.py; the predictor is LAION's
    sa_0_4_vit_l_14_linear, not the "improved" one.
    """
    features = vbench_features(sample, "clip", 14, 768, "CLIP ViT-L/14")
    scores = np.asarray(sample.encoder("aesthetic").score(features) / 10)
    return Value(value=float(scores.mean()), per_frame=scores.tolist())


@metric(
    id="vbench.dynamic_degree",
    version="vbench/dynamic_degree/1",
    unit="0 or 1",
    low=0.0,
    high=1.0,
    better="",
    min_frames=2,
    encoders=("raft",),
)
def dynamic_degree(sample: Sample) -> Value:
    """Compute VBench's dynamic_degree: whether enough pairs of frames, at eight per second, move by a threshold.

    Direction: none, a guard; VBench counts more as better. Range: 0 or 1. Unit: share of clips, once averaged.
    Fooled by: noise; a wrong frame rate; clips of two frames at that rate are always dynamic. RAFT's flow is
    torchvision's, which differs from VBench's copy in the fifth digit. Source: VBench, dynamic_degree.py.
    """
    frames = sample.clip.frames[:: max(1, round(sample.clip.fps / FRAMES_PER_SECOND))]
    threshold, min_moving = MIN_SPEED * min(frames.shape[1:3]) / 256, round(MIN_MOVING_SHARE * len(frames))
    speeds = pair_speeds(frames, sample.encoder("raft"))
    dynamic = bool(speeds) and sum(speed > threshold for speed in speeds) >= min_moving
    return Value(value=float(dynamic), per_frame=list(speeds), details={"threshold": threshold})


def pair_speeds(frames: np.ndarray, raft: Any) -> list[float]:
    """Return the mean length of the longest 5% of flow vectors of each pair of neighbouring frames, in pixels."""
    padded = (pad_to_multiple(frame, 8) for frame in frames)
    return [mean_of_largest(raft.flow(first, second)[0].numpy()) for first, second in pairwise(padded)]


def pad_to_multiple(frame: np.ndarray, multiple: int) -> Any:
    """Return a frame as `(1, 3, H, W)` float, edges replicated so that H and W are multiples."""
    import torch

    extra_rows, extra_columns = (-side % multiple for side in frame.shape[:2])
    left, top = extra_columns // 2, extra_rows // 2
    image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    padding = (left, extra_columns - left, top, extra_rows - top)
    return torch.nn.functional.pad(image, padding, mode="replicate")


def mean_of_largest(flow: np.ndarray) -> float:
    """Return the mean length of the longest 5% of the vectors `(2, H, W)`."""
    lengths = np.linalg.norm(flow, axis=0).ravel()
    count = int(lengths.size * FASTEST)
    return float(np.sort(lengths)[len(lengths) - count :].mean())
