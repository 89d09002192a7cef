"""Optical flow between neighbouring frames, reduced to numbers per pair; two frames are in memory at a time.

Dense inverse search (OpenCV's DIS) on grey frames: deterministic within one OpenCV version, about 6 milliseconds per
pair and direction at 256x256. The settings are those of the preset MEDIUM, with 12 gradient steps and 3 variational
refinements instead of 25 and 5. The flow is estimated at a short side of at most 256 pixels; pixels are compared at
full size. Values differ in the third digit between OpenCV versions, so results state the version.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 16  # pixels; DIS fails on much smaller frames
MAX_SIDE = 256  # pixels; the flow of frames with a longer short side is estimated at this one, and enlarged
MIN_TRACKED = 0.01  # least share of tracked pixels for the statistics of a pair to be defined
FASTEST = 0.05  # share of pixels that measures motion, as in VBench's dynamic_degree
MIN_CONTRAST = 1.0  # grey levels squared; sharpness is undefined for a frame of less variance
GRADIENT_STEPS, REFINEMENTS = 12, 3
FLOW = "dis-medium-12-3/short-side-256"  # part of the versions of metrics that use the flow

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Flow(NamedTuple):
    """Flow from a frame to the next one.

    Attributes:
        vectors: `(H, W, 2)` (x, y) in pixels.
        tracked: mask `(H, W)` of tracked pixels, see :func:`tracked_pixels`.
        inside: mask of pixels whose target is inside the frame.
    """

    vectors: Array
    tracked: Mask
    inside: Mask


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
    shrink = min(MAX_SIDE / min(frames.shape[1:3]), 1.0)
    previous: Flow | None = None
    result.variance.extend(spatial_variance(frame) for frame in frames)
    second = grey_levels(frames[0])
    second_small = shrunk(second, shrink)
    for index in range(len(frames) - 1):
        (first, first_small), second = (second, second_small), grey_levels(frames[index + 1])
        second_small = shrunk(second, shrink)
        flow = track(estimator, first_small, second_small)
        result.speed.append(mean_of_largest(lengths(flow.vectors)) / shrink)
        if previous is not None:
            change = flow_change(previous, flow)
            result.jerk.append(None if change is None else change / shrink)
        add_differences(result, frames[index], frames[index + 1], (first, second), enlarged(flow, first.shape))
        previous = flow
    return result


def track(estimator: Any, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Flow:
    """Return the flow between two grey frames `(H, W)`."""
    vectors = estimator.calc(first, second, None)
    tracked, inside = tracked_pixels(vectors, estimator.calc(second, first, None))
    return Flow(vectors, tracked, inside)


def add_differences(
    result: FlowStatistics,
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    greys: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    flow: Flow,
) -> None:
    """Append the numbers of a pair of frames `(H, W, 3)` that depend on their pixels."""
    positions = target_positions(flow.vectors)
    squared = squared_difference(first, sample_at(second.astype(np.float32), positions))
    share = float(flow.tracked.mean())
    result.tracked.append(share)
    result.lost.append(float(flow.inside.mean()) - share)
    result.error.append(mean_over(squared, flow.tracked) if share >= MIN_TRACKED else None)
    result.lost_error.append(mean_over(squared, flow.inside & ~flow.tracked))
    result.detail.append(lasting_detail(*greys, positions, flow.tracked))


def shrunk(image: NDArray[np.uint8], factor: float) -> Any:
    """Return an image whose sides are multiplied by a factor of at most 1."""
    import cv2

    if factor == 1:
        return image
    height, width = image.shape
    return cv2.resize(image, (round(factor * width), round(factor * height)), interpolation=cv2.INTER_AREA)


def enlarged(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """Return a flow at the size `(H, W)` of the frames, its vectors in pixels of that size."""
    import cv2

    height, width = shape
    if flow.tracked.shape == shape:
        return flow
    scale = np.array([width / flow.tracked.shape[1], height / flow.tracked.shape[0]], np.float32)
    vectors = cv2.resize(flow.vectors, (width, height), interpolation=cv2.INTER_LINEAR) * scale
    masks = [mask.astype(np.uint8) for mask in (flow.tracked, flow.inside)]
    tracked, inside = (cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0 for mask in masks)
    return Flow(vectors, tracked, inside)


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


@lru_cache(maxsize=4)
def pixel_positions(height: int, width: int) -> Array:
    """Return the position `(H, W, 2)` (x, y) of each pixel."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y], axis=-1)


def target_positions(flow: Array) -> Array:
    """Return the position `(H, W, 2)` (x, y) to which each pixel moves."""
    return pixel_positions(*flow.shape[:2]) + flow


def lengths(vectors: Array) -> Any:
    """Return the length `(H, W)` of vectors `(H, W, 2)`."""
    import cv2

    return cv2.magnitude(*cv2.split(vectors))


def squared_lengths(vectors: Array) -> Array:
    """Return the squared length `(H, W)` of vectors `(H, W, 2)`."""
    return vectors[..., 0] ** 2 + vectors[..., 1] ** 2


def sample_at(image: Any, positions: Array) -> Any:
    """Sample an image bilinearly at positions `(H, W, 2)`; at target positions this warps frame t+1 to frame t."""
    import cv2

    return cv2.remap(image, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload] # not in the stubs


def tracked_pixels(forward: Array, backward: Array) -> tuple[Mask, Mask]:
    """Return the mask `(H, W)` of pixels whose forward and backward flow cancel, and that of targets in the frame.

    The second mask contains the first. Source: Lai et al. 2018, after Sundaram et al. 2010:
    |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5.
    """
    height, width = forward.shape[:2]
    positions = target_positions(forward)
    x, y = positions[..., 0], positions[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    back = sample_at(backward, positions)
    tolerance = 0.01 * (squared_lengths(forward) + squared_lengths(back)) + 0.5
    return inside & (squared_lengths(forward + back) <= tolerance), inside


def squared_difference(first: NDArray[np.uint8], second: Array) -> Array:
    """Return the squared difference of two frames, mean over channels, `(H, W)`."""
    red, green, blue = np.moveaxis((first - second) ** 2, -1, 0)
    return (red + green + blue) / 3


def mean_over(values: Array, mask: Mask) -> float:
    """Return the mean over the pixels of a mask, 0 for an empty one."""
    return float(values[mask].mean(dtype=np.float64)) if mask.any() else 0.0


def lasting_detail(
    first: NDArray[np.uint8], second: NDArray[np.uint8], positions: Array, tracked: Mask
) -> float | None:
    """Return the covariance of the Laplacians of two grey frames along the flow, divided by that of the frames.

    Noise is independent between frames and cancels in both; the division removes the contrast.
    """
    import cv2

    mean = float(first.mean())
    greys = [grey.astype(np.float32) - np.float32(mean) for grey in (first, second)]
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


def flow_change(first: Flow, second: Flow) -> float | None:
    """Return the mean change of the flow along its path in pixels per frame^2, over the fastest 5% of pixels.

    Only pixels tracked through both pairs count; None if there are too few.
    """
    positions = target_positions(first.vectors)
    later = sample_at(second.vectors, positions)
    tracked = first.tracked & (sample_at(second.tracked.astype(np.float32), positions) > 0.99)
    if tracked.mean() < MIN_TRACKED:
        return None
    speed = np.maximum(lengths(first.vectors), lengths(later))[tracked]
    change = lengths(later - first.vectors)[tracked]
    count = max(round(FASTEST * speed.size), 1)
    return float(change[np.argpartition(speed, -count)[-count:]].mean(dtype=np.float64))
