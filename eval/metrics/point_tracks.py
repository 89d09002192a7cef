"""What long tracks of points see and neighbouring frames do not: lost points, identity, stops and moving objects."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.appearance import PATCHES, patch_describer, similarities
from vidguide.eval.metrics.base import STEADINESS_GUARDS, Value, metric
from vidguide.eval.metrics.motion_histogram import HISTOGRAM, motion_histogram
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.temporal import check_frame_size
from vidguide.eval.metrics.tracks import TRACKS, Tracks, shrunk_size

THRESHOLDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # pixels at a short side of 256
MIN_STEPS = 4  # of a track that can stop
MOVING = 1.0  # pixels per frame at a short side of 256 from which a point moves
STOPPED = 0.25  # of the point's usual speed, below which it stands
USUAL = 90  # percentile of the steps of a point that is its usual speed
FASTEST_SHARE, MIN_FASTEST = 0.02, 2  # of the points, whose motion relative to the others is that of objects
SLOWEST = 0.5  # pixels per frame; slower relative motion counts as none

Values = NDArray[np.float64]


def check_tracks(sample: Sample) -> Tracks:
    """Return the tracks of a clip.

    Raises:
        UndefinedError: the frames are too small, or have no corners.
    """
    check_frame_size(sample)
    if not len(sample.tracks.starts):
        raise UndefinedError("no frame has a corner that could be tracked")
    return sample.tracks


def mean_of_defined(values: Values, axis: int) -> list[float | None]:
    """Return the means of the values that are not NaN; None where all are."""
    masked = np.ma.masked_invalid(values).mean(axis)
    return [None if value is np.ma.masked else float(value) for value in masked]


def total_mean(values: Values, quantity: str) -> float:
    """Return the mean of the values that are not NaN.

    Raises:
        UndefinedError: all are.
    """
    if np.isnan(values).all():
        raise UndefinedError(f"no point is tracked long enough, so there is no {quantity}")
    return float(np.nanmean(values))


@metric(
    id="temporal.track_consistency",
    version=f"{TRACKS}/cubic-0.5-8px/1",
    unit="share of points, mean over thresholds",
    low=0.0,
    high=1.0,
    better="higher",
    min_frames=5,
    guards=STEADINESS_GUARDS,
)
def track_consistency(sample: Sample) -> Value:
    """Measure how well points can be tracked through the clip, and how smoothly they move.

    Direction: higher is better. Range: 0 to 1; a still clip has 1. Unit: share of the frames of all tracks in which the
    point is still tracked and within 0.5, 1, 2, 4 and 8 pixels (at a short side of 256) of the cubic interpolation of
    the two frames before and the two after; mean over these thresholds. A point that leaves the frame ends its track.
    The details hold a histogram of velocities and accelerations, for the distance between sets of clips.
    Fooled by: frozen clips, hence the guards; occlusion counts as loss; motion that should shake or bounce; uniform
    areas have no points. It is the same for a clip played backward.
    Source: after TRAJAN (Allen et al. 2025, arXiv 2505.00209), which scores a clip by how well its tracks are
    reconstructed, averaged over thresholds. Not theirs: they track by BootsTAPIR, reconstruct by a trained autoencoder,
    use 1 to 16 pixels, and score occlusion by the average Jaccard index; values are not comparable with theirs.
    """
    tracks = check_tracks(sample)
    scores = consistency_scores(tracks)
    width, height = shrunk_size(sample.clip.frames)
    details = {"motion_histogram": motion_histogram(tracks, (height, width)).round(6).tolist(), "version": HISTOGRAM}
    value = total_mean(scores, "track consistency")
    return Value(value=value, per_frame=mean_of_defined(scores, 0), details=details)


def consistency_scores(tracks: Tracks) -> Values:
    """Return the share of thresholds `(N, F)` that each point meets: 0 where it is lost, NaN where it is undefined."""
    residual, lost = interpolation_errors(tracks), tracks.inside & ~tracks.tracked
    met = np.mean([residual <= threshold for threshold in THRESHOLDS], axis=0)
    met[np.isnan(residual)] = np.nan
    return np.where(lost, 0.0, met)


def interpolation_errors(tracks: Tracks) -> Values:
    """Return the distance `(N, F)` of each point to the cubic interpolation of its neighbours in time.

    The unit is pixels at a short side of 256; it is NaN where one of the five positions is missing.
    """
    x = tracks.positions.astype(np.float64) * tracks.scale
    result = np.full(tracks.tracked.shape, np.nan)
    if x.shape[1] >= 5:
        expected = (4 * (x[:, 1:-3] + x[:, 3:-1]) - x[:, :-4] - x[:, 4:]) / 6
        complete = np.lib.stride_tricks.sliding_window_view(tracks.tracked, 5, axis=1).all(-1)
        result[:, 2:-2] = np.where(complete, np.linalg.norm(x[:, 2:-2] - expected, axis=-1), np.nan)
    return result


@metric(
    id="temporal.identity_loss",
    version=f"{TRACKS}/{PATCHES}/1",
    unit="1 - correlation",
    low=0.0,
    high=1.001,
    better="lower",
    min_frames=2,
    guards=STEADINESS_GUARDS,
)
def identity_loss(sample: Sample) -> Value:
    """Measure how much the appearance of points changes along their tracks, relative to the frame of their choice.

    Direction: lower is better. Range: 0 to 1; a still clip has 0. Unit: one minus the correlation of patches of 15 x 15
    pixels (at a short side of 256) in colour, clamped at 0; a lost point counts as 1; mean over points and frames. An
    object that turns into another one loses its identity, however smooth the change. The details name the frame with
    the largest change. Fooled by: frozen and blurred clips, hence the guards; rotation, growth and occlusion count as a
    loss; a uniform object of another size has the same corners. Source: specific to vidguide; normalised patches as in
    template tracking (Shi and Tomasi 1994 measure dissimilarity to the first frame).
    """
    tracks = check_tracks(sample)
    return identity_value(similarities(tracks, patch_describer(sample.small_frames)))


def identity_value(similarity: Values) -> Value:
    """Return one minus the mean similarity `(N, F)`, and the frame in which it changes most."""
    value = max(1 - total_mean(similarity, "identity"), 0.0)
    changes = [change or 0 for change in mean_of_defined(np.abs(np.diff(similarity, axis=1)), 0)]
    details = {"largest_change_at_frame": changes.index(max(changes)) + 1} if any(changes) else {}
    per_frame = [None if mean is None else 1 - mean for mean in mean_of_defined(similarity, 0)]
    return Value(value=value, per_frame=list(per_frame), details=details)


@metric(
    id="dino.identity_loss",
    version=f"{TRACKS}/whole-frame-224/patch-tokens/1",
    unit="1 - cosine",
    low=0.0,
    high=1.001,
    better="lower",
    min_frames=2,
    guards=STEADINESS_GUARDS,
    encoders=("dino",),
)
def dino_identity_loss(sample: Sample) -> Value:
    """Measure how much DINO's patch features change along tracks, relative to the frame in which a point was chosen.

    Direction: lower is better. Range: 0 to 1; a still clip has 0. Unit: one minus the cosine, clamped at 0, of the
    features of the patch in which a point lies; a lost point counts as 1; mean over points and frames. Fooled by: as
    temporal.identity_loss; features see their surroundings, so that another background counts too. Source: specific to
    vidguide; features by DINO (Caron et al. 2021), of frames at a short side of 224 as in VBench.
    """
    tracks, encoder = check_tracks(sample), sample.encoder("dino")
    size = np.array(shrunk_size(sample.clip.frames))

    def describe(frame: int, points: NDArray[np.float32]) -> NDArray[np.float32]:
        grid = encoder.patches(sample.clip.frames[frame])
        cells = np.array(grid.shape[1::-1])
        column, row = np.clip((points * cells / size).astype(int), 0, cells - 1).T
        return np.asarray(grid[row, column])

    return identity_value(similarities(tracks, describe))


GUARD: dict[str, Any] = dict(better="", min_frames=MIN_STEPS + 1)


@metric(
    id="guard.stopped_share", version=f"{TRACKS}/quarter-speed/1", unit="share of steps", low=0.0, high=1.0, **GUARD
)
def stopped_share(sample: Sample) -> Value:
    """Measure how often points that move stand still: duplicated frames, and objects that freeze.

    Direction: none; an improvement of consistency with more stops is confounded. Range: 0 to 1. Unit: share of the
    steps of points of at least 1 pixel per frame (at a short side of 256; 90th percentile of its steps) that are
    shorter than a quarter of that. Frames duplicated by a conversion of the frame rate count although noise or a codec
    makes them differ. Fooled by: motion that should stop; few objects among many points of a moving background; a clip
    in which nothing ever moves has no value: see guard.motion. Source: specific to vidguide.
    """
    steps = step_lengths(check_tracks(sample))
    long = steps[np.isfinite(steps).sum(1) >= MIN_STEPS]
    usual = percentile_of_defined(long, USUAL)
    moving, usual = long[usual >= MOVING], usual[usual >= MOVING]
    if not len(moving):
        raise UndefinedError("no tracked point moves")
    stopped = np.where(np.isnan(moving), np.nan, moving < STOPPED * usual[:, None])
    return Value(value=float(np.nanmean(stopped)), per_frame=mean_of_defined(stopped, 0))


def percentile_of_defined(values: Values, percent: float) -> Values:
    """Return the percentile `(N,)` of the values `(N, M)` that are not NaN, of which each row has one at least.

    Equal to :func:`numpy.nanpercentile`, which computes row by row.
    """
    position = percent / 100 * (np.isfinite(values).sum(1, keepdims=True) - 1)
    below = np.floor(position).astype(np.int64)
    ordered = np.sort(values, axis=1)  # NaN is last
    low, high = (np.take_along_axis(ordered, index, 1) for index in (below, np.ceil(position).astype(np.int64)))
    return np.asarray(low + (position - below) * (high - low))[:, 0]


def velocities(tracks: Tracks) -> Values:
    """Return the velocity `(N, F - 1, 2)` of each point, pixels at a short side of 256; NaN where it is not tracked."""
    both = tracks.tracked[:, 1:] & tracks.tracked[:, :-1]
    return np.where(both[..., None], np.diff(tracks.positions.astype(np.float64), axis=1) * tracks.scale, np.nan)


def step_lengths(tracks: Tracks) -> Values:
    """Return the length `(N, F - 1)` of each step of a point; NaN where it is not tracked."""
    return np.linalg.norm(velocities(tracks), axis=-1)


@metric(
    id="guard.object_motion",
    version=f"{TRACKS}/relative-to-median/fastest-2%/1",
    unit="pixels per frame, at a short side of 256",
    low=0.0,
    high=float("inf"),
    **GUARD,
)
def object_motion(sample: Sample) -> Value:
    """Measure how fast objects move relative to the rest: the fastest 2% of points, relative to the median velocity.

    Direction: none; an improvement of consistency with less motion of objects is confounded. Range: from 0; a pan has
    0. Unit: pixels per frame at a short side of 256; speeds below half a pixel count as 0. A tiny object that freezes
    over a still background is seen, which guard.motion measures as a share of the frame. Fooled by: zoom and rotation
    count as motion; an object that freezes relative to the frame moves relative to a pan; flicker and noise that pass
    the forward-backward check. Source: specific to vidguide.
    """
    velocity = velocities(check_tracks(sample))
    values = [relative_speed(vectors[np.isfinite(vectors[:, 0])]) for vectors in velocity.swapaxes(0, 1)]
    defined = [value for value in values if value is not None]
    if not defined:
        raise UndefinedError("no point is tracked from one frame to the next")
    return Value(value=float(np.mean(defined)), per_frame=list(values))


def relative_speed(vectors: Values) -> float | None:
    """Return the mean length of the longest 2% of vectors `(M, 2)` relative to their median; None without any."""
    if not len(vectors):
        return None
    speed = np.sort(np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1))
    fastest = speed[-max(round(FASTEST_SHARE * len(speed)), MIN_FASTEST) :]
    return float(np.where(fastest < SLOWEST, 0, fastest).mean())
