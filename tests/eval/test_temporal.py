"""Each temporal metric on clips for which its value can be derived by hand."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.helpers import known_clips as clips
from vidguide.clip import Clip
from vidguide.eval.clips.read import read
from vidguide.eval.metrics.colours import LUMA, colours
from vidguide.eval.metrics.optical_flow import FlowStatistics, covariance, mean_at_largest, squared_difference
from vidguide.eval.metrics.registry import METRICS, select_metrics
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.temporal import high_spectrum
from vidguide.eval.metrics.warping import LOSS_TOLERANCE, MAX_USUAL_LOSS, MIN_VARIANCE, pair_errors

STEADY = ("temporal", "vbench", "guard")


def values(clip: Clip) -> dict[str, float | None]:
    sample = Sample(clip)
    metrics = [
        metric for metric in select_metrics(list(STEADY)) if metric.id.startswith(STEADY) and not metric.encoders
    ]
    return {metric.id: metric(sample).value for metric in metrics}


def value(name: str, clip: Clip) -> float:
    measured = METRICS[name](Sample(clip)).value
    assert measured is not None
    return measured


def test_constant_clip_is_perfectly_steady_and_frozen() -> None:
    steady = values(clips.constant())
    assert steady.pop("guard.stopped_share") is None
    assert steady.pop("temporal.periodicity") is None
    sharpness, detail = steady.pop("guard.sharpness"), steady.pop("guard.detail")
    assert sharpness is not None
    assert sharpness > 0
    grey = cv2.cvtColor(clips.constant().frames[0], cv2.COLOR_RGB2GRAY)
    assert detail == pytest.approx(sharpness / grey.var(), rel=1e-3)
    luma = clips.constant().frames[0] @ LUMA
    assert steady == pytest.approx(
        {
            "temporal.warp_error": 0,
            "temporal.warp_error_worst": 0,
            "temporal.breaks": 0,
            "vbench.temporal_flickering": 1,
            "temporal.luma_flicker": 0,
            "temporal.flow_jerk": 0,
            "guard.motion": 0,
            "temporal.track_consistency": 1,
            "temporal.identity_loss": 0,
            "guard.frozen_share": 1,
            "guard.object_motion": 0,
            "guard.tracked_share": 1,
            "guard.luma": luma.mean(),
            "guard.contrast": luma.std(),
            "guard.saturation": np.sqrt(((clips.constant().frames[0] - luma[..., None]) ** 2).mean()),
        },
        abs=1e-7,
        rel=1e-6,
    )


@pytest.mark.parametrize(("dx", "dy", "fps"), [(2, 1, 8.0), (1, 0, 8.0), (3, 2, 8.0), (2, 1, 24.0)])
def test_translation_has_its_speed_and_no_warping_error(dx: int, dy: int, fps: float) -> None:
    clip = clips.translation(side=96, dx=dx, dy=dy, fps=fps)
    speed = np.hypot(dx, dy) * 256 / 96 * fps / 8
    assert value("guard.motion", clip) == pytest.approx(speed, rel=0.06)  # the longest 5% err upwards by their choice
    assert value("temporal.warp_error", clip) < 3e-4
    assert value("temporal.flow_jerk", clip) < 0.3
    inside = (96 - dx) * (96 - dy) / 96**2
    assert value("guard.tracked_share", clip) == pytest.approx(
        inside, abs=0.03
    )  # a line at the border is lost to rounding
    assert value("guard.frozen_share", clip) == 0


def test_linear_fade_has_no_flicker() -> None:
    clip = clips.fade(5)
    assert value("temporal.luma_flicker", clip) == pytest.approx(0, abs=1e-9)
    assert value("temporal.warp_error", clip) == pytest.approx(5**2 / (2 * MIN_VARIANCE))
    assert value("vbench.temporal_flickering", clip) == pytest.approx(1 - 5 / 255)
    assert value("temporal.flow_jerk", clip) == 0


def test_single_flash_appears_in_the_worst_pairs_and_in_the_spectrum() -> None:
    clip = clips.flash(5)
    error = 5**2 / (2 * MIN_VARIANCE)
    assert value("temporal.warp_error_worst", clip) == pytest.approx(2 / 3 * error)
    assert value("temporal.warp_error", clip) == pytest.approx(2 / 11 * error)
    assert value("temporal.breaks", clip) == 1
    # An impulse at the window's top is white: 5 of 12 bins lie above a quarter of the rate; the Hann window's sum of
    # squares is 3/8 of 12 frames.
    assert value("temporal.luma_flicker", clip) == pytest.approx(5 * np.sqrt(5 / 12 / 4.5), rel=1e-6)


def test_alternating_brightness_has_its_amplitude() -> None:
    for amplitude in (2, 4, 8):
        clip = clips.alternating(amplitude)
        assert value("temporal.luma_flicker", clip) == pytest.approx(amplitude, rel=0.01)
        variance = clip.frames[0].var((0, 1)).mean()
        assert value("temporal.warp_error", clip) == pytest.approx((2 * amplitude) ** 2 / (2 * variance), rel=0.03)
    peak = METRICS["temporal.luma_flicker"](Sample(clips.alternating(8))).details["peak_hz"]
    assert peak == pytest.approx(4)  # half of 8 frames per second


def test_white_noise_has_its_expected_variance() -> None:
    clip = clips.noisy(10, clips.clip(np.full((12, 64, 64, 3), 128.0)))
    grey = 10**2 * (0.299**2 + 0.587**2 + 0.114**2)
    assert value("guard.sharpness", clip) == pytest.approx(20 * grey, rel=0.03)
    assert value("vbench.temporal_flickering", clip) == pytest.approx(1 - 2 * 10 / np.sqrt(np.pi) / 255, abs=1e-3)
    noisy = clips.noisy(8)
    variance = np.mean([frame.var((0, 1)).mean() for frame in noisy.frames])
    assert value("temporal.warp_error", noisy) == pytest.approx(8**2 / variance, rel=0.1)


def test_duplicated_frame_is_one_frozen_pair_and_a_jerk() -> None:
    clip = clips.duplicated()
    assert value("guard.frozen_share", clip) == pytest.approx(1 / 11)
    speed = np.hypot(2, 1) * 256 / 64
    # The flow falls to nothing, is doubled (the next frame is two steps away), and falls back: three of ten changes.
    assert value("temporal.flow_jerk", clip) == pytest.approx((speed + 2 * speed + speed) / 10, rel=0.1)


@pytest.mark.parametrize(
    ("name", "corrupted"),
    [
        ("temporal.warp_error", [clips.noisy(sigma) for sigma in (0, 4, 8, 16)]),
        ("temporal.warp_error", [clips.alternating(a, clips.translation()) for a in (0, 2, 4, 8)]),
        ("temporal.luma_flicker", [clips.alternating(a, clips.translation()) for a in (0, 2, 4, 8)]),
        ("temporal.flow_jerk", [clips.jittered(pixels) for pixels in (0, 1, 2, 3)]),
        ("temporal.warp_error_worst", [clips.flash(height) for height in (0, 1, 2, 4)]),
        ("guard.sharpness", [clips.clip(np.stack([clips.texture(64, 64, blur=b)] * 2)) for b in (8, 4, 2, 1)]),
    ],
    ids=["noise", "flicker", "luma", "jitter", "flash", "blur"],
)
def test_metric_increases_with_corruption(name: str, corrupted: list[Clip]) -> None:
    measured = [value(name, clip) for clip in corrupted]
    assert all(later > earlier for earlier, later in pairwise(measured)), measured


def test_detail_distinguishes_noise_from_blur() -> None:
    clip = clips.translation(side=96)
    sharp = value("guard.detail", clip)
    assert value("guard.detail", clips.noisy(6, clip)) == pytest.approx(sharp, rel=0.05)
    blurred = Clip(frames=np.stack([cv2.GaussianBlur(frame, (0, 0), 0.6) for frame in clip.frames]), fps=8)
    assert value("guard.detail", blurred) < 0.85 * sharp
    pale = Clip(frames=(128 + (clip.frames.astype(int) - 128) // 2).astype(np.uint8), fps=8)
    assert value("guard.detail", pale) == pytest.approx(sharp, rel=0.1)  # another contrast, coarser steps
    assert value("guard.sharpness", clips.noisy(6, clip)) > 2 * value("guard.sharpness", clip)


def with_flash(frames: np.ndarray, first: int, length: int) -> np.ndarray:
    changed = frames.copy()
    changed[first : first + length] = 255 - changed[first : first + length] // 2
    return changed


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("sigma", [0, 6])
def test_breaks_name_their_frames(length: int, sigma: float) -> None:
    frames = clips.noisy(sigma, clips.translation(frames=24)).frames
    other = clips.noisy(sigma, clips.clip(np.stack([clips.texture(64, 64, seed=8)] * 8))).frames
    changed = np.concatenate([with_flash(frames, 5, length), other])
    measured = METRICS["temporal.breaks"](Sample(Clip(frames=changed, fps=8)))
    flash = {"kind": "flash", "frames": tuple(range(5, 5 + length))}
    assert measured.details["breaks"] == [flash, {"kind": "cut", "frames": (24,)}]
    assert measured.value == 2
    assert value("temporal.breaks", Clip(frames=frames, fps=8)) == 0


@pytest.mark.parametrize("sigma", [1, 4, 16, 60])
def test_noise_pumping_and_uneven_motion_are_no_breaks(sigma: float) -> None:
    for clip in (clips.translation(), clips.jittered(1), clips.alternating(6), clips.duplicated()):
        assert value("temporal.breaks", clips.noisy(sigma, clip)) == 0


def test_one_flash_or_cut_of_81_frames_raises_the_worst_pairs() -> None:
    frames = clips.noisy(4, clips.translation(frames=81)).frames
    cut = np.concatenate([frames[:40], frames[40:, ::-1]])
    black = frames.copy()
    black[40] = 0
    steady = value("temporal.warp_error_worst", Clip(frames=frames, fps=8))
    for changed in (with_flash(frames, 40, 1), cut, black):
        assert value("temporal.warp_error_worst", Clip(frames=changed, fps=8)) > 10 * steady


@pytest.mark.parametrize(("factor", "offset"), [(0.5, 0), (0.7, 20), (1, 30), (1.3, -60)])
def test_warping_error_is_invariant_to_gain_and_offset(factor: float, offset: float) -> None:
    clip = clips.noisy(6, clips.translation(side=96))
    changed = clips.clip(128 + factor * (clip.frames - 128.0) / 1.5 + offset)
    plain = clips.clip(128 + (clip.frames - 128.0) / 1.5)
    assert value("temporal.warp_error", changed) == pytest.approx(value("temporal.warp_error", plain), rel=0.02)


def test_pair_errors_equal_the_plain_formula() -> None:
    random = np.random.default_rng()
    variance, error, lost_error = random.uniform(100, 2000, 13), random.uniform(0, 900, 12), random.uniform(0, 4000, 12)
    lost = random.uniform(0, 0.6, 12)
    tracked = (1 - lost) * random.uniform(0.5, 1, 12)
    tracked[4] = 0.001
    errors = pair_errors(
        FlowStatistics(
            variance=variance.tolist(),
            error=[None if t == 4 else value for t, value in enumerate(error.tolist())],
            tracked=tracked.tolist(),
            lost=lost.tolist(),
            lost_error=lost_error.tolist(),
        )
    )
    total = weights = 0.0
    for t in range(12):
        around = [lost[min(max(i, 0), 11)] for i in range(t - 2, t + 3)]
        excess = max(0.0, lost[t] - min(float(np.median(around)), MAX_USUAL_LOSS) - LOSS_TOLERANCE)
        unrelated = 2 * max((variance[t] + variance[t + 1]) / 2, 0.1 * np.median(variance), MIN_VARIANCE)
        part = tracked[t] * min(error[t] / unrelated, 1) + excess * min(lost_error[t] / unrelated, 1)
        part, weight = (1.0, 1.0) if t == 4 else (part, tracked[t] + excess)
        total, weights = total + part, weights + weight
        assert errors.error[t] == pytest.approx(part / weight, rel=1e-12)
    assert errors.mean() == pytest.approx(total / weights, rel=1e-12)


def test_colours_equal_their_definition() -> None:
    frames = np.random.default_rng().integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    measured, luma = colours(frames), frames @ LUMA
    np.testing.assert_allclose(measured.luma, luma.mean((1, 2)), rtol=1e-12)
    assert colours(np.full((1, 20, 30, 3), 77, np.uint8)).contrast == 0
    np.testing.assert_allclose(measured.contrast, luma.std((1, 2)), rtol=1e-12)
    chroma = frames - luma[..., None]
    np.testing.assert_allclose(measured.saturation, np.sqrt((chroma**2).mean((1, 2, 3))), rtol=1e-12)


def test_shuffling_degrades_and_reversal_preserves_metrics() -> None:
    clip = clips.translation()
    order = np.random.default_rng(0).permutation(len(clip.frames))
    shuffled, reverse = (Clip(frames=clip.frames[index], fps=8) for index in (order, np.arange(12)[::-1]))
    assert value("guard.tracked_share", shuffled) < 0.7 * value("guard.tracked_share", clip)
    assert value("temporal.warp_error", shuffled) > 10 * value("temporal.warp_error", clip)
    assert value("vbench.temporal_flickering", reverse) == pytest.approx(value("vbench.temporal_flickering", clip))
    assert value("guard.motion", reverse) == pytest.approx(value("guard.motion", clip), rel=0.03)


def test_lossless_file_preserves_and_lossy_file_nearly_preserves_metrics(tmp_path: Path) -> None:
    clip = clips.noisy(3, clips.translation(side=96))
    stored = values(read(clip.save(tmp_path / "clip.mkv")))
    assert stored == pytest.approx(values(clip), rel=1e-6)  # sums of the flow vary in the eleventh digit
    viewed = read(clip.save(tmp_path / "clip.mp4"))  # crf 12, enlarged by whole numbers: lengths are per short side
    assert value("guard.motion", viewed) == pytest.approx(value("guard.motion", clip), rel=0.05)
    assert value("vbench.temporal_flickering", viewed) == pytest.approx(
        value("vbench.temporal_flickering", clip), abs=0.01
    )


def test_upscaling_by_integers_preserves_motion_and_flicker() -> None:
    clip = clips.translation(side=96)
    large = Clip(frames=clip.frames.repeat(2, 1).repeat(2, 2), fps=8)
    assert value("vbench.temporal_flickering", large) == pytest.approx(value("vbench.temporal_flickering", clip))
    assert value("guard.frozen_share", large) == value("guard.frozen_share", clip)
    assert value("guard.motion", large) == pytest.approx(value("guard.motion", clip), rel=0.03)
    pumping = clips.alternating(4, clip)
    twice = Clip(frames=pumping.frames.repeat(2, 1).repeat(2, 2), fps=8)
    assert value("temporal.luma_flicker", twice) == pytest.approx(value("temporal.luma_flicker", pumping))


def test_undefined_metric_is_none_with_a_reason() -> None:
    single = Sample(Clip(frames=clips.constant().frames[:1], fps=8))
    for name, metric in METRICS.items():
        measured = metric(single)
        if name not in ("guard.sharpness", "guard.luma", "guard.contrast", "guard.saturation"):
            assert measured.value is None, name
            assert measured.reason, name
    small = METRICS["temporal.warp_error"](Sample(Clip(frames=np.zeros((4, 8, 8, 3), np.uint8), fps=8)))
    assert "16" in str(small.reason)
    short = METRICS["temporal.luma_flicker"](Sample(Clip(frames=clips.constant().frames[:7], fps=8)))
    assert "needs 8" in str(short.reason)


def test_every_metric_has_a_complete_description() -> None:
    for metric in METRICS.values():
        for word in ("Direction:", "Range:", "Unit:", "Fooled by:", "Source:"):
            assert word in metric.description, f"{metric.id} lacks {word}"
        assert metric.version
        assert metric.low < metric.high
        assert {guard.id for guard in metric.guards} <= set(METRICS) | {"clip.frame_cosine"}


def test_selected_metrics_include_their_guards() -> None:
    selected = {metric.id for metric in select_metrics(["temporal.warp_error"])}
    motion = ("motion", "detail", "frozen_share", "stopped_share", "object_motion", "tracked_share")
    names = (*motion, "contrast", "luma", "saturation")
    guards = {*(f"guard.{name}" for name in names), "temporal.breaks", "temporal.flow_jerk", "world.well_formed"}
    assert selected == {"temporal.warp_error", "temporal.periodicity", *guards}
    with pytest.raises(ValueError, match="metrics='fid'"):
        select_metrics(["fid"])


def test_motion_is_per_second_at_a_variable_rate() -> None:
    clip = clips.translation(fps=8)
    times = np.cumsum([0, *[0.25, 0.125] * 6])[:12]
    uneven = Clip(frames=clip.frames, fps=8, provenance={"times": times.tolist()})
    share = np.mean(0.125 / np.diff(times))
    assert value("guard.motion", uneven) == pytest.approx(share * value("guard.motion", clip), rel=0.02)


@pytest.mark.parametrize("count", [8, 9, 48, 81])
def test_high_spectrum_equals_the_plain_fourier_transform(count: int) -> None:
    signal = np.random.default_rng().normal(128, 20, count)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / count)
    slope, intercept = np.polyfit(np.arange(count), signal, 1)
    amplitude = np.fft.fft((signal - slope * np.arange(count) - intercept) * window)
    frequency = np.abs(np.fft.fftfreq(count))
    expected = (np.abs(amplitude) ** 2 / (count * (window**2).sum()))[frequency > 0.25]
    power, high = high_spectrum(signal)
    np.testing.assert_allclose(power, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(high, frequency[frequency > 0.25])


@pytest.mark.parametrize("levels", [3, 40, 10**6])
@pytest.mark.parametrize("size", [1, 30, 5000])
def test_mean_at_largest_averages_over_equal_keys(size: int, levels: int) -> None:
    random = np.random.default_rng()
    keys, values = random.integers(0, levels, size).astype(np.float32), random.normal(size=size).astype(np.float32)
    count = max(round(0.05 * size), 1)
    least = np.sort(keys)[-count]
    above, equal = keys > least, keys == least
    weights = above + equal * (count - above.sum()) / equal.sum()
    assert mean_at_largest(values, keys) == pytest.approx((weights * values).sum() / count, rel=1e-6)
    order = random.permutation(size)
    assert mean_at_largest(values[order], keys[order]) == pytest.approx(mean_at_largest(values, keys), rel=1e-6)
    assert mean_at_largest(keys, keys) == pytest.approx(np.sort(keys)[-count:].mean(dtype=np.float64))


def test_masked_means_equal_their_definition_in_float64() -> None:
    random = np.random.default_rng()
    first, second = random.normal(size=(2, 3, 40, 50)).astype(np.float32)
    mask = random.random((40, 50)) < 0.7
    expected = ((first.astype(float) - second) ** 2)[:, mask].mean()
    assert squared_difference(list(first), list(second), mask) == pytest.approx(expected, rel=1e-6)
    assert squared_difference(list(first), list(second), np.zeros_like(mask)) == 0
    product = first[0].astype(float) * (first[0] + second[0])
    assert covariance(first[0], first[0] + second[0], mask) == pytest.approx(
        np.where(mask, product, 0).mean(), rel=1e-5
    )
