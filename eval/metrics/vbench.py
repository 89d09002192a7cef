"""VBench's dimensions that equal its own functions on the same frames, with weights that the user has.

Nothing else carries its name: imaging_quality and motion_smoothness need networks under non-commercial licences, the
text dimensions need ViCLIP, which no library here loads. VBench itself gives those: see `vbench_exchange`.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.clip_similarity import CONSISTENCY, consistency
from vidguide.eval.metrics.sample import Sample

PER_SECOND = 8  # frames at which VBench looks at motion
MOVING, SHARE = 6.0, 4 / 16  # pixels at a short side of 256, and the share of frames, from which a clip is dynamic
FASTEST = 0.05  # share of the pixels


def encoder(sample: Sample, kind: str, patch: int, width: int, name: str) -> Any:
    """The encoder of a kind; undefined where there is none, or not the one that VBench uses."""
    found = sample.weights_of(kind)
    if found.shape != (patch, width):
        raise UndefinedError(
            f"VBench uses {name}; {found.weights} has patches of {found.shape[0]}, {found.shape[1]} wide"
        )
    return found


def features(sample: Sample, kind: str, patch: int, width: int, name: str) -> Any:
    """Unit features `(F, D)` of the frames, prepared as VBench does."""
    found = encoder(sample, kind, patch, width, name)
    return sample.kept(f"{kind}/vbench", lambda: found.vbench_frames(sample.clip.frames))


@metric(id="vbench.subject_consistency", version="vbench/subject_consistency/1", **CONSISTENCY, encoders=("dino",))
def subject_consistency(sample: Sample) -> Value:
    """VBench's subject_consistency: likeness of each frame to the one before and to the first, by DINO ViT-B/16.

    Direction: higher is better. Range: 0 to 1; a frozen clip has 1. Unit: cosine. Fooled by: stillness, hence guards.
    Positions are interpolated as in DINO's own code. VBench scores its own prompts: a number from others is no
    leaderboard number. Source: VBench (Huang et al., CVPR 2024), subject_consistency.py, per clip.
    """
    return consistency(features(sample, "dino", 16, 768, "DINO ViT-B/16"))


@metric(
    id="vbench.background_consistency", version="vbench/background_consistency/1", **CONSISTENCY, encoders=("clip",)
)
def background_consistency(sample: Sample) -> Value:
    """VBench's background_consistency: likeness of each frame to the one before and to the first, by CLIP ViT-B/32.

    Direction: higher is better. Range: 0 to 1; a frozen clip has 1. Unit: cosine. Fooled by: stillness; it looks at
    whole frames, not at backgrounds. VBench's published numbers are of CLIP in half precision on a GPU. Source:
    VBench, background_consistency.py, per clip.
    """
    return consistency(features(sample, "clip", 32, 512, "CLIP ViT-B/32"))


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
    """VBench's aesthetic_quality: LAION's first linear aesthetic predictor on CLIP ViT-L/14, mean over frames.

    Direction: higher is better. Range: about 0.3 to 0.8, not clamped. Unit: a tenth of a rating of 0 to 10. Fooled by:
    style; a single good frame shown for the whole clip. Source: VBench, aesthetic_quality.py; the head is
    LAION's sa_0_4_vit_l_14_linear, not the "improved" one.
    """
    seen = features(sample, "clip", 14, 768, "CLIP ViT-L/14")
    scores = np.asarray(sample.weights_of("aesthetic").score(seen) / 10)
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
    """VBench's dynamic_degree: whether enough neighbouring frames, at eight a second, move by more than a threshold.

    Direction: none here, a guard; VBench counts more as better. Range: 0 or 1. Unit: share of clips, once averaged.
    Fooled by: noise; a wrong frame rate; clips of two frames at that rate are always dynamic. RAFT's flow is
    torchvision's, which differs from VBench's copy in the fifth digit. Source: VBench, dynamic_degree.py.
    """
    frames = sample.clip.frames[:: max(1, round(sample.clip.fps / PER_SECOND))]
    threshold, needed = MOVING * min(frames.shape[1:3]) / 256, round(SHARE * len(frames))
    scores = pair_speeds(frames, sample.weights_of("raft"))
    moving = sum(score > threshold for score in scores)
    return Value(
        value=float(bool(scores) and moving >= needed), per_frame=list(scores), details={"threshold": threshold}
    )


def pair_speeds(frames: np.ndarray, raft: Any) -> list[float]:
    """Mean length of the longest 5% of flow vectors of each pair of neighbours, pixels."""
    import torch

    height, width = frames.shape[1:3]
    down, right = -height % 8, -width % 8
    edges = (right // 2, right - right // 2, down // 2, down - down // 2)
    scores = []
    for first, second in pairwise(frames):
        pair = [torch.from_numpy(np.ascontiguousarray(one)).permute(2, 0, 1)[None].float() for one in (first, second)]
        flow = raft.flow(*(torch.nn.functional.pad(one, edges, mode="replicate") for one in pair))
        lengths = np.linalg.norm(flow[0].numpy(), axis=0).ravel()
        count = int(lengths.size * FASTEST)
        scores.append(float(np.sort(lengths)[len(lengths) - count :].mean()))
    return scores
