"""The synthetic world of the shipped models: coloured shapes that move over plain backgrounds, and their captions.

A clip is described completely by a few attributes, which :mod:`vidguide.eval.world.oracle` can read from its pixels,
so that the effect of a guidance can be measured. Rendering is exact: the colour of a pixel is the mix of object and
background in proportion to the share of the pixel that the shape covers (from its signed distance).
"""

from dataclasses import asdict, astuple, dataclass
from itertools import product
from zlib import crc32

import numpy as np

FRAMES, HEIGHT, WIDTH = 13, 64, 64
SPEED = 2.1  # pixels per frame of a moving object
JITTER = 1.5  # largest offset of the path's midpoint from the frame's centre, pixels
SPEED_SPREAD = 0.05  # relative, uniform

RADIUS = {"small": 8.0, "large": 12.5}  # of the circle with the same area, pixels
COLOUR = {
    "red": (225, 35, 45),
    "green": (30, 160, 70),
    "blue": (35, 70, 215),
    "yellow": (245, 215, 40),
    "purple": (150, 50, 190),
    "orange": (250, 130, 20),
}
SHAPES = ("circle", "square", "triangle")
VELOCITY = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
BACKGROUND = {"white": (245, 245, 245), "black": (15, 15, 15), "grey": (128, 128, 128), "sky": (150, 205, 245)}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": tuple(RADIUS),
    "colour": tuple(COLOUR),
    "shape": SHAPES,
    "motion": tuple(VELOCITY),
    "background": tuple(BACKGROUND),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a clip, one value per attribute; None means "not named" in captions, "unreadable" in readings."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value not in ATTRIBUTES[name]:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(ATTRIBUTES[name])}")

    @property
    def complete(self) -> bool:
        """Return whether every attribute has a value."""
        return None not in astuple(self)


def all_scenes() -> list[Scene]:
    """Return every combination of the attributes, in a fixed order."""
    return [Scene(**dict(zip(ATTRIBUTES, values, strict=True))) for values in product(*ATTRIBUTES.values())]


def held_out(scene: Scene) -> bool:
    """Return whether a complete scene is excluded from training (one combination in five, by a fixed hash)."""
    return crc32(" ".join(str(value) for value in astuple(scene)).encode()) % 5 == 0


def caption(scene: Scene, template: int = 0) -> str:
    """Return the scene in words; `template` (0 to 2) sets the order of phrases. An empty scene has an empty caption."""
    words = [word for word in (scene.size, scene.colour, scene.shape) if word]
    if words and not scene.shape:
        words.append("object")
    subject = f"a {' '.join(words)}" if words else ""
    motion = {None: "", "still": "staying still"}.get(scene.motion, f"moving {scene.motion}")
    place = f"on a {scene.background} background" if scene.background else ""
    order = ((subject, motion, place), (subject, place, motion), (place, subject, motion))[template % 3]
    return " ".join(phrase for phrase in order if phrase)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the distance in pixels to the outline (negative inside) of a shape of the area of a circle of `radius`."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        half = radius * np.sqrt(np.pi) / 2
        return np.maximum(np.abs(x), np.abs(y)) - half
    # An equilateral triangle, point up, around its centroid: three half-planes at the distance of the inscribed circle.
    inscribed = radius * np.sqrt(np.pi / (3 * np.sqrt(3)))
    slanted = np.abs(x) * np.sqrt(3) / 2 - y / 2
    return np.maximum(slanted, y) - inscribed


def coverage(shape: str, x0: np.ndarray, y0: np.ndarray, radius: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the share of each pixel that the shape covers, `(N, height, width)`, for N centres and radii in pixels."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    distance = [signed_distance(shape, x - cx, y - cy, r) for cx, cy, r in zip(x0, y0, radius, strict=True)]
    return np.clip(0.5 - np.stack(distance), 0, 1).astype(np.float32)


def path(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """Draw the centres `(FRAMES, 2)` (x, y) of the object, which is near the centre of the frame at mid-clip."""
    midpoint: np.ndarray = np.array([WIDTH, HEIGHT]) / 2 + random.uniform(-JITTER, JITTER, 2)
    speed = SPEED * random.uniform(1 - SPEED_SPREAD, 1 + SPEED_SPREAD)
    time = np.arange(FRAMES) - (FRAMES - 1) / 2
    return midpoint + time[:, None] * speed * np.array(VELOCITY[str(scene.motion)])


def render(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """Render a clip `(FRAMES, 64, 64, 3)` uint8 of a complete scene; `random` draws position and speed."""
    if not scene.complete:
        raise ValueError(f"scene={scene}: incomplete; give every attribute a value")
    centres = path(scene, random)
    radius = np.full(FRAMES, RADIUS[str(scene.size)])
    alpha = coverage(str(scene.shape), centres[:, 0], centres[:, 1], radius, HEIGHT, WIDTH)[..., None]
    colour, background = np.array(COLOUR[str(scene.colour)]), np.array(BACKGROUND[str(scene.background)])
    return np.round(background + alpha * (colour - background)).astype(np.uint8)
