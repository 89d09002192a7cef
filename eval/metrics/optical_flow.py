"""Optical flow between neighbouring frames, reduced to numbers per pair; two frames are in memory at a time.

Dense inverse search (OpenCV's DIS) on grey frames: deterministic within one OpenCV version, about 6 milliseconds per
pair and direction at 256x256. The settings are those of the preset MEDIUM, with 12 gradient steps and 3 variational
refinements instead of 25 and 5. The flow is estimated at a short side of at most 256 pixels; pixels are compared at
full size. Values differ in the third digit between OpenCV versions, so results state the version.

Channels are kept as separate arrays where possible: OpenCV's masked norms are ten times as fast on one channel. Only
images that are sampled are interleaved: the sampling of four channels is as fast as that of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 16  # pixels; DIS fails on much smaller frames
MAX_SIDE = 256  # pixels; the flow of frames with a longer short side is estimated at this one, and enlarged
MIN_TRACKED = 0.01  # least share of tracked pixels for the statistics of a pair to be defined
FASTEST = 0.05  # share of pixels that measures motion, as in VBench's dynamic_degree
SAMPLED = 17  # every such value bounds the largest ones; not a divisor of usual widths
MIN_CONTRAST = 1.0  # grey levels squared; sharpness is undefined for a frame of less variance
GRADIENT_STEPS, REFINEMENTS = 12, 3
FLOW = "dis-medium-12-3/short-side-256"  # part of the versions of metrics that use the flow

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Picture(NamedTuple):
    """A frame, prepared for the comparison with its neighbours.

    Attributes:
        channels: red, green, blue and grey, `(H, W)` each.
        interleaved: the same as `(H, W, 4)`.
        laplacian: `(H, W)` of the grey channel.
        small: grey levels uint8 at the size of the flow.
    """

    channels: list[Array]
    interleaved: Array
    laplacian: Array
    small: NDArray[np.uint8]


class Warp(NamedTuple):
    """Where the pixels of a frame are in the next one.

    Attributes:
        targets: positions x and y, `(H, W)` each, in pixels.
        tracked: mask `(H, W)` of tracked pixels, see :func:`tracked_pixels`.
        inside: mask of pixels whose target is inside the frame.
    """

    targets: tuple[Array, Array]
    tracked: Mask
    inside: Mask


class Flow(NamedTuple):
    """Flow from a frame to the next one.

    Attributes:
        vectors: `(H, W, 2)` (x, y) in pixels.
        speed: their lengths `(H, W)`.
        warp: targets and masks.
    """

    vectors: Array
    speed: Array
    warp: Warp


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


def flow_statistics(frames: NDArray[np.uint8], max_side: int = MAX_SIDE) -> FlowStatistics:
    """Compute the flow statistics of a clip in one pass.

    Args:
        frames: `(F, H, W, 3)`.
        max_side: pixels of the short side at which the flow is estimated, if the frames are larger.
    """
    estimator, result = flow_estimator(), FlowStatistics()
    shrink = min(max_side / min(frames.shape[1:3]), 1.0)
    previous: Flow | None = None
    result.variance.extend(spatial_variance(frame) for frame in frames)
    for first, second in pairwise(prepared(frame, shrink) for frame in frames):
        flow = track(estimator, first.small, second.small)
        result.speed.append(mean_at_largest(flow.speed.ravel(), flow.speed.ravel()) / shrink)
        if previous is not None:
            change = flow_change(previous, flow)
            result.jerk.append(None if change is None else change / shrink)
        add_differences(result, first, second, enlarged(flow, frames.shape[1:3]))
        previous = flow
    return result


def prepared(frame: NDArray[np.uint8], shrink: float) -> Picture:
    """Return what the comparison needs of a frame `(H, W, 3)`; the flow has `shrink` times its size."""
    import cv2

    grey: Any = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    planes = [channel.astype(np.float32) for channel in (*channels(frame), grey)]
    laplacian: Any = cv2.Laplacian(planes[-1], cv2.CV_32F)
    interleaved: Any = cv2.merge(planes)
    return Picture(planes, interleaved, laplacian, shrunk(grey, shrink))


def track(estimator: Any, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Flow:
    """Return the flow between two grey frames `(H, W)`."""
    vectors = estimator.calc(first, second, None)
    return Flow(vectors, lengths(vectors), tracked_pixels(vectors, estimator.calc(second, first, None)))


def add_differences(result: FlowStatistics, first: Picture, second: Picture, warp: Warp) -> None:
    """Append the numbers of a pair of frames that depend on their pixels."""
    *colours, grey = channels(sample_at(second.interleaved, warp.targets))
    lost = warp.inside & ~warp.tracked
    result.tracked.append(share(warp.tracked))
    result.lost.append(share(warp.inside) - share(warp.tracked))
    defined = share(warp.tracked) >= MIN_TRACKED
    result.error.append(squared_difference(first.channels[:3], colours, warp.tracked) if defined else None)
    result.lost_error.append(squared_difference(first.channels[:3], colours, lost))
    result.detail.append(lasting_detail(first, second, grey, warp))


def share(mask: Mask) -> float:
    """Return the share of pixels in a mask."""
    return np.count_nonzero(mask) / mask.size


def channels(image: Any) -> list[Any]:
    """Return the channels of an image `(H, W, C)` as arrays `(H, W)`."""
    import cv2

    return [cv2.extractChannel(image, index) for index in range(image.shape[2])]


def shrunk(image: NDArray[np.uint8], factor: float) -> Any:
    """Return an image whose sides are multiplied by a factor of at most 1."""
    import cv2

    if factor == 1:
        return image
    height, width = image.shape
    return cv2.resize(image, (round(factor * width), round(factor * height)), interpolation=cv2.INTER_AREA)


def enlarged(flow: Flow, shape: tuple[int, ...]) -> Warp:
    """Return targets and masks of a flow at the size `(H, W)` of the frames, in pixels of that size."""
    import cv2

    size = shape[::-1]
    if flow.speed.shape == shape:
        return flow.warp
    x, y = (
        np.asarray(cv2.resize(channel, size, interpolation=cv2.INTER_LINEAR) * np.float32(full / channel.shape[axis]))
        for channel, full, axis in zip(channels(flow.vectors), size, (1, 0), strict=True)
    )
    masks = [mask.view(np.uint8) for mask in (flow.warp.tracked, flow.warp.inside)]
    tracked, inside = (cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).view(np.bool_) for mask in masks)
    return Warp(target_positions(x, y), tracked, inside)


def flow_estimator() -> Any:
    """Return the estimator of optical flow; `calc(first, second, None)` returns the flow `(H, W, 2)`."""
    import cv2

    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator.setGradientDescentIterations(GRADIENT_STEPS)
    estimator.setVariationalRefinementIterations(REFINEMENTS)
    return estimator


def spatial_variance(frame: NDArray[np.uint8]) -> float:
    """Return the variance over the pixels of a frame, mean over channels."""
    import cv2

    mean = np.array(cv2.mean(frame)[:3])
    return cv2.norm(frame, cv2.NORM_L2SQR) / frame.size - float((mean**2).mean())


def target_positions(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the positions x and y to which each pixel moves, from the components `(H, W)` of the flow."""
    height, width = x.shape
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return x + columns, y + rows[:, None]


def lengths(vectors: Array) -> Any:
    """Return the length `(H, W)` of vectors `(H, W, 2)`; the last bit of cv2.magnitude depends on their address."""
    x, y = channels(vectors)
    squares = x * x
    squares += y * y
    return np.sqrt(squares, out=squares)


def sample_at(image: Any, positions: tuple[Array, Array]) -> Any:
    """Sample an image bilinearly at positions x and y `(H, W)`; at target positions this warps frame t+1 to frame t.

    For two channels, OpenCV rounds the positions to 1/32 pixel; for one, three and four it does not.
    """
    import cv2

    return cv2.remap(image, *positions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def tracked_pixels(forward: Array, backward: Array) -> Warp:
    """Return the targets of pixels, the mask of those whose forward and backward flow cancel, and of those inside.

    The second mask contains the first. Source: Lai et al. 2018, after Sundaram et al. 2010:
    |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5.
    """
    height, width = forward.shape[:2]
    x, y = channels(forward)
    targets = target_positions(x, y)
    inside = (targets[0] >= 0) & (targets[1] >= 0) & (targets[0] <= width - 1) & (targets[1] <= height - 1)
    back_x, back_y = channels(sample_at(backward, targets))
    tolerance = 0.01 * (x * x + y * y + (back_x * back_x + back_y * back_y)) + 0.5
    x, y = x + back_x, y + back_y
    return Warp(targets, inside & (x * x + y * y <= tolerance), inside)


def squared_difference(first: Sequence[Array], second: Sequence[Array], mask: Mask) -> float:
    """Return the mean squared difference of channels over the pixels of a mask, 0 for an empty one."""
    import cv2

    where = mask.view(np.uint8)
    sums = [cv2.norm(one, other, cv2.NORM_L2SQR, where) for one, other in zip(first, second, strict=True)]
    return float(np.mean(sums)) / max(int(np.count_nonzero(mask)), 1)


def lasting_detail(first: Picture, second: Picture, warped_grey: Array, warp: Warp) -> float | None:
    """Return the covariance of the Laplacians of two frames along the flow, divided by that of their grey levels.

    Noise is independent between frames and cancels in both; the division removes the contrast.
    """
    import cv2

    grey = first.channels[-1]
    mean = np.float32(cv2.mean(grey)[0])
    contrast = covariance(grey - mean, warped_grey - mean, warp.tracked)
    if contrast < MIN_CONTRAST:
        return None
    return covariance(first.laplacian, sample_at(second.laplacian, warp.targets), warp.tracked) / contrast


def covariance(first: Array, second: Array, mask: Mask) -> float:
    """Return the mean product over all pixels, `((a + b)^2 - (a - b)^2) / 4`; those outside the mask count as 0."""
    import cv2

    where = mask.view(np.uint8)
    difference = cv2.norm(first, second, cv2.NORM_L2SQR, where)
    return (cv2.norm(first + second, cv2.NORM_L2SQR, where) - difference) / (4 * first.size)


def flow_change(first: Flow, second: Flow) -> float | None:
    """Return the mean change of the flow along its path in pixels per frame^2, over the fastest 5% of pixels.

    Only pixels tracked through both pairs count; None if there are too few.
    """
    later = sample_at(second.vectors, first.warp.targets)
    tracked = first.warp.tracked & (sample_at(second.warp.tracked.astype(np.float32), first.warp.targets) > 0.99)
    if share(tracked) < MIN_TRACKED:
        return None
    speed = np.maximum(first.speed, lengths(later))[tracked]
    return mean_at_largest(lengths(later - first.vectors)[tracked], speed)


def mean_at_largest(values: Array, keys: Array) -> float:
    """Return the mean of the values `(N,)` that have the largest 5% of the keys; equal keys count alike."""
    count = max(round(FASTEST * keys.size), 1)
    least = nth_largest(keys, count)
    above, equal = values[keys > least], values[keys == least]
    return float((above.sum(dtype=np.float64) + (count - above.size) * equal.mean(dtype=np.float64)) / count)


def nth_largest(values: Array, count: int) -> float:
    """Return the smallest of the `count` largest values `(N,)`.

    Values below a bound are left out first; about twice as many of a sample exceed it.
    """
    sample = values[::SAMPLED]
    likely = min(2 * count // SAMPLED + 1, sample.size)
    candidates = values[values >= np.partition(sample, -likely)[-likely]]
    candidates = candidates if candidates.size >= count else values
    return float(np.partition(candidates, -count)[-count])
