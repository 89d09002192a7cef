"""Read the attributes of a world clip back from its pixels, or say that there is none to read.

The reading uses no network and nothing of how the clip was made. Each frame is compared with exact renderings of
every shape at the object's own centre and area; a frame is well-formed when one of them fits closely and clearly
better than the others. A blob, two objects, a colour off the palette or a background with stains read as None.
"""

from dataclasses import dataclass

import numpy as np

from vidguide.eval.world.scene import BACKGROUND, COLOUR, RADIUS, SHAPES, Scene, coverage

FIT = 0.86  # least overlap (soft intersection over union) of a well-formed shape with its exact rendering
MARGIN = 0.02  # by which the best shape must beat the next
TONE = 60.0  # largest distance (RGB, 0..255) to a palette colour that still reads as that colour
STAIN = 0.10  # largest background residue of a well-formed frame, as a share of the object-background contrast
STILL = 0.5  # pixels per frame below which the object stands still
DIAGONAL = 0.5  # largest sideways share of a motion along an axis
WOBBLE = 2.0  # largest distance (pixels) of a centre to its straight path, root mean square
GROWTH = 0.25  # largest relative change of the area within a clip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the oracle saw: the scene (None where there is none to read) and how sure it could be.

    `well_formed` is True when every frame shows exactly one undistorted shape, the same in every frame; `fit` is
    the mean overlap with the exact rendering (0..1), `tone_error` the RGB distance of the object to the palette.
    """

    scene: Scene
    well_formed: bool
    fit: float
    tone_error: float
    background_error: float
    velocity: tuple[float, float]

    def matches(self, asked: Scene, attribute: str) -> bool:
        """Whether the clip shows what was asked for, for one attribute."""
        return bool(getattr(self.scene, attribute) == getattr(asked, attribute))


def nearest(tone: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> tuple[str | None, float]:
    """The palette's closest name (None beyond TONE) and the RGB distance to it."""
    distances = {name: float(np.linalg.norm(tone - np.array(value))) for name, value in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return (name if distances[name] <= TONE else None), distances[name]


def object_tone(frames: np.ndarray, background: np.ndarray) -> np.ndarray | None:
    """Median colour of the inside of the object: of the pixels that differ most from the background, `(3,)`."""
    difference = np.linalg.norm(frames - background, axis=-1)
    strong = np.quantile(difference, 0.98)
    if strong < 40:
        return None
    return np.asarray(np.median(frames[difference >= 0.75 * strong], axis=0))


def read(frames: np.ndarray) -> Reading:
    """Read a clip.

    Args:
        frames: `(F, H, W, 3)` uint8.

    Raises:
        ValueError: the frames are not such an array, or fewer than two.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(f"frames: shape {frames.shape}, {frames.dtype}; the oracle reads (F >= 2, H, W, 3) uint8")
    pixels = frames.astype(np.float32)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1).reshape(-1, 3)
    backdrop = np.median(border, axis=0)
    background, background_error = nearest(backdrop, BACKGROUND)
    tone = object_tone(pixels, backdrop)
    if tone is None:
        return Reading(
            scene=Scene(background=background),
            well_formed=False,
            fit=0.0,
            tone_error=float("inf"),
            background_error=background_error,
            velocity=(0.0, 0.0),
        )
    colour, tone_error = nearest(tone, COLOUR)
    alpha, stain = unmix(pixels, backdrop, tone)
    area = alpha.sum((1, 2))
    centres = centroids(alpha)
    fits = shape_fits(alpha, centres, area)
    shape, shape_ok = agreed_shape(fits)
    steady = bool(np.ptp(area) <= GROWTH * area.mean())
    motion, velocity, straight = motion_of(centres)
    size = size_of(area)
    return Reading(
        scene=Scene(size=size, colour=colour, shape=shape, motion=motion, background=background),
        well_formed=bool(shape_ok and steady and straight and (stain <= STAIN).all()),
        fit=float(fits.max(1).mean()),
        tone_error=tone_error,
        background_error=background_error,
        velocity=velocity,
    )


def unmix(pixels: np.ndarray, backdrop: np.ndarray, tone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object coverage `(F, H, W)` by projection on the line from background to object, and residue per frame `(F,)`."""
    axis = tone - backdrop
    contrast = float(axis @ axis)
    alpha = (pixels - backdrop) @ axis / contrast
    off_line = np.linalg.norm(pixels - backdrop - alpha[..., None] * axis, axis=-1) / np.sqrt(contrast)
    return steepen(alpha), np.sqrt((off_line**2).mean((1, 2)))


def steepen(alpha: np.ndarray) -> np.ndarray:
    """Coverage with edges twice as steep: a soft but right outline is not a wrong shape, and faint noise is nothing."""
    return np.clip(2 * alpha - 0.5, 0, 1).astype(np.float32)


def centroids(alpha: np.ndarray) -> np.ndarray:
    """Centres of mass `(F, 2)` (x, y) in pixels; the middle of the frame where a frame is empty."""
    height, width = alpha.shape[1:]
    mass = alpha.sum((1, 2))
    x = (alpha.sum(1) @ (np.arange(width) + 0.5)) / np.maximum(mass, 1e-6)
    y = (alpha.sum(2) @ (np.arange(height) + 0.5)) / np.maximum(mass, 1e-6)
    centres = np.stack([x, y], 1)
    centres[mass < 1] = (width / 2, height / 2)
    return centres


def shape_fits(alpha: np.ndarray, centres: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Soft intersection over union `(F, shapes)` with each shape rendered at the same centre and area."""
    radius = np.sqrt(np.maximum(area, 1.0) / np.pi)
    overlaps = []
    for shape in SHAPES:
        exact = steepen(coverage(shape, centres[:, 0], centres[:, 1], radius, *alpha.shape[1:]))
        union = np.maximum(alpha, exact).sum((1, 2))
        overlaps.append(np.minimum(alpha, exact).sum((1, 2)) / np.maximum(union, 1e-6))
    return np.stack(overlaps, 1)


def agreed_shape(fits: np.ndarray) -> tuple[str | None, bool]:
    """The shape most frames fit (None when that is no clear fit), and whether every frame fits it clearly."""
    best = fits.argmax(1)
    ordered = np.sort(fits, 1)
    clear = (ordered[:, -1] >= FIT) & (ordered[:, -1] - ordered[:, -2] >= MARGIN)
    counts = np.bincount(best[clear], minlength=len(SHAPES))
    winner = int(counts.argmax())
    agreed = counts[winner] * 2 > len(fits)
    return (SHAPES[winner] if agreed else None), bool(agreed and counts[winner] == len(fits))


def size_of(area: np.ndarray) -> str | None:
    """The nearest size by area on a log scale; None when the area is twice off."""
    radius = np.sqrt(np.median(area) / np.pi)
    name = min(RADIUS, key=lambda size: abs(np.log(max(radius, 1e-6) / RADIUS[size])))
    return name if abs(np.log(max(radius, 1e-6) / RADIUS[name])) < np.log(2) / 2 else None


def motion_of(centres: np.ndarray) -> tuple[str | None, tuple[float, float], bool]:
    """Direction by a straight-line fit (None when diagonal), velocity in pixels per frame, whether it is straight."""
    time = np.arange(len(centres)) - (len(centres) - 1) / 2
    vx, vy = (time @ centres / (time @ time)).tolist()
    residual = centres - centres.mean(0) - time[:, None] * np.array([vx, vy])
    straight = bool(np.sqrt((residual**2).sum(1).mean()) <= WOBBLE)
    if max(abs(vx), abs(vy)) < STILL:
        return "still", (vx, vy), straight
    if min(abs(vx), abs(vy)) > DIAGONAL * max(abs(vx), abs(vy)):
        return None, (vx, vy), straight
    horizontal = abs(vx) > abs(vy)
    motion = ("right" if vx > 0 else "left") if horizontal else ("down" if vy > 0 else "up")
    return motion, (vx, vy), straight
