"""Read the attributes of a clip of the synthetic world from its pixels; an attribute that cannot be read is None.

The oracle uses no network and no knowledge of how the clip was generated. It compares each frame with exact renderings
of every shape at the centre and area of the object. A frame is well-formed if one of them fits closely, and clearly
better than the others. A blob, two objects, a colour outside the palette or a stained background read as None.
"""

from dataclasses import dataclass

import numpy as np

from vidguide.eval.world.scene import BACKGROUND, COLOUR, RADIUS, SHAPES, Scene, coverage

FIT = 0.86  # least overlap (soft intersection over union) of a well-formed shape with its exact rendering
MARGIN = 0.02  # least difference of overlap between the best shape and the next
TONE = 60.0  # largest distance (RGB, 0..255) to a palette colour that reads as that colour
STAIN = 0.10  # largest background residue of a well-formed frame, relative to the object-background contrast
STILL = 0.5  # pixels per frame below which the object counts as still
DIAGONAL = 0.5  # largest ratio of the smaller to the larger velocity component of a motion along an axis
WOBBLE = 2.0  # largest root mean square distance of the centres to a straight path, pixels
GROWTH = 0.25  # largest relative change of the area within a clip
MIN_CONTRAST = 40.0  # least distance (RGB, 0..255) of the object to the background


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The oracle's reading of a clip.

    Attributes:
        scene: the attributes read; None where one cannot be read.
        well_formed: whether every frame shows exactly one undistorted shape, the same in every frame.
        fit: mean overlap with the exact rendering, 0..1.
        worst_fit: overlap with it in the worst frame.
        tone_error, background_error: RGB distance of object and background to the palette.
        velocity: (x, y) in pixels per frame.
    """

    scene: Scene
    well_formed: bool
    fit: float
    worst_fit: float
    tone_error: float
    background_error: float
    velocity: tuple[float, float]

    @property
    def in_world(self) -> bool:
        """Return whether the renderer could have drawn the clip: it is well-formed, and every attribute is readable."""
        return self.well_formed and self.scene.complete

    def matches(self, requested: Scene, attribute: str) -> bool:
        """Return whether the clip shows the requested value of an attribute."""
        return bool(getattr(self.scene, attribute) == getattr(requested, attribute))


def read(frames: np.ndarray) -> Reading:
    """Read a clip.

    Args:
        frames: `(F, H, W, 3)` uint8, F of at least 2.

    Raises:
        ValueError: wrong shape or dtype.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(f"frames: shape {frames.shape}, {frames.dtype}; must be (F >= 2, H, W, 3) uint8")
    pixels = frames.astype(np.float32)
    backdrop = background_tone(pixels)
    background, background_error = nearest(backdrop, BACKGROUND)
    tone = object_tone(pixels, backdrop)
    if tone is None:
        return no_object(background, background_error)
    colour, tone_error = nearest(tone, COLOUR)
    alpha, stain = unmix(pixels, backdrop, tone)
    area, centres = alpha.sum((1, 2)), centroids(alpha)
    fits = shape_fits(alpha, centres, area)
    shape, all_frames_fit = agreed_shape(fits)
    motion, velocity, straight = motion_of(centres)
    constant_area = bool(np.ptp(area) <= GROWTH * area.mean())
    return Reading(
        scene=Scene(size=size_of(area), colour=colour, shape=shape, motion=motion, background=background),
        well_formed=bool(all_frames_fit and constant_area and straight and (stain <= STAIN).all()),
        fit=float(fits.max(1).mean()),
        worst_fit=float(fits.max(1).min()),
        tone_error=tone_error,
        background_error=background_error,
        velocity=velocity,
    )


def no_object(background: str | None, background_error: float) -> Reading:
    """Return the reading of a clip without an object."""
    return Reading(
        scene=Scene(background=background),
        well_formed=False,
        fit=0.0,
        worst_fit=0.0,
        tone_error=float("inf"),
        background_error=background_error,
        velocity=(0.0, 0.0),
    )


def background_tone(pixels: np.ndarray) -> np.ndarray:
    """Return the median colour `(3,)` of the border pixels of all frames."""
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1).reshape(-1, 3)
    return np.asarray(np.median(border, axis=0))


def object_tone(frames: np.ndarray, background: np.ndarray) -> np.ndarray | None:
    """Return the median colour `(3,)` of the object's interior: the pixels that differ most from the background."""
    difference = np.linalg.norm(frames - background, axis=-1)
    strong = np.quantile(difference, 0.98)
    if strong < MIN_CONTRAST:
        return None
    return np.asarray(np.median(frames[difference >= 0.75 * strong], axis=0))


def nearest(tone: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> tuple[str | None, float]:
    """Return the closest name of the palette (None beyond TONE) and the RGB distance to it."""
    distances = {name: float(np.linalg.norm(tone - np.array(value))) for name, value in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return (name if distances[name] <= TONE else None), distances[name]


def unmix(pixels: np.ndarray, backdrop: np.ndarray, tone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project pixels on the line in RGB from background to object.

    Returns:
        object coverage `(F, H, W)`, and the residue of each frame `(F,)` relative to the contrast.
    """
    axis = tone - backdrop
    contrast = float(axis @ axis)
    alpha = (pixels - backdrop) @ axis / contrast
    off_line = np.linalg.norm(pixels - backdrop - alpha[..., None] * axis, axis=-1) / np.sqrt(contrast)
    return steepen(alpha), np.sqrt((off_line**2).mean((1, 2)))


def steepen(alpha: np.ndarray) -> np.ndarray:
    """Return coverage with edges twice as steep: soft edges still match a shape, and faint noise vanishes."""
    return np.clip(2 * alpha - 0.5, 0, 1).astype(np.float32)


def centroids(alpha: np.ndarray) -> np.ndarray:
    """Return the centres of mass `(F, 2)` (x, y) in pixels; for an empty frame its centre."""
    height, width = alpha.shape[1:]
    mass = alpha.sum((1, 2))
    x = (alpha.sum(1) @ (np.arange(width) + 0.5)) / np.maximum(mass, 1e-6)
    y = (alpha.sum(2) @ (np.arange(height) + 0.5)) / np.maximum(mass, 1e-6)
    centres = np.stack([x, y], 1)
    centres[mass < 1] = (width / 2, height / 2)
    return centres


def shape_fits(alpha: np.ndarray, centres: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return the soft intersection over union `(F, shapes)` with each shape rendered at the same centre and area."""
    radius = np.sqrt(np.maximum(area, 1.0) / np.pi)
    overlaps = []
    for shape in SHAPES:
        exact = steepen(coverage(shape, centres[:, 0], centres[:, 1], radius, *alpha.shape[1:]))
        union = np.maximum(alpha, exact).sum((1, 2))
        overlaps.append(np.minimum(alpha, exact).sum((1, 2)) / np.maximum(union, 1e-6))
    return np.stack(overlaps, 1)


def agreed_shape(fits: np.ndarray) -> tuple[str | None, bool]:
    """Return the shape that fits most frames clearly (None if there is none), and whether it does so in every frame."""
    best = fits.argmax(1)
    ordered = np.sort(fits, 1)
    clear = (ordered[:, -1] >= FIT) & (ordered[:, -1] - ordered[:, -2] >= MARGIN)
    counts = np.bincount(best[clear], minlength=len(SHAPES))
    winner = int(counts.argmax())
    agreed = counts[winner] * 2 > len(fits)
    return (SHAPES[winner] if agreed else None), bool(agreed and counts[winner] == len(fits))


def size_of(area: np.ndarray) -> str | None:
    """Return the nearest size by area on a log scale; None where the area differs by a factor of 2 or more."""
    radius = np.sqrt(np.median(area) / np.pi)
    name = min(RADIUS, key=lambda size: abs(np.log(max(radius, 1e-6) / RADIUS[size])))
    return name if abs(np.log(max(radius, 1e-6) / RADIUS[name])) < np.log(2) / 2 else None


def motion_of(centres: np.ndarray) -> tuple[str | None, tuple[float, float], bool]:
    """Fit a straight path to the centres `(F, 2)`.

    Returns:
        direction (None if diagonal), velocity (x, y) in pixels per frame, and whether the path is straight.
    """
    time = np.arange(len(centres)) - (len(centres) - 1) / 2
    vx, vy = (time @ centres / (time @ time)).tolist()
    residual = centres - centres.mean(0) - time[:, None] * np.array([vx, vy])
    straight = bool(np.sqrt((residual**2).sum(1).mean()) <= WOBBLE)
    return direction(vx, vy), (vx, vy), straight


def direction(vx: float, vy: float) -> str | None:
    """Return the name of a direction of motion; None if it is diagonal."""
    if max(abs(vx), abs(vy)) < STILL:
        return "still"
    if min(abs(vx), abs(vy)) > DIAGONAL * max(abs(vx), abs(vy)):
        return None
    if abs(vx) > abs(vy):
        return "right" if vx > 0 else "left"
    return "down" if vy > 0 else "up"
