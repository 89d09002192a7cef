"""Guard metrics: what a clip may lose while a consistency metric improves. None has a better direction by itself."""

from typing import Any

import numpy as np

from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.optical_flow import FLOW
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.temporal import check_frame_size, defined_values, length_scale

STILL = 0.5  # mean absolute difference in levels below which two frames count as identical
VBENCH_INTERVAL = 1 / 8  # seconds between the frames in which VBench measures motion


def mean_over_frames(values: np.ndarray) -> Value:
    """Return the mean of one number per frame."""
    return Value(value=float(values.mean()), per_frame=values.tolist())


@metric(
    id="guard.motion",
    version=f"{FLOW}/fastest-5%/per-1-8s/2",
    unit="pixels per 1/8 s, at a short side of 256",
    low=0.0,
    high=float("inf"),
    better="",
    min_frames=2,
)
def motion(sample: Sample) -> Value:
    """Measure how much moves: the mean length of the longest 5% of flow vectors.

    Direction: none; an improvement of consistency with less motion is confounded. Range: from 0.
    Unit: pixels per 1/8 second at a short side of 256, VBench's scale: its dynamic_degree counts a pair above 6 as
    moving. Fooled by: noise and flicker, which cause flow where nothing moves; a wrong frame rate.
    Source: a continuous form of VBench's dynamic_degree, with DIS in place of RAFT; not VBench's score.
    """
    check_frame_size(sample)
    rates = VBENCH_INTERVAL / sample.frame_intervals * length_scale(sample)
    values = np.array(sample.flow.speed) * rates
    return Value(value=float(values.mean()), per_frame=values.tolist())


@metric(
    id="guard.sharpness",
    version="laplacian-variance/1",
    unit="luma levels squared",
    low=0.0,
    high=float("inf"),
    better="",
)
def sharpness(sample: Sample) -> Value:
    """Measure the variance of the Laplacian of the grey frame, mean over frames.

    Direction: none. Range: from 0; independent noise of sigma s has 20 s^2. Unit: levels (0..255) squared.
    Fooled by: noise and ringing count as sharpness, so that it does not distinguish denoising from blurring; verdicts
    use guard.detail instead. Source: Pech-Pacheco et al. 2000.
    """
    import cv2

    greys = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in sample.clip.frames)
    deviations = [cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1].item() for grey in greys]
    return mean_over_frames(np.square(deviations))


@metric(
    id="guard.detail",
    version=f"{FLOW}/laplacian-covariance/contrast/2",
    unit="per squared pixel, relative to contrast",
    low=float("-inf"),
    high=float("inf"),
    better="",
    min_frames=2,
)
def detail(sample: Sample) -> Value:
    """Measure lasting sharpness: the covariance of the Laplacians of each frame and the next one warped to it.

    Direction: none; an improvement of consistency with less detail is confounded. Range: about 0 to 20 (still noise).
    Unit: energy of the Laplacian relative to that of the grey frame, so that a change of colour or contrast has no
    effect. Noise is independent between frames and cancels; blur does not. Fooled by: only tracked pixels count; detail
    depends on content, so compare clips of the same prompts. Source: specific to vidguide.
    """
    check_frame_size(sample)
    values = sample.flow.detail
    return Value(value=float(defined_values(values, "detail").mean()), per_frame=values)


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
    """Measure the share of neighbouring frames that are identical: mean absolute difference below half a level.

    Direction: none; an improvement of consistency with more frozen frames is confounded. Range: 0 to 1.
    Unit: share of pairs. Fooled by: faint noise over a frozen picture; tiny objects that do move.
    Source: specific to vidguide.
    """
    frozen = sample.frame_differences < STILL
    return Value(value=float(frozen.mean()), per_frame=frozen.astype(float).tolist())


@metric(
    id="guard.tracked_share",
    version=f"{FLOW}/fb+oob-mask/2",
    unit="share of pixels",
    low=0.0,
    high=1.0,
    better="",
    min_frames=2,
)
def tracked_share(sample: Sample) -> Value:
    """Measure the share of pixels that optical flow tracks forward and backward: the basis of the warping error.

    Direction: none; low for unrelated frames. Range: 0 to 1. Unit: share of pixels, mean over pairs.
    Fooled by: large uniform areas always count as tracked. Source: the mask of Lai et al. 2018.
    """
    check_frame_size(sample)
    values = sample.flow.tracked
    return Value(value=float(np.mean(values)), per_frame=list(values))


COLOUR: dict[str, Any] = dict(version="bt709/1", unit="levels (0..255)", low=0.0, high=255.0, better="")


@metric(id="guard.luma", **COLOUR)
def luma(sample: Sample) -> Value:
    """Measure the brightness: the mean BT.709 luma.

    Direction: none; an improvement of consistency with another brightness is confounded. Range: 0 to 255.
    Unit: levels, mean over frames. Fooled by: a region that darkens while another one brightens. Source: BT.709.
    """
    return mean_over_frames(sample.colours.luma)


@metric(id="guard.contrast", **COLOUR)
def contrast(sample: Sample) -> Value:
    """Measure the contrast: the standard deviation of the luma over the pixels of a frame.

    Direction: none; an improvement of consistency with another contrast is confounded. Range: 0 to 127.5.
    Unit: levels, mean over frames. Fooled by: contrast of a region that makes up for another one's.
    Source: root mean square contrast (Peli 1990).
    """
    return mean_over_frames(sample.colours.contrast)


@metric(id="guard.saturation", **COLOUR)
def saturation(sample: Sample) -> Value:
    """Measure the saturation: the root mean square difference of the colours from their luma.

    Direction: none; an improvement of consistency with another saturation is confounded. Range: 0 to 255; a grey clip
    has 0. Unit: levels, over pixels and channels, mean over frames. Fooled by: another hue of equal saturation.
    Source: BT.709; this form is specific to vidguide.
    """
    return mean_over_frames(sample.colours.saturation)
