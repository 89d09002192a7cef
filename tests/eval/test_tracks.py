"""Tracks of points and the metrics on them, on clips whose motion is known."""

import cv2
import numpy as np
import pytest

from tests.helpers import known_clips as clips
from tests.helpers.known_clips import texture
from tests.helpers.tiny_vision_models import make_dino, save_processors
from vidguide.clip import Clip
from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.encoders.load import load
from vidguide.eval.metrics.appearance import PATCH, normalized_patches
from vidguide.eval.metrics.motion_histogram import motion_histogram
from vidguide.eval.metrics.point_tracks import check_tracks, interpolation_errors, percentile_of_defined, velocities
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.tracks import BORDER, Tracks, find_tracks
from vidguide.eval.world.scene import Scene, render

SCENE = Scene(size="large", colour="red", shape="circle", motion="left", background="grey")
TRACK_METRICS = ("temporal.track_consistency", "temporal.identity_loss", "guard.stopped_share", "guard.object_motion")


def value(name: str, clip: Clip) -> float:
    measured = METRICS[name](Sample(clip)).value
    assert measured is not None
    return measured


def tiny_object(stop: int = 16, pan: int = 0) -> Clip:
    """Return an object of 5 x 5 pixels that moves by (3, 1) a frame over a texture, up to a frame."""
    surroundings, frames = texture(96, 96 + 16 * pan, 5), []
    for t in range(16):
        frame, step = surroundings[:, pan * t : pan * t + 96].copy(), min(t, stop)
        frame[30 + step : 35 + step, 20 + 3 * step : 25 + 3 * step] = 250
        frames.append(frame)
    return clips.clip(np.stack(frames) + np.random.default_rng(0).normal(0, 1, (16, 96, 96, 3)))


def turned(attribute: str, other: str) -> Clip:
    """Return a rendered scene of which an attribute changes in the middle."""
    first, second = (render(scene, np.random.default_rng(0)) for scene in (SCENE, changed(attribute, other)))
    return Clip(frames=np.concatenate([first[:7], second[7:]]), fps=8)


def changed(attribute: str, other: str) -> Scene:
    return Scene(**{**vars(SCENE), attribute: other})


@pytest.mark.parametrize(("dx", "dy"), [(2, 1), (3, 2), (1, 0)])
def test_points_of_a_translation_move_with_it_and_leave_the_frame(dx: int, dy: int) -> None:
    tracks = find_tracks(clips.translation(side=128, dx=dx, dy=dy).frames)
    assert tracks.scale == 2
    assert len(tracks.starts) > 200
    assert set(tracks.starts) == {0, 6, 11}
    errors = np.linalg.norm(velocities(tracks) / tracks.scale - [-dx, -dy], axis=-1)
    assert np.nanmedian(errors) < 0.02
    assert np.nanpercentile(errors, 98) < 0.2
    assert tracks.inside.mean() < 1
    assert (tracks.tracked <= tracks.inside).all()
    assert tracks.tracked.sum() / tracks.inside.sum() > 0.98
    inside = tracks.positions[tracks.tracked]
    assert inside.min() >= BORDER
    assert inside.max() <= 127 - BORDER


def test_large_frames_are_shrunk_and_lengths_scaled() -> None:
    clip = clips.translation(frames=8, side=192, dx=4, dy=2)
    large = np.stack([cv2.resize(frame, (576, 576), interpolation=cv2.INTER_CUBIC) for frame in clip.frames])
    speeds = [np.nanmedian(np.linalg.norm(velocities(find_tracks(frames)), axis=-1)) for frames in (clip.frames, large)]
    assert speeds == pytest.approx([np.hypot(4, 2) * 256 / 192] * 2, rel=0.01)


def test_tracks_of_a_clip_played_backward_are_reversed() -> None:
    clip = clips.noisy(4, clips.translation(frames=11, side=96))
    reverse = Clip(frames=np.ascontiguousarray(clip.frames[::-1]), fps=8)
    for name in TRACK_METRICS:
        assert value(name, reverse) == pytest.approx(value(name, clip), abs=1e-3)


def test_interpolation_is_exact_for_cubic_motion_and_needs_five_frames() -> None:
    time, random = np.arange(9.0), np.random.default_rng(0)
    powers = np.stack([time**power for power in range(4)], -1)
    positions = (powers @ random.normal(size=(6, 4, 2)) * 0.1).astype(np.float64)
    tracked = np.ones((6, 9), bool)
    tracked[0, 5:] = False
    tracks = Tracks(positions, tracked, np.ones((6, 9), bool), np.zeros(6, int), scale=2.0)  # type: ignore[arg-type]
    errors = interpolation_errors(tracks)
    assert errors[1:, 2:-2] == pytest.approx(np.zeros((5, 5)), abs=1e-9)
    assert np.isnan(errors[:, [0, 1, 7, 8]]).all()
    assert np.isfinite(errors[0]).nonzero()[0].tolist() == [2]
    positions[3, 4] += [0.3, 0.4]
    assert interpolation_errors(tracks)[3, 4] == pytest.approx(2 * 0.5)
    assert interpolation_errors(tracks)[3, 3] == pytest.approx(2 * 0.5 * 4 / 6)


def test_known_clips_have_the_values_that_follow_from_their_motion() -> None:
    assert value("temporal.track_consistency", clips.constant()) == 1
    assert value("temporal.identity_loss", clips.constant()) == pytest.approx(0, abs=1e-6)
    assert value("guard.object_motion", clips.constant()) == 0
    assert value("temporal.track_consistency", clips.translation()) > 0.99
    assert value("temporal.identity_loss", clips.translation()) < 0.005
    assert value("guard.object_motion", clips.translation()) < 0.1
    assert value("guard.stopped_share", clips.translation()) == 0
    assert value("guard.stopped_share", clips.duplicated()) == pytest.approx(1 / 11, abs=0.02)
    assert METRICS["guard.stopped_share"](Sample(clips.constant())).reason == "no tracked point moves"


def test_consistency_falls_and_identity_loss_rises_with_corruption() -> None:
    shaken = [value("temporal.track_consistency", clips.jittered(pixels)) for pixels in (0, 1, 2)]
    assert shaken[0] > shaken[1] > shaken[2]
    noisy = [value("temporal.identity_loss", clips.noisy(sigma)) for sigma in (0, 10, 40)]
    assert noisy[0] < noisy[1] < noisy[2]


@pytest.mark.parametrize(("attribute", "other"), [("shape", "square"), ("shape", "triangle"), ("colour", "blue")])
def test_object_that_turns_into_another_one_loses_its_identity(attribute: str, other: str) -> None:
    steady = Clip(frames=render(SCENE, np.random.default_rng(0)), fps=8)
    assert value("temporal.identity_loss", steady) < 0.005
    result = METRICS["temporal.identity_loss"](Sample(turned(attribute, other)))
    assert result.value is not None
    assert result.value > 0.1
    assert result.details["largest_change_at_frame"] == 7


def test_gain_and_offset_are_no_change_of_appearance() -> None:
    image = texture(64, 64, 1).astype(np.float32)
    points = np.random.default_rng(0).uniform(10, 50, (30, 2)).astype(np.float32)
    patches = normalized_patches(image, points)
    assert np.linalg.norm(patches, axis=1) == pytest.approx(np.ones(30), abs=1e-5)
    np.testing.assert_allclose(normalized_patches(0.6 * image + 20, points), patches, atol=1e-4)
    x, y = points[0].astype(int)
    whole = normalized_patches(image, np.array([[x, y]], np.float32)).reshape(3, PATCH, PATCH).transpose(1, 2, 0)
    expected = image[y - 7 : y + 8, x - 7 : x + 8] - image[y - 7 : y + 8, x - 7 : x + 8].mean((0, 1))
    np.testing.assert_allclose(whole, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("stop", [0, 8])
def test_tiny_object_that_freezes_is_seen_by_the_guards(stop: int) -> None:
    moving = value("guard.object_motion", tiny_object())
    assert moving == pytest.approx(np.hypot(3, 1) * 256 / 96, rel=0.15)
    assert value("guard.object_motion", tiny_object(stop)) < (0.1 if stop == 0 else 0.7) * moving
    if stop:
        assert value("guard.stopped_share", tiny_object(stop)) > value("guard.stopped_share", tiny_object()) + 0.2


@pytest.mark.parametrize("sigma", [0, 2])
def test_frames_repeated_by_a_conversion_of_the_rate_count_as_stops(sigma: float) -> None:
    clip = clips.translation(frames=16, side=96)
    repeated = Clip(frames=clip.frames[np.arange(24) * 2 // 3], fps=12)
    assert value("guard.stopped_share", clips.noisy(sigma, repeated)) == pytest.approx(8 / 23, abs=0.05)


@pytest.mark.parametrize("percent", [0, 37.5, 90, 100])
def test_percentile_of_defined_equals_that_of_numpy(percent: float) -> None:
    random = np.random.default_rng()
    values = np.where(random.random((50, 12)) < 0.4, np.nan, random.normal(size=(50, 12)))
    values[:, 3] = 1.5
    expected = np.nanpercentile(values, percent, axis=1)
    np.testing.assert_allclose(percentile_of_defined(values, percent), expected, rtol=1e-12)
    assert percentile_of_defined(values[:0], percent).shape == (0,)


def test_histogram_equals_the_plainest_implementation() -> None:
    random = np.random.default_rng(3)
    positions = random.uniform(0, 64, (20, 9, 2)).astype(np.float32)
    tracked = random.random((20, 9)) < 0.8
    tracks = Tracks(positions, tracked, np.ones((20, 9), bool), np.zeros(20, int), scale=4.0)
    expected = np.zeros((2, 2, 2, 2, 8))
    counts = np.zeros((2, 2, 2, 2))
    for point in range(20):
        for t in range(1, 9):
            p = positions[point].astype(float) * 4
            for order in (0, 1):
                span = range(t - 1 - order, t + 1)
                if span.start < 0 or not tracked[point, list(span)].all():
                    continue
                vector = p[t] - p[t - 1] if order == 0 else p[t] - 2 * p[t - 1] + p[t - 2]
                cell = (order, t * 2 // 9, int(positions[point, t, 1] >= 32), int(positions[point, t, 0] >= 32))
                angle = int((np.arctan2(vector[1], vector[0]) + np.pi) / (np.pi / 4)) % 8
                expected[(*cell, angle)] += np.log2(1 + min(np.hypot(*vector), 255)) / 8
                counts[cell] += 1
    np.testing.assert_allclose(motion_histogram(tracks, (64, 64)), (expected / counts[..., None]).ravel(), rtol=1e-6)


def test_clips_without_corners_or_long_tracks_have_no_value() -> None:
    for name in TRACK_METRICS:
        assert METRICS[name](Sample(clips.fade(5))).reason == "no frame has a corner that could be tracked"
    with pytest.raises(UndefinedError, match="16"):
        check_tracks(Sample(clips.translation(side=12)))
    unrelated = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    assert value("temporal.track_consistency", Clip(frames=unrelated, fps=8)) < 0.1
    assert value("temporal.identity_loss", Clip(frames=unrelated, fps=8)) > 0.9


def test_dino_identity_equals_a_direct_use_of_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    import torch

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    make_dino().save_pretrained(folder)  # type: ignore[operator]
    save_processors(folder)
    encoder = load("dino", str(folder))
    clip = clips.noisy(20, clips.translation(frames=5, side=64))
    result = METRICS["dino.identity_loss"](Sample(clip, encoders={"dino": encoder}))
    tracks, similar = find_tracks(clip.frames), []
    grids = [encoder.patches(frame) for frame in clip.frames]  # type: ignore[attr-defined]
    assert grids[0].shape == (28, 28, 16)
    for point, start in enumerate(tracks.starts):
        for t in range(5):
            if t == start or not tracks.inside[point, t]:
                continue
            cells = [(tracks.positions[point, frame] * 28 / 64).astype(int) for frame in (start, t)]
            first, second = (grids[frame][y, x] for frame, (x, y) in zip((start, t), cells, strict=True))
            similar.append(max(float(first @ second), 0) if tracks.tracked[point, t] else 0)
    assert result.value == pytest.approx(1 - np.mean(similar), abs=1e-5)
    still = METRICS["dino.identity_loss"](Sample(clips.constant(5), encoders={"dino": encoder}))
    assert still.value == pytest.approx(0, abs=1e-5)
