"""Temporal consistency without any model: how little a clip changes beyond what moves.

Every one of these is best on a frozen or blurred clip, which is why each carries guards (motion, sharpness, frozen
frames): a gain that came with less motion is reported as confounded. None is comparable across different content.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.optical_flow import LEAST_SIDE
from vidguide.eval.metrics.sample import Sample

REFERENCE_SIDE = 256  # pixels of the short side to which lengths are scaled
LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709
MIN_SPECTRUM = 8  # frames; below, there is no upper half of a spectrum to speak of
WARPING: dict[str, Any] = dict(
    version="lai2018/dis-medium/fb+oob-mask/1",
    unit="mean squared error, frames in 0..1",
    low=0.0,
    high=1.0,
    better="lower",
    min_frames=2,
    guards=STEADINESS_GUARDS,
)


def known(values: list[float | None], what: str) -> np.ndarray:
    """The values that are there; UndefinedError where there are none."""
    there = np.array([value for value in values if value is not None])
    if not len(there):
        raise UndefinedError(f"nothing could be tracked between any two frames, so there is no {what}")
    return there


def check_side(sample: Sample) -> None:
    """UndefinedError for frames too small for optical flow."""
    side = min(sample.clip.frames.shape[1:3])
    if side < LEAST_SIDE:
        raise UndefinedError(f"frames of {side} pixels; optical flow needs {LEAST_SIDE}")


def per_short_side(sample: Sample) -> float:
    """Factor from pixels to pixels at a short side of 256."""
    return REFERENCE_SIDE / min(sample.clip.frames.shape[1:3])


@metric(id="temporal.warp_error", **WARPING)
def warp_error(sample: Sample) -> Value:
    """Mean squared difference between each frame and the next one warped to it by optical flow.

    Direction: lower is better. Range: 0 to 1; a still clip has 0, sensor-like noise of sigma 8 levels about 0.002.
    Unit: squared difference of pixel values in 0..1, mean over tracked pixels, channels and pairs.
    Fooled by: a frozen, stuttering or blurred clip scores better than a good one; as the flow comes from the clip
    itself, consistent garbage scores well; lossy compression hides noise.
    Source: Lai et al., Learning Blind Video Temporal Consistency, ECCV 2018 (their flow came from the input video);
    occlusions by forward-backward check, targets outside the frame left out, which their code does not do.
    """
    check_side(sample)
    errors = known(sample.motion.error, "warping error")
    return Value(value=float(errors.mean()), per_frame=sample.motion.error, details={"pairs": len(errors)})


@metric(id="temporal.warp_error_p95", **WARPING)
def warp_error_p95(sample: Sample) -> Value:
    """Warping error of the worst pairs of frames: the 95th percentile over pairs.

    Direction: lower is better. Range: 0 to 1. Unit: as temporal.warp_error.
    It finds what a mean hides: an object that appears at once, one flash. Fooled by: as temporal.warp_error, and
    scene cuts.
    Source: own reduction of Lai et al. 2018.
    """
    check_side(sample)
    errors = known(sample.motion.error, "warping error")
    return Value(value=float(np.quantile(errors, 0.95)), per_frame=sample.motion.error)


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
def flickering(sample: Sample) -> Value:
    """One minus the mean absolute difference of neighbouring frames: VBench's temporal_flickering, same formula.

    Direction: higher is better, by VBench's reading. Range: 0 to 1; a frozen clip has 1.
    Unit: share of the value range. Fooled by: all motion lowers it; VBench therefore applies it only to clips that
    pass its static filter, which is not applied here, so it is no VBench score of a moving clip.
    Source: VBench (Huang et al., CVPR 2024), temporal_flickering.py.
    """
    differences = frame_differences(sample)
    scores = 1 - differences / 255
    return Value(value=float(scores.mean()), per_frame=scores.tolist())


def frame_differences(sample: Sample) -> np.ndarray:
    """Mean absolute difference of neighbouring frames, in levels 0..255, `(F - 1,)`."""
    import cv2

    pairs = pairwise(sample.clip.frames)
    return np.array([cv2.absdiff(here, there).mean(dtype=np.float64) for here, there in pairs])


@metric(
    id="temporal.luma_flicker",
    version="bt709/linear-detrend/hann/above-fs4-rms/1",
    unit="luma levels (0..255), root mean square",
    low=0.0,
    high=255.0,
    better="lower",
    min_frames=MIN_SPECTRUM,
    guards=STEADINESS_GUARDS,
)
def luma_flicker(sample: Sample) -> Value:
    """Pumping of the exposure: root mean square of the mean brightness above a quarter of the frame rate.

    Direction: lower is better. Range: 0 to 255; brightness that alternates by plus and minus A has A; a linear fade 0.
    Unit: luma levels. The mean BT.709 luma of each frame, linear trend removed, Hann window, power above a quarter of
    the frame rate, corrected for the window. Fooled by: flicker of parts that cancel out; regular motion in and out
    of the frame. Source: flicker-meter practice; this normalisation is our own.
    """
    luma = np.array([frame.reshape(-1, 3).mean(0, dtype=np.float64) @ LUMA for frame in sample.clip.frames])
    spectrum, frequency = high_spectrum(luma)
    peak = float(frequency[spectrum.argmax()] * sample.clip.fps)
    rms = float(np.sqrt(spectrum.sum()))
    return Value(value=rms, per_frame=luma.tolist(), details={"peak_hz": peak if rms > 1e-9 else None})


def high_spectrum(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power (summing to the mean square) and frequency (cycles per sample) of what lies above 1/4 cycle per sample."""
    from scipy.signal import detrend
    from scipy.signal.windows import hann

    count = len(signal)
    window = hann(count, sym=False)
    amplitude = np.fft.fft(detrend(signal) * window)
    power = np.abs(amplitude) ** 2 / (count * (window**2).sum())
    frequency = np.abs(np.fft.fftfreq(count))
    high = frequency > 0.25
    return power[high], frequency[high]


@metric(
    id="temporal.flow_jerk",
    version="dis-medium/lagrangian/fastest-5%/1",
    unit="pixels per frame squared, at a short side of 256",
    low=0.0,
    high=float("inf"),
    better="lower",
    min_frames=3,
    guards=STEADINESS_GUARDS,
)
def flow_jerk(sample: Sample) -> Value:
    """Shaking and stuttering: how much the flow of what moves changes from one pair of frames to the next.

    Direction: lower is better. Range: from 0; even motion has 0, camera shake of 2 pixels about 4.
    Unit: pixels per frame squared, scaled to a short side of 256 (an acceleration; called jerk in stabilisation work).
    Measured along the path of the fastest 5% of the tracked pixels, so that a small object counts.
    Fooled by: motion that should speed up or bounce; cuts; frozen clips have 0. Source: video stabilisation; own form.
    """
    check_side(sample)
    scale = per_short_side(sample)
    values = [None if jerk is None else jerk * scale for jerk in sample.motion.jerk]
    return Value(value=float(known(values, "flow jerk").mean()), per_frame=values)
