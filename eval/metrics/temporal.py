"""Temporal consistency without a model: how little a clip changes other than by motion.

All of these metrics are best for a frozen or blurred clip. Therefore each has guards (motion, sharpness, frozen
frames, contrast and so on): an improvement that came with less motion is reported as confounded. They cannot be
compared across different content.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.optical_flow import FLOW, MIN_SIDE
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.warping import find_breaks

REFERENCE_SIDE = 256  # pixels of the short side to which lengths are scaled
WORST_PAIRS = 3
MIN_FRAMES_SPECTRUM = 8  # with fewer frames the upper half of the spectrum has too few bins
WARPING: dict[str, Any] = dict(
    version=f"relative/{FLOW}/fb+oob-mask/excess-loss/2",
    unit="squared error relative to unrelated frames",
    low=0.0,
    high=1.0,
    better="lower",
    min_frames=2,
    guards=STEADINESS_GUARDS,
)


def defined_values(values: Sequence[float | None], quantity: str) -> np.ndarray:
    """Return the values that are not None.

    Raises:
        UndefinedError: all are None.
    """
    defined = np.array([value for value in values if value is not None])
    if not len(defined):
        raise UndefinedError(f"no pair of frames has enough tracked pixels, so there is no {quantity}")
    return defined


def check_frame_size(sample: Sample) -> None:
    """Raise UndefinedError for frames too small for optical flow."""
    side = min(sample.clip.frames.shape[1:3])
    if side < MIN_SIDE:
        raise UndefinedError(f"frames of {side} pixels; optical flow needs {MIN_SIDE}")


def length_scale(sample: Sample) -> float:
    """Return the factor from pixels to pixels at a short side of 256."""
    return REFERENCE_SIDE / min(sample.clip.frames.shape[1:3])


@metric(id="temporal.warp_error", **WARPING)
def warp_error(sample: Sample) -> Value:
    """Measure the squared difference of each frame and the next one warped to it, relative to unrelated frames.

    Direction: lower is better. Range: 0 to 1; a still clip has 0, a clip of unrelated frames nearly 1.
    Unit: mean squared difference over tracked pixels and channels, divided by twice the variance over pixels, so that a
    change of contrast or brightness has no effect; mean over pairs, weighted by the share of tracked pixels. Pixels
    lost in excess of the neighbouring pairs count too; a pair with less than 1% of tracked pixels has 1.
    Fooled by: a frozen, stuttering or blurred clip scores better than a good one, hence the guards; consistent garbage
    scores well, because the flow is estimated from the clip itself; lossy compression hides noise; still patterns of
    high contrast raise the variance.
    Source: Lai et al., Learning Blind Video Temporal Consistency, ECCV 2018 (with flow from the input video);
    occlusions by forward-backward check; targets outside the frame are excluded, which their code does not do; the
    normalisation is specific to vidguide.
    """
    check_frame_size(sample)
    errors = sample.pair_errors
    return Value(value=errors.mean(), per_frame=errors.error.tolist(), details={"weights": errors.weight.tolist()})


@metric(id="temporal.warp_error_worst", **WARPING)
def warp_error_worst(sample: Sample) -> Value:
    """Measure the warping error of the worst pairs of frames: the mean of the three largest errors.

    Direction: lower is better. Range: 0 to 1. Unit: as temporal.warp_error, without weights.
    It detects what a mean hides: an object that appears suddenly, a single flash, a cut. Fooled by: as
    temporal.warp_error; more pairs have larger worst errors, so compare clips of one length.
    Source: as temporal.warp_error; the mean of the worst pairs is specific to vidguide.
    """
    check_frame_size(sample)
    errors = sample.pair_errors.error
    return Value(value=float(np.sort(errors)[-WORST_PAIRS:].mean()), per_frame=errors.tolist())


@metric(
    id="temporal.breaks",
    version=f"relative/{FLOW}/error-0.1/5-times-median/1",
    unit="cuts and flashes",
    low=0.0,
    high=float("inf"),
    better="lower",
    min_frames=3,
    guards=STEADINESS_GUARDS,
)
def breaks(sample: Sample) -> Value:
    """Count the cuts and flashes: pairs with a warping error of at least 0.1 and five times the usual one.

    Direction: lower is better. Range: from 0; a flash of up to three frames counts once. Unit: breaks per clip; the
    details name the frames, counted from 0: the first of a new shot, those of a flash. The usual error is the median of
    the five pairs around. Fooled by: faint flashes, changes of a small region, dissolves; intended cuts count, and so
    does a jump of the camera that the flow cannot follow.
    Source: specific to vidguide.
    """
    check_frame_size(sample)
    events = find_breaks(sample.clip.frames, sample.pair_errors)
    return Value(value=float(len(events)), details={"breaks": [asdict(event) for event in events]})


@metric(
    id="vbench.temporal_flickering",
    version="vbench/temporal_flickering/1",
    unit="1 - mean absolute difference / 255",
    low=0.0,
    high=1.0,
    better="higher",
    min_frames=2,
    guards=STEADINESS_GUARDS,
)
def temporal_flickering(sample: Sample) -> Value:
    """Compute VBench's temporal_flickering: one minus the mean absolute difference of neighbouring frames.

    Direction: higher is better, according to VBench. Range: 0 to 1; a frozen clip has 1.
    Unit: share of the value range. Fooled by: any motion lowers it; VBench therefore applies it only to clips that
    pass its static filter, which is not applied here, so for a moving clip it is not a VBench score.
    Source: VBench (Huang et al., CVPR 2024), temporal_flickering.py.
    """
    scores = 1 - sample.frame_differences / 255
    return Value(value=float(scores.mean()), per_frame=scores.tolist())


@metric(
    id="temporal.luma_flicker",
    version="bt709/linear-detrend/hann/above-fs4-rms/1",
    unit="luma levels (0..255), root mean square",
    low=0.0,
    high=255.0,
    better="lower",
    min_frames=MIN_FRAMES_SPECTRUM,
    guards=STEADINESS_GUARDS,
)
def luma_flicker(sample: Sample) -> Value:
    """Measure exposure pumping: root mean square of the mean brightness above a quarter of the frame rate.

    Direction: lower is better. Range: 0 to 255; brightness alternating by plus and minus A has A; a linear fade has 0.
    Unit: luma levels. The mean BT.709 luma of each frame, linear trend removed, Hann window, power above a quarter of
    the frame rate, corrected for the window. Fooled by: flicker of regions that cancels in the mean; periodic motion
    into and out of the frame. Source: flicker meters; the normalisation is specific to vidguide.
    """
    luma = sample.colours.luma
    power, frequency = high_spectrum(luma)
    peak = float(frequency[power.argmax()] * sample.clip.fps)
    rms = float(np.sqrt(power.sum()))
    return Value(value=rms, per_frame=luma.tolist(), details={"peak_hz": peak if rms > 1e-9 else None})


def high_spectrum(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two-sided spectrum above 1/4 cycle per sample, after removal of the linear trend and a Hann window.

    Args:
        signal: `(N,)` samples.

    Returns:
        power, which over all frequencies sums to the mean square, and frequency in cycles per sample.
    """
    from scipy.signal import periodogram

    frequency, density = periodogram(signal, window="hann", detrend="linear", return_onesided=False)
    high = np.abs(frequency) > 0.25
    return density[high] / len(signal), np.abs(frequency)[high]


@metric(
    id="temporal.flow_jerk",
    version=f"{FLOW}/lagrangian/fastest-5%/3",
    unit="pixels per frame squared, at a short side of 256",
    low=0.0,
    high=float("inf"),
    better="lower",
    min_frames=3,
    guards=STEADINESS_GUARDS,
)
def flow_jerk(sample: Sample) -> Value:
    """Measure shaking and stuttering: how much the flow of the fastest pixels changes from one pair to the next.

    Direction: lower is better. Range: from 0; uniform motion has 0, camera shake of 2 pixels about 4.
    Unit: pixels per frame squared, scaled to a short side of 256 (an acceleration; video stabilisation calls it jerk).
    Measured along the path of the fastest 5% of the tracked pixels, so that a small object counts; pixels of equal
    speed count alike.
    Fooled by: motion that should accelerate or bounce; cuts; frozen clips have 0. Source: video stabilisation; this
    form is specific to vidguide.
    """
    check_frame_size(sample)
    scale = length_scale(sample)
    values = [None if jerk is None else jerk * scale for jerk in sample.flow.jerk]
    return Value(value=float(defined_values(values, "flow jerk").mean()), per_frame=values)
