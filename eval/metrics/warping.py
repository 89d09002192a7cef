"""The warping error of pairs of frames, and sudden breaks in it, from the statistics of the optical flow.

The error of a pair is the squared error of the warped frame relative to that of unrelated frames of the same contrast,
which is twice the variance over pixels. A gain or an offset of all frames therefore cancels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.metrics.optical_flow import MIN_TRACKED, FlowStatistics, flow_statistics

MIN_VARIANCE = 16.0  # levels squared: a frame with a contrast below 4 levels counts as having 4
MIN_RELATIVE_VARIANCE = 0.1  # of the clip's median: the same for the dark end of a fade
WINDOW = 5  # pairs: a share of lost pixels or an error is usual if it is their median
MAX_USUAL_LOSS = 0.5  # of pixels; a larger share counts as lost in excess everywhere
LOSS_TOLERANCE = 0.01  # of pixels; occlusions vary by as much
BREAK, BREAK_RATIO = 0.1, 5.0  # error of a break: at least this, and this many times the usual one
MAX_FLASH = 3  # frames

Values = NDArray[np.float64]


@dataclass(frozen=True)
class PairErrors:
    """Relative error and weight of each pair `(F - 1,)`; the error is 0 for a perfect prediction and 1 for none."""

    error: Values
    weight: Values

    def mean(self) -> float:
        """Return the weighted mean over pairs."""
        return float(np.average(self.error, weights=self.weight))


@dataclass(frozen=True)
class Break:
    """A sudden change: a cut at the first frame of the new shot, or a flash of up to three frames."""

    kind: str
    frames: tuple[int, ...]


def warping_error(frames: NDArray[np.uint8]) -> float:
    """Return the warping error of a clip `(F, H, W, 3)`."""
    return pair_errors(flow_statistics(frames)).mean()


def pair_errors(flow: FlowStatistics) -> PairErrors:
    """Return the error of each pair.

    Tracked pixels count with their relative error of at most 1, and so do pixels that are lost in excess of the
    neighbouring pairs: a box, a flash or a cut that hides pixels does not lower the error. The weight is the share of
    both. A pair with less than 1% of tracked pixels has the error and the weight 1.
    """
    tracked, excess = np.array(flow.tracked), excess_loss(flow)
    unrelated = 2 * pair_variance(flow)
    errors = np.array([0.0 if error is None else error for error in flow.error])
    tracked_error, lost_error = (np.minimum(part / unrelated, 1) for part in (errors, np.array(flow.lost_error)))
    weight = np.maximum(tracked + excess, MIN_TRACKED)
    mean = (tracked * tracked_error + excess * lost_error) / weight
    untrackable = tracked < MIN_TRACKED
    return PairErrors(np.where(untrackable, 1.0, mean), np.where(untrackable, 1.0, weight))


def pair_variance(flow: FlowStatistics) -> Values:
    """Return the mean variance of the two frames of each pair; a low one is raised to a share of the clip's median."""
    variance = np.array(flow.variance)
    lowest = max(MIN_VARIANCE, MIN_RELATIVE_VARIANCE * float(np.median(variance)))
    return np.maximum((variance[:-1] + variance[1:]) / 2, lowest)


def excess_loss(flow: FlowStatistics) -> Values:
    """Return the share of pixels `(F - 1,)` lost in excess of the median of the neighbouring pairs."""
    lost = np.array(flow.lost)
    return np.maximum(lost - np.minimum(local_median(lost), MAX_USUAL_LOSS) - LOSS_TOLERANCE, 0)


def local_median(values: Values) -> Values:
    """Return the median of each value and its neighbours in a window of 5; the ends are repeated."""
    padded = np.pad(values, WINDOW // 2, mode="edge")
    median: Values = np.median(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=-1)
    return median


def find_breaks(frames: NDArray[np.uint8], errors: PairErrors) -> list[Break]:
    """Return the cuts and flashes of a clip `(F, H, W, 3)` with the errors of its pairs."""
    usual = np.maximum(local_median(errors.error) * BREAK_RATIO, BREAK)
    pending, breaks = [int(pair) for pair in np.flatnonzero(errors.error >= usual)], []
    while pending:
        first = pending.pop(0)
        if pending and is_flash(frames, errors, first, pending[0]):
            breaks.append(Break("flash", tuple(range(first + 1, pending.pop(0) + 1))))
        else:
            breaks.append(Break("cut", (first + 1,)))
    return breaks


def is_flash(frames: NDArray[np.uint8], errors: PairErrors, first: int, last: int) -> bool:
    """Return whether the few frames between two breaks (pair numbers) differ from both sides, which are alike."""
    if last - first > MAX_FLASH:
        return False
    return warping_error(frames[[first, last + 1]]) < min(errors.error[first], errors.error[last]) / 2
