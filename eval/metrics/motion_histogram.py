"""Histograms of the velocities and accelerations of tracks, as features of the distance between sets of clips.

After FVMD (Liu et al. 2024, arXiv 2407.16124, and fvmd/extract_motion_features.py of its authors): eight directions,
weighted by the logarithm of the length over the logarithm of 256, for velocities and for accelerations, in cells of
space and time. Not theirs: the tracks, which come from PIPs++ on a grid of 20 x 20 points in segments of 16 frames; 2
x 2 x 2 cells of the whole clip in place of 4 x 4 x 4 of a segment, so that a hundred clips estimate the covariance;
means over points in place of sums; and a logarithm that is not rounded up, so that noise of a hundredth of a pixel
does not count as motion.
"""

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.metrics.tracks import Tracks

DIRECTIONS, CELLS = 8, 2
LONGEST = 255.0  # pixels, beyond which vectors count as this long
HISTOGRAM = "after-fvmd-2x2x2x8/1"  # part of the versions of metrics that use the histograms

Values = NDArray[np.float64]


def motion_histogram(tracks: Tracks, shape: tuple[int, int]) -> Values:
    """Return the features `(128,)`: velocity and acceleration, by time, row, column and direction.

    Args:
        tracks: of a clip.
        shape: height and width of the frames in which the tracks are measured.
    """
    velocity = np.diff(tracks.positions.astype(np.float64) * tracks.scale, axis=1)
    moving = tracks.tracked[:, 1:] & tracks.tracked[:, :-1]
    acceleration, steady = np.diff(velocity, axis=1), moving[:, 1:] & moving[:, :-1]
    cells = cell_numbers(tracks, shape)
    parts = [(velocity, moving, cells[:, 1:]), (acceleration, steady, cells[:, 2:])]
    return np.concatenate([cell_means(vectors[mask], cell[mask]) for vectors, mask, cell in parts])


def cell_numbers(tracks: Tracks, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the cell `(N, F)` of time, row and column in which each point is."""
    frames = tracks.positions.shape[1]
    column, row = (
        np.clip((tracks.positions[..., axis] * CELLS / shape[1 - axis]).astype(np.int64), 0, CELLS - 1)
        for axis in (0, 1)
    )
    time = np.arange(frames) * CELLS // frames
    return np.asarray((time * CELLS + row) * CELLS + column)


def cell_means(vectors: Values, cells: NDArray[np.int64]) -> Values:
    """Return the mean weight `(cells * directions,)` of vectors `(M, 2)` in each cell and direction."""
    angle = np.arctan2(vectors[:, 1], vectors[:, 0])
    direction = np.clip((angle + np.pi) * DIRECTIONS // (2 * np.pi), 0, DIRECTIONS - 1).astype(np.int64)
    weight = np.log2(1 + np.minimum(np.linalg.norm(vectors, axis=1), LONGEST)) / np.log2(LONGEST + 1)
    size = CELLS**3
    sums = np.bincount(cells * DIRECTIONS + direction, weight, size * DIRECTIONS)
    counts = np.bincount(cells, minlength=size)
    return np.asarray((sums.reshape(size, DIRECTIONS) / np.maximum(counts, 1)[:, None]).ravel())
