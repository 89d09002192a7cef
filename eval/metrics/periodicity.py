"""Loops and boomerangs: frames that return to an earlier frame of the clip, in order or in reverse order.

The squared difference of every two frames is compared with the usual one of neighbouring frames. Repetitions in order
are diagonals of that matrix, repetitions in reverse order antidiagonals (self-similarity after Foote 1999, and Cutler
and Davis 2000).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample

MAX_SIDE = 64  # pixels of the short side at which frames are compared
CHUNK = 4096  # values of a frame that are in memory as float64 at a time
STEP = 75  # percentile of the differences of neighbouring frames that is a step: duplicated frames have none
MIN_STEP = 0.25  # levels squared; nothing moves below
EQUAL, APART = 0.25, 0.5  # steps: two frames are equal up to the first, and apart from the second
MIN_RETURNS = 3  # neighbouring frames that return to neighbouring ones
REPETITION = "short-side-64/step-75%/quarter-step/3-returns/1"  # part of the version

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Repetition:
    """Frames `first` to `last` that repeat others: each frame t repeats frame t - period, or turn - t in a boomerang.

    Attributes:
        kind: "loop" or "boomerang".
        first, last: frames, counted from 0.
        period: of a loop, in frames; 0 for a boomerang.
        turn: of a boomerang, sum of the numbers of each frame and the one that it repeats; 0 for a loop.
    """

    kind: str
    first: int
    last: int
    period: int = 0
    turn: int = 0


@metric(
    id="temporal.periodicity",
    version=REPETITION,
    unit="share of frames",
    low=0.0,
    high=1.0,
    better="lower",
    min_frames=2 * MIN_RETURNS,
    guards=STEADINESS_GUARDS,
)
def periodicity(sample: Sample) -> Value:
    """Measure how many frames repeat an earlier part of the clip: loops, and boomerangs that play it backward.

    Direction: lower is better. Range: 0 to 1; a loop of 5 frames in 16 has 11/16. Unit: share of the frames of which at
    least three in a row return to earlier ones, after the picture has changed; equal are frames whose mean squared
    difference (at a short side of 64) is at most a quarter of that of neighbouring frames. The details name the frames
    and the period or turning point. A clip in which nothing moves has no value.
    Fooled by: noise of the order of the motion hides a repetition, as does a period that is not a whole number of
    frames; motion that is meant to repeat counts (a pendulum, a wheel, a pan over stripes, a blinking light), as it
    cannot be told from a loop; an object too small to change the frame. Slow motion and duplicated frames do not count.
    Source: specific to vidguide; self-similarity matrices after Foote 1999 and Cutler and Davis 2000.
    """
    repetitions, repeated = find_repetitions(frame_distances(sample.clip.frames))
    details = {"repetitions": [asdict(repetition) for repetition in repetitions]}
    return Value(value=float(repeated.mean()), per_frame=repeated.astype(float).tolist(), details=details)


def frame_distances(frames: NDArray[np.uint8]) -> Matrix:
    """Return the mean squared difference `(F, F)` of every two frames `(F, H, W, 3)`, in levels squared."""
    import cv2

    factor = min(MAX_SIDE / min(frames.shape[1:3]), 1.0)
    size = (round(factor * frames.shape[2]), round(factor * frames.shape[1]))
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    flat = small.reshape(len(small), -1)
    parts = (flat[:, start : start + CHUNK].astype(np.float64) for start in range(0, flat.shape[1], CHUNK))
    products = sum((part @ part.T for part in parts), np.zeros((len(flat), len(flat))))
    power = np.diag(products)
    return np.asarray((power[:, None] + power[None] - 2 * products) / flat.shape[1])


def find_repetitions(distances: Matrix) -> tuple[list[Repetition], Mask]:
    """Return the repetitions in a matrix `(F, F)` of squared differences, and which frames `(F,)` repeat others.

    The repetition of the most frames comes first; others are left out if they add none.

    Raises:
        UndefinedError: nothing moves.
    """
    step = float(np.percentile(np.diag(distances, 1), STEP))
    if step < MIN_STEP:
        raise UndefinedError(f"frames differ from the next one by {step:.2g} levels squared, so nothing can repeat")
    equal = distances <= EQUAL * step
    returns = equal & departed(distances >= APART * step)
    candidates = sorted(repetition_runs(equal, returns), key=lambda run: (run.first - run.last, run.period))
    chosen, repeated = [], np.zeros(len(distances), bool)
    for run in candidates:
        if not repeated[run.first : run.last + 1].all():
            chosen.append(run)
            repeated[run.first : run.last + 1] = True
    return chosen, repeated


def departed(apart: Mask) -> Mask:
    """Return for which pairs `(t, s)` of frames, t < s, a frame between them is apart from t."""
    before = np.maximum.accumulate(np.triu(apart), axis=1)
    return np.asarray(np.pad(before, ((0, 0), (1, 0)))[:, :-1])


def repetition_runs(equal: Mask, returns: Mask) -> Iterator[Repetition]:
    """Yield the runs of equal frames along diagonals and antidiagonals that contain enough returns."""
    count = len(equal)
    for period in range(2, count):
        diagonals = np.diag(equal, period), np.diag(returns, period)
        for first, last in runs_with_returns(*diagonals):
            yield Repetition("loop", first + period, last + period, period=period)
    for turn in range(2, 2 * count - 3):
        later = np.arange(turn // 2 + 1, min(turn, count - 1) + 1)
        pairs = turn - later, later
        for first, last in runs_with_returns(equal[pairs], returns[pairs]):
            yield Repetition("boomerang", int(later[first]), int(later[last]), turn=turn)


def runs_with_returns(equal: Mask, returns: Mask) -> Iterator[tuple[int, int]]:
    """Yield first and last index of each run of equal pairs with at least MIN_RETURNS returns."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    for first, end in edges.reshape(-1, 2).tolist():
        if returns[first:end].sum() >= MIN_RETURNS:
            yield first, end - 1
