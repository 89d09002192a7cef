"""Optical flow between neighbouring frames, reduced to numbers per pair; two frames are in memory at a time.

Dense inverse search (OpenCV's DIS) on grey frames: deterministic within one OpenCV version, about 6 milliseconds per
pair and direction at 256x256. The settings are those of the preset MEDIUM, with 12 gradient steps and 3 variational
refinements instead of 25 and 5. Values differ in the third digit between OpenCV versions, so results state the version.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 16  # pixels; DIS fails on much smaller frames
MIN_TRACKED = 0.01  # least share of tracked pixels for the statistics of a pair to be defined
FASTEST = 0.05  # share of pixels that measures motion, as in VBench's dynamic_degree
MIN_CONTRAST = 1.0  # grey levels squared; sharpness is undefined for a frame of less variance
GRADIENT_STEPS, REFINEMENTS = 12, 3
FLOW = "dis-medium-12-3"  # part of the versions of metrics that use the flow

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FlowStatistics:
    """Numbers per frame for `variance`, else per pair of neighbouring frames (t, t+1), or per triple for `jerk`.

    Attributes:
        variance: variance over the pixels of a frame, mean over channels, levels squared.
        error: mean squared difference of frame t and frame t+1 warped to it, over tracked pixels and channels, levels
            squared; None where too little is tracked.
        tracked: share of tracked pixels.
        lost: share of pixels whose target is inside the frame but which are not tracked.
        lost_error: the same error as `error` over lost pixels; 0 if there are none.
        speed: mean length of the longest 5% of flow vectors, pixels per frame.
        jerk: mean change of the flow along its own path, over the fastest 5% of pixels tracked through both pairs,
            pixels per frame squared; None where too little is tracked.
        detail: covariance of the Laplacians of frame t and of frame t+1 warped to it, divided by the covariance of
            the frames themselves, over tracked pixels; None for a frame without contrast.
    """

    variance: list[float] = field(default_factory=list)
    error: list[float | None] = field(default_factory=list)
    tracked: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    lost_error: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    jerk: list[float | None] = field(default_factory=list)
    detail: list[float | None] = field(default_factory=list)


def flow_statistics(frames: NDArray[np.uint8]) -> FlowStatistics:
    """Compute the flow statistics of a clip `(F, H, W, 3)` in one pass."""
    estimator, result = flow_estimator(), FlowStatistics()
    previous: tuple[Array, Mask] | None = None
    result.variance.extend(spatial_variance(frame) for frame in frames)
    second = grey_levels(frames[0])
    for index in range(len(frames) - 1):
        first, second = second, grey_levels(frames[index + 1])
        flow, backward = estimator.calc(first, second, None), estimator.calc(second, first, None)
        tracked, inside = tracked_pixels(flow, backward)
        share = float(tracked.mean())
        result.tracked.append(share)
        result.lost.append(float(inside.mean()) - share)
        result.speed.append(mean_of_largest(np.linalg.norm(flow, axis=-1)))
        warped = sample_at(frames[index + 1].astype(np.float32), target_positions(flow))
        squared = squared_difference(frames[index], warped)
        result.error.append(mean_over(squared, tracked) if share >= MIN_TRACKED else None)
        result.lost_error.append(mean_over(squared, inside & ~tracked))
        result.detail.append(lasting_detail(first, second, flow, tracked))
        if previous is not None:
            result.jerk.append(flow_change(*previous, flow, tracked))
        previous = (flow, tracked)
    return result


def flow_estimator() -> Any:
    """Return the estimator of optical flow; `calc(first, second, None)` returns the flow `(H, W, 2)`."""
    import cv2

    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator.setGradientDescentIterations(GRADIENT_STEPS)
    estimator.setVariationalRefinementIterations(REFINEMENTS)
    return estimator


def grey_levels(frame: NDArray[np.uint8]) -> Any:
    """Return the grey frame `(H, W)` uint8."""
    import cv2

    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def spatial_variance(frame: NDArray[np.uint8]) -> float:
    """Return the variance over the pixels of a frame, mean over channels."""
    import cv2

    _, deviation = cv2.meanStdDev(frame)
    return float((deviation**2).mean())


def target_positions(flow: Array) -> Array:
    """Return the position `(H, W, 2)` (x, y) to which each pixel moves."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y], axis=-1) + flow


def sample_at(image: Any, positions: Array) -> Any:
    """Sample an image bilinearly at positions `(H, W, 2)`; at target positions this warps frame t+1 to frame t."""
    import cv2

    return cv2.remap(image, positions[..., 0], positions[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def tracked_pixels(forward: Array, backward: Array) -> tuple[Mask, Mask]:
    """Return the mask `(H, W)` of pixels whose forward and backward flow cancel, and that of targets in the frame.

    The second mask contains the first. Source: Lai et al. 2018, after Sundaram et al. 2010:
    |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5.
    """
    height, width = forward.shape[:2]
    positions = target_positions(forward)
    inside = (positions >= 0).all(-1) & (positions[..., 0] <= width - 1) & (positions[..., 1] <= height - 1)
    back = sample_at(backward, positions)
    residual = ((forward + back) ** 2).sum(-1)
    tolerance = 0.01 * ((forward**2).sum(-1) + (back**2).sum(-1)) + 0.5
    return inside & (residual <= tolerance), inside


def squared_difference(first: NDArray[np.uint8], second: Array) -> Array:
    """Return the squared difference of two frames, mean over channels, `(H, W)`."""
    difference = first - second
    return np.einsum("hwc,hwc->hw", difference, difference) / difference.shape[-1]


def mean_over(values: Array, mask: Mask) -> float:
    """Return the mean over the pixels of a mask, 0 for an empty one."""
    return float(values[mask].mean(dtype=np.float64)) if mask.any() else 0.0


def lasting_detail(first: NDArray[np.uint8], second: NDArray[np.uint8], flow: Array, tracked: Mask) -> float | None:
    """Return the covariance of the Laplacians of two grey frames along the flow, divided by that of the frames.

    Noise is independent between frames and cancels in both; the division removes the contrast.
    """
    import cv2

    positions, mean = target_positions(flow), float(first.mean())
    greys = [grey.astype(np.float32) - mean for grey in (first, second)]
    contrast = covariance(greys[0], sample_at(greys[1], positions), tracked)
    if contrast < MIN_CONTRAST:
        return None
    laplacians: list[Any] = [cv2.Laplacian(grey, cv2.CV_32F) for grey in greys]
    return covariance(laplacians[0], sample_at(laplacians[1], positions), tracked) / contrast


def covariance(first: Array, second: Array, tracked: Mask) -> float:
    """Return the mean product over all pixels; untracked pixels count as 0."""
    return float(np.where(tracked, first * second, 0).mean(dtype=np.float64))


def mean_of_largest(lengths: Array) -> float:
    """Return the mean of the largest 5%."""
    count = max(round(FASTEST * lengths.size), 1)
    return float(np.partition(lengths.ravel(), -count)[-count:].mean(dtype=np.float64))


def flow_change(first: Array, first_tracked: Mask, second: Array, second_tracked: Mask) -> float | None:
    """Return the mean change of the flow along its path in pixels per frame^2, over the fastest 5% of pixels.

    Only pixels tracked through both pairs count; None if there are too few.
    """
    positions = target_positions(first)
    later = sample_at(second, positions)
    tracked = first_tracked & (sample_at(second_tracked.astype(np.float32), positions) > 0.99)
    if tracked.mean() < MIN_TRACKED:
        return None
    speed = np.maximum(np.linalg.norm(first, axis=-1), np.linalg.norm(later, axis=-1))[tracked]
    change = np.linalg.norm(later - first, axis=-1)[tracked]
    count = max(round(FASTEST * speed.size), 1)
    return float(change[np.argpartition(speed, -count)[-count:]].mean(dtype=np.float64))
