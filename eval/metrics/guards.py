"""Guards: what a clip may lose while a consistency metric improves. None of them is better high or low by itself."""

import numpy as np

from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.temporal import check_side, frame_differences, known, per_short_side

STILL = 0.5  # levels of mean absolute difference below which two frames count as the same
VBENCH_SECONDS = 1 / 8  # VBench looks at motion eight times a second


@metric(
    id="guard.motion",
    version="dis-medium/fastest-5%/per-1-8s/1",
    unit="pixels per 1/8 s, at a short side of 256",
    low=0.0,
    high=float("inf"),
    better="",
    min_frames=2,
)
def motion(sample: Sample) -> Value:
    """How much moves: mean length of the longest 5% of flow vectors.

    Direction: none; a loss beside a gain in consistency makes the gain confounded. Range: from 0.
    Unit: pixels per 1/8 second at a short side of 256, VBench's scale: its dynamic_degree calls a pair above 6 moving.
    Fooled by: noise and flicker, which make flow where nothing moves; a wrong frame rate.
    Source: a continuous form of VBench's dynamic_degree, with DIS in place of RAFT: not its score.
    """
    check_side(sample)
    rates = VBENCH_SECONDS / sample.seconds * per_short_side(sample)
    values: list[float | None] = (known(sample.motion.speed, "motion") * rates).tolist()
    return Value(value=float(np.mean(known(values, "motion"))), per_frame=values)


@metric(
    id="guard.sharpness",
    version="laplacian-variance/1",
    unit="luma levels squared",
    low=0.0,
    high=float("inf"),
    better="",
)
def sharpness(sample: Sample) -> Value:
    """Variance of the Laplacian of the grey frame, mean over frames.

    Direction: none. Range: from 0; independent noise of sigma s has 20 s^2. Unit: levels (0..255) squared.
    Fooled by: noise and ringing count as sharpness, so that it cannot tell a denoised clip from a blurred one: verdicts
    rest on guard.detail instead. Source: Pech-Pacheco et al. 2000.
    """
    import cv2

    values = [
        float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()) for frame in sample.clip.frames
    ]
    return Value(value=float(np.mean(values)), per_frame=list(values))


@metric(
    id="guard.detail",
    version="dis-medium/laplacian-covariance/contrast/1",
    unit="per squared pixel, relative to contrast",
    low=float("-inf"),
    high=float("inf"),
    better="",
    min_frames=2,
)
def detail(sample: Sample) -> Value:
    """Sharpness that lasts: covariance of the Laplacians of each frame and the next one warped to it.

    Direction: none; a loss beside a gain in consistency makes the gain confounded. Range: about 0 to 20, which still
    noise has. Unit: energy of the Laplacian relative to that of the grey frame, so that another colour of the
    same object changes nothing. Noise is new in each frame and cancels out; blur does not. Fooled by: only what can be
    tracked is looked at; other content has other detail, so it compares clips of the same prompts. Source: own.
    """
    check_side(sample)
    values = sample.motion.detail
    return Value(value=float(known(values, "detail").mean()), per_frame=values)


@metric(
    id="guard.frozen_share",
    version="mae-below-0.5/1",
    unit="share of pairs",
    low=0.0,
    high=1.0,
    better="",
    min_frames=2,
)
def frozen_share(sample: Sample) -> Value:
    """Share of neighbouring frames that are the same: mean absolute difference below half a level.

    Direction: none; more of them beside a gain in consistency makes the gain confounded. Range: 0 to 1.
    Unit: share of pairs. Fooled by: faint noise over a frozen picture; tiny objects that do move. Source: own.
    """
    frozen = frame_differences(sample) < STILL
    return Value(value=float(frozen.mean()), per_frame=frozen.astype(float).tolist())


@metric(
    id="guard.tracked_share",
    version="dis-medium/fb+oob-mask/1",
    unit="share of pixels",
    low=0.0,
    high=1.0,
    better="",
    min_frames=2,
)
def tracked_share(sample: Sample) -> Value:
    """Share of pixels that optical flow follows forth and back: on how much of the clip warping error rests.

    Direction: none; low where frames do not belong together. Range: 0 to 1. Unit: share of pixels, mean over pairs.
    Fooled by: large plain areas always count as followed. Source: the mask of Lai et al. 2018.
    """
    check_side(sample)
    values = sample.motion.valid
    return Value(value=float(known(values, "tracked share").mean()), per_frame=values)
