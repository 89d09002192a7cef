"""Point tracks through a whole clip, by sparse optical flow with a forward-backward check.

Corners are chosen in the first, the middle and the last frame, one for each cell of a grid, and tracked from there to
both ends of the clip by the pyramidal method of Lucas and Kanade (Bouguet 2001, OpenCV). A step is accepted if tracking
back returns to the point. The choice and the tracking are symmetric in time. Everything is measured at a short side of
256 pixels at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 256  # pixels of the short side at which points are tracked
CELLS = 12  # of the grid along the short side; each has at most one point
QUALITY = 0.01  # least eigenvalue of a corner relative to the largest one of the frame (Shi and Tomasi 1994)
MIN_CORNER = 1e-5  # least eigenvalue at all: a plain frame has no corners
WINDOW, LEVELS = 15, 3  # pixels and pyramid levels of the tracker
STEPS, PRECISION = 20, 0.03  # iterations of the tracker, and the step in pixels at which it stops
RETURN = 0.5  # pixels that the backward track may deviate
BORDER = 6.0  # pixels; a point so close to the edge has left the frame, as its window does not fit into it
LEAVING = 12.0  # pixels; a point that is lost so close to the edge, or on its way there, has left the frame too
TRACKS = "pyr-lk-15-3/short-side-256/12-cells/3-starts/1"  # part of the versions of metrics that use the tracks

MEAN = np.full((1, 3), 1 / 3, np.float32)  # of the channels, so that none counts more than another

Points = NDArray[np.float32]
Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Tracks:
    """Tracks of N points through F frames.

    Attributes:
        positions: `(N, F, 2)` (x, y) in pixels of the shrunk frames; the last known one where the point is not tracked.
        tracked: `(N, F)` whether the point is tracked.
        inside: `(N, F)` whether the point should be visible: until it leaves the frame.
        starts: `(N,)` frame in which the point was chosen.
        scale: factor from pixels of these positions to pixels at a short side of 256.
    """

    positions: Points
    tracked: Mask
    inside: Mask
    starts: NDArray[np.int64]
    scale: float


def find_tracks(frames: NDArray[np.uint8]) -> Tracks:
    """Track corners of the first, the middle and the last frame of a clip `(F, H, W, 3)`."""
    greys = grey_frames(shrunk_frames(frames))
    parts = [
        track_both_ways(greys, corners(greys[start]), start)
        for start in dict.fromkeys((0, len(frames) // 2, len(frames) - 1))
    ]
    positions, tracked, inside, starts = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Tracks(positions, tracked, inside, starts, MAX_SIDE / min(greys[0].shape))


def grey_frames(frames: NDArray[np.uint8]) -> list[Grey]:
    """Return the mean of the channels of each frame."""
    import cv2

    return [np.asarray(cv2.transform(frame, MEAN)) for frame in frames]


def shrunk_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frames at a short side of at most 256: the same array if they are not larger."""
    import cv2

    size = shrunk_size(frames)
    if size == frames.shape[2:0:-1]:
        return frames
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def shrunk_size(frames: NDArray[np.uint8]) -> tuple[int, int]:
    """Return width and height of frames with a short side of at most 256."""
    height, width = frames.shape[1:3]
    factor = min(MAX_SIDE / min(height, width), 1.0)
    return round(factor * width), round(factor * height)


def corners(grey: Grey) -> Points:
    """Return the best corner `(N, 2)` of each cell of a grid, without cells that have none."""
    import cv2

    strength = cv2.cornerMinEigenVal(grey, 3)
    side = max(min(grey.shape) // CELLS, 4)
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    top, left = (grey.shape[0] - rows * side) // 2, (grey.shape[1] - columns * side) // 2
    inner = strength[top : top + rows * side, left : left + columns * side]
    cells = inner.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows * columns, side * side)
    best, cell = cells.argmax(1), np.arange(rows * columns)
    points = np.stack([left + cell % columns * side + best % side, top + cell // columns * side + best // side], 1)
    strong = cells.max(1) >= max(QUALITY * float(strength.max()), MIN_CORNER)
    return points[strong & is_within(points, grey.shape)].astype(np.float32)


def track_both_ways(greys: Sequence[Grey], points: Points, start: int) -> tuple[Points, Mask, Mask, NDArray[np.int64]]:
    """Track points `(N, 2)` of one frame to both ends of the clip.

    Returns:
        positions `(N, F, 2)`, tracked `(N, F)`, inside `(N, F)` and starts `(N,)`, as in :class:`Tracks`.
    """
    shape, frames = greys[0].shape, len(greys)
    positions = np.repeat(points[:, None], frames, 1)
    tracked, inside = (np.zeros((len(points), frames), bool) for _ in range(2))
    tracked[:, start] = inside[:, start] = True
    for order in (range(start, frames), range(start, -1, -1)):
        for first, second in pairwise(order):
            step = track_step(greys[first], greys[second], positions[:, first], tracked[:, first])
            positions[:, second], tracked[:, second] = step
            velocity = positions[:, first] - positions[:, first - (second - first)] if first != start else 0
            expected = positions[:, first] + velocity
            left = tracked[:, first] & ~tracked[:, second] & ~is_within(expected, shape, LEAVING)
            inside[:, second] = inside[:, first] & ~left
    return positions, tracked, inside, np.full(len(points), start)


def track_step(first: Grey, second: Grey, points: Points, active: Mask) -> tuple[Points, Mask]:
    """Return the positions of points in the next frame, and which of the active ones are tracked there."""
    import cv2

    result, tracked = points.copy(), np.zeros(len(points), bool)
    if not active.any():
        return result, tracked
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, STEPS, PRECISION)
    options: dict[str, Any] = dict(winSize=(WINDOW, WINDOW), maxLevel=LEVELS, criteria=stop)
    moved, reached, _ = cv2.calcOpticalFlowPyrLK(first, second, points[active], None, **options)  # type: ignore[call-overload] # not in the stubs
    back, returned, _ = cv2.calcOpticalFlowPyrLK(second, first, moved, None, **options)  # type: ignore[call-overload] # not in the stubs
    deviation = np.linalg.norm(back - points[active], axis=1)
    good = (reached.ravel() > 0) & (returned.ravel() > 0) & (deviation <= RETURN)
    good &= is_within(moved, first.shape)
    tracked[active] = good
    result[tracked] = moved[good]
    return result, tracked


def is_within(points: Points, shape: Sequence[int], border: float = BORDER) -> Mask:
    """Return which points `(N, 2)` lie inside a frame, at least `border` pixels from its edge."""
    limit = np.array([shape[1] - 1, shape[0] - 1]) - border
    return np.asarray(((points >= border) & (points <= limit)).all(1))
