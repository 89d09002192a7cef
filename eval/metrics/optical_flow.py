"""Optical flow between neighbouring frames, reduced to numbers per pair; two frames are in memory at a time.

Dense inverse search (OpenCV's DIS, preset MEDIUM) on grey frames: deterministic within one OpenCV version, about 10
milliseconds per pair at 256x256. Values differ in the third digit between OpenCV versions, so results
state the version.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 16  # pixels; DIS fails on much smaller frames
MIN_TRACKED = 0.01  # least share of tracked pixels for the error of a pair to be defined
FASTEST = 0.05  # share of pixels that measures motion, as in VBench's dynamic_degree
MIN_CONTRAST = 1.0  # grey levels squared; sharpness is undefined for a frame of less variance

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FlowStatistics:
    """Numbers per pair of neighbouring frames (t, t+1), or per triple for `jerk`; None where too little is tracked.

    Attributes:
        error: mean squared difference of frame t and frame t+1 warped to it, over tracked pixels and channels, frames
            in 0..1.
        tracked: share of tracked pixels.
        speed: mean length of the longest 5% of flow vectors, pixels per frame.
        jerk: mean change of the flow along its own path, over the fastest 5% of pixels tracked through both pairs,
            pixels per frame squared.
        detail: covariance of the Laplacians of frame t and of frame t+1 warped to it, divided by the covariance of
            the frames themselves, over tracked pixels; None for a frame without contrast.
    """

    error: list[float | None] = field(default_factory=list)
    tracked: list[float | None] = field(default_factory=list)
    speed: list[float | None] = field(default_factory=list)
    jerk: list[float | None] = field(default_factory=list)
    detail: list[float | None] = field(default_factory=list)


def flow_statistics(frames: NDArray[np.uint8]) -> FlowStatistics:
    """Compute the flow statistics of a clip `(F, H, W, 3)` in one pass."""
    import cv2

    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    result = FlowStatistics()
    previous: tuple[Array, Mask] | None = None
    second = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
    for index in range(len(frames) - 1):
        first, second = second, cv2.cvtColor(frames[index + 1], cv2.COLOR_RGB2GRAY)
        flow, backward = estimator.calc(first, second, None), estimator.calc(second, first, None)
        tracked = tracked_pixels(flow, backward)
        share = float(tracked.mean())
        defined = share >= MIN_TRACKED
        result.tracked.append(share)
        result.speed.append(mean_of_largest(np.linalg.norm(flow, axis=-1)))
        result.error.append(warp_error(frames[index], frames[index + 1], flow, tracked) if defined else None)
        result.detail.append(lasting_detail(first, second, flow, tracked))
        if previous is not None:
            result.jerk.append(flow_change(*previous, flow, tracked))
        previous = (flow, tracked)
    return result


def target_positions(flow: Array) -> Array:
    """Return the position `(H, W, 2)` (x, y) to which each pixel moves."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y], axis=-1) + flow


def sample_at(image: Any, positions: Array) -> Any:
    """Sample an image bilinearly at positions `(H, W, 2)`; at target positions this warps frame t+1 to frame t."""
    import cv2

    return cv2.remap(image, positions[..., 0], positions[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def tracked_pixels(forward: Array, backward: Array) -> Mask:
    """Return the mask `(H, W)` of pixels whose forward and backward flow cancel, and that stay within the frame.

    Source: Lai et al. 2018, after Sundaram et al. 2010: |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5.
    """
    height, width = forward.shape[:2]
    positions = target_positions(forward)
    inside = (positions >= 0).all(-1) & (positions[..., 0] <= width - 1) & (positions[..., 1] <= height - 1)
    back = sample_at(backward, positions)
    residual = ((forward + back) ** 2).sum(-1)
    tolerance = 0.01 * ((forward**2).sum(-1) + (back**2).sum(-1)) + 0.5
    mask: Mask = inside & (residual <= tolerance)
    return mask


def warp_error(first: NDArray[np.uint8], second: NDArray[np.uint8], flow: Array, tracked: Mask) -> float:
    """Return the mean squared difference over tracked pixels and channels, frames in 0..1."""
    warped = sample_at(second.astype(np.float32), target_positions(flow))
    squared = ((first.astype(np.float32) - warped) / 255) ** 2
    return float(squared[tracked].mean(dtype=np.float64))


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
