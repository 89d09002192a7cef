"""The appearance of points along their tracks: patches of colour, compared with the frame in which a point was chosen.

A patch is reduced by its mean per channel and divided by its norm, so that brightness and contrast cancel.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.metrics.tracks import Points, Tracks

PATCH = 15  # pixels
SMOOTHING = 1.0  # pixels, standard deviation: interpolation between pixels blurs by about as much
PATCHES = "colour-patches-15/1"  # part of the versions of metrics that use the patches

Features = NDArray[np.float32]


def similarities(tracks: Tracks, describe: Callable[[int, Points], Features]) -> NDArray[np.float64]:
    """Return the similarity `(N, F)` of each point to itself in the frame in which it was chosen.

    Args:
        tracks: of a clip.
        describe: returns unit features `(M, D)` of points `(M, 2)` in a frame.

    Returns:
        cosines, clamped at 0; 0 where a point is lost inside the frame, and NaN where it has left the frame and in the
        frame in which it was chosen.
    """
    frames = tracks.positions.shape[1]
    first = np.concatenate(
        [describe(int(start), tracks.positions[tracks.starts == start, start]) for start in chosen_frames(tracks)]
    )
    result = np.full((len(first), frames), np.nan)
    for frame in range(frames):
        tracked = tracks.tracked[:, frame]
        result[tracks.inside[:, frame], frame] = 0
        cosines = np.einsum("nd,nd->n", describe(frame, tracks.positions[tracked, frame]), first[tracked])
        result[tracked, frame] = np.maximum(cosines, 0)
    result[np.arange(len(first)), tracks.starts] = np.nan
    return result


def chosen_frames(tracks: Tracks) -> list[int]:
    """Return the frames in which points were chosen, in the order of the points."""
    return [int(start) for start in dict.fromkeys(tracks.starts.tolist())]


def patch_describer(frames: NDArray[np.uint8]) -> Callable[[int, Points], Features]:
    """Return a function of a frame's number and points `(M, 2)` that returns their normalised patches `(M, D)`.

    Args:
        frames: `(F, H, W, 3)` at the size at which points are tracked.
    """
    import cv2

    def describe(frame: int, points: Points) -> Features:
        return normalized_patches(cv2.GaussianBlur(frames[frame].astype(np.float32), (0, 0), SMOOTHING), points)

    return describe


def normalized_patches(image: NDArray[np.float32], points: Points) -> Features:
    """Return the patches `(M, 3 PATCH^2)` around points of an image, without their means, at unit length.

    The channels of a patch are one after the other.
    """
    import cv2

    if not len(points):
        return np.zeros((0, 3 * PATCH**2), np.float32)
    offset = np.arange(PATCH, dtype=np.float32) - PATCH // 2
    x = points[:, 0, None] + np.tile(offset, PATCH)
    y = points[:, 1, None] + np.repeat(offset, PATCH)
    channels = [cv2.extractChannel(image, channel) for channel in range(3)]
    patches: Any = np.stack(
        [cv2.remap(channel, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for channel in channels], axis=1
    )
    patches -= patches.mean(-1, keepdims=True)
    features: Features = patches.reshape(len(points), -1)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
