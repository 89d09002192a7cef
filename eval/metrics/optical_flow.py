"""Optical flow between neighbouring frames, and the numbers that metrics need of it; two frames at a time.

Dense inverse search (OpenCV's DIS, preset MEDIUM) on grey frames: deterministic within one OpenCV version, about 10
milliseconds a pair at 256x256. Between OpenCV versions values differ in the third digit, so a result names it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_SIDE = 16  # pixels; DIS refuses frames much smaller
LEAST_VALID = 0.01  # share of pixels that must be trackable for a pair's error to mean anything
FASTEST = 0.05  # share of pixels that stand for what moves, as in VBench's dynamic_degree
FLAT = 1.0  # grey levels squared; a frame with less variance has nothing to be sharp

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Motion:
    """Per pair of neighbouring frames (t, t+1), or per triple for `jerk`; None where nothing could be tracked.

    Attributes:
        error: mean squared difference of frame t and frame t+1 warped to it, over pixels that could be tracked and
            channels, frames in 0..1.
        valid: share of pixels that could be tracked.
        speed: mean length of the longest 5% of flow vectors, pixels per frame.
        jerk: mean change of the flow along its own path, over the fastest 5% of pixels tracked through both pairs,
            pixels per frame squared.
        detail: covariance of the Laplacians of frame t and of frame t+1 warped to it, relative to the covariance of
            the frames themselves, over pixels that could be tracked; None for a flat frame.
    """

    error: list[float | None] = field(default_factory=list)
    valid: list[float | None] = field(default_factory=list)
    speed: list[float | None] = field(default_factory=list)
    jerk: list[float | None] = field(default_factory=list)
    detail: list[float | None] = field(default_factory=list)


def follow(frames: NDArray[np.uint8]) -> Motion:
    """Flow statistics of a clip `(F, H, W, 3)`, in one pass."""
    import cv2

    finder: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    result = Motion()
    before: tuple[Array, Mask] | None = None
    there = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
    for index in range(len(frames) - 1):
        here, there = there, cv2.cvtColor(frames[index + 1], cv2.COLOR_RGB2GRAY)
        forward, backward = finder.calc(here, there, None), finder.calc(there, here, None)
        valid = tracked(forward, backward)
        share = float(valid.mean())
        enough = share >= LEAST_VALID
        result.valid.append(share)
        result.speed.append(fastest(np.linalg.norm(forward, axis=-1)))
        result.error.append(warp_error(frames[index], frames[index + 1], forward, valid) if enough else None)
        result.detail.append(lasting_detail(here, there, forward, valid))
        if before is not None:
            result.jerk.append(change_of_flow(*before, forward, valid))
        before = (forward, valid)
    return result


def grid(flow: Array) -> Array:
    """Where each pixel goes `(H, W, 2)` (x, y)."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y], axis=-1) + flow


def fetch(picture: Any, places: Array) -> Any:
    """The picture at real-valued places, bilinear: warps frame t+1 back to frame t."""
    import cv2

    return cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def tracked(forward: Array, backward: Array) -> Mask:
    """Pixels `(H, W)` that flow forth and back to themselves, within the frame.

    The bound is that of Lai et al. 2018 (after Sundaram et al. 2010): |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5.
    """
    height, width = forward.shape[:2]
    places = grid(forward)
    inside = (places >= 0).all(-1) & (places[..., 0] <= width - 1) & (places[..., 1] <= height - 1)
    back = fetch(backward, places)
    gap = ((forward + back) ** 2).sum(-1)
    allowed = 0.01 * ((forward**2).sum(-1) + (back**2).sum(-1)) + 0.5
    mask: Mask = inside & (gap <= allowed)
    return mask


def warp_error(here: NDArray[np.uint8], there: NDArray[np.uint8], forward: Array, valid: Mask) -> float:
    """Mean squared difference over tracked pixels and channels, frames in 0..1."""
    warped = fetch(there.astype(np.float32), grid(forward))
    squared = ((here.astype(np.float32) - warped) / 255) ** 2
    return float(squared[valid].mean(dtype=np.float64))


def lasting_detail(here: NDArray[np.uint8], there: NDArray[np.uint8], forward: Array, valid: Mask) -> float | None:
    """Covariance of the two frames' Laplacians along the flow, relative to that of the frames themselves.

    Noise, being new in each frame, cancels out of both; strong and weak colours count alike.
    """
    import cv2

    places, middle = grid(forward), float(here.mean())
    first, second = (grey.astype(np.float32) - middle for grey in (here, there))
    contrast = covariance(first, fetch(second, places), valid)
    if contrast < FLAT:
        return None
    pair: list[Any] = [cv2.Laplacian(grey, cv2.CV_32F) for grey in (first, second)]
    edges, later = pair
    return covariance(edges, fetch(later, places), valid) / contrast


def covariance(first: Array, second: Array, valid: Mask) -> float:
    """Mean product over all pixels, those that could not be tracked counting 0."""
    return float(np.where(valid, first * second, 0).mean(dtype=np.float64))


def fastest(lengths: Array) -> float:
    """Mean of the largest 5%."""
    count = max(round(FASTEST * lengths.size), 1)
    return float(np.partition(lengths.ravel(), -count)[-count:].mean(dtype=np.float64))


def change_of_flow(first: Array, first_valid: Mask, second: Array, second_valid: Mask) -> float | None:
    """How much the flow changes along its path, over the fastest 5% of pixels tracked twice, pixels per frame^2."""
    places = grid(first)
    later = fetch(second, places)
    twice = first_valid & (fetch(second_valid.astype(np.float32), places) > 0.99)
    if twice.mean() < LEAST_VALID:
        return None
    speed = np.maximum(np.linalg.norm(first, axis=-1), np.linalg.norm(later, axis=-1))[twice]
    change = np.linalg.norm(later - first, axis=-1)[twice]
    count = max(round(FASTEST * speed.size), 1)
    return float(change[np.argpartition(speed, -count)[-count:]].mean(dtype=np.float64))
