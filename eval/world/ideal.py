"""How close a clip is to what the renderer of the synthetic world can draw, whatever its attributes are."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.eval.world import oracle
from vidguide.eval.world.scene import (
    BACKGROUND,
    COLOUR,
    JITTER,
    RADIUS,
    SHAPES,
    SPEED,
    SPEED_SPREAD,
    VELOCITY,
    Scene,
    coverage,
)

EVALUATIONS = 40  # of the search for the path of the nearest rendering
CANDIDATES = 2  # combinations of shape, size and motion whose path is refined

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The rendering nearest to a clip: its scene, and the root mean square difference in levels of 0..255."""

    scene: Scene
    distance: float


def nearest_rendering(frames: NDArray[np.uint8]) -> Nearest:
    """Return the nearest rendering of any scene, position and speed that the renderer draws.

    Args:
        frames: `(F, H, W, 3)`; F may differ from that of the renderer.

    Each combination of shape, size and motion starts from the path of the object that the oracle sees, and the best
    are refined. Colour and background are enumerated.
    """
    pixels = frames.astype(np.float64)
    start = first_guess(pixels)
    forms = sorted(product(SHAPES, RADIUS, VELOCITY), key=lambda form: path_error(pixels, *form)(start)[0])
    return min((refine(pixels, form, start) for form in forms[:CANDIDATES]), key=lambda nearest: nearest.distance)


def refine(pixels: Values, form: tuple[str, str, str], start: Values) -> Nearest:
    """Return the nearest rendering of a shape, size and motion, by a search over the path (Nelder and Mead 1965)."""
    from scipy.optimize import minimize

    error = path_error(pixels, *form)
    simplex = start + np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.02]])
    options: dict[str, Any] = dict(maxfev=EVALUATIONS, initial_simplex=simplex)
    result = minimize(lambda path: error(path)[0], start, method="Nelder-Mead", options=options)
    squared, colour, background = error(result.x)
    shape, size, motion = form
    scene = Scene(size=size, colour=colour, shape=shape, motion=motion, background=background)
    return Nearest(scene=scene, distance=float(np.sqrt(max(squared, 0))))


def first_guess(pixels: Values) -> Values:
    """Return the position (x, y) of the object at mid-clip relative to the centre, and its speed relative to SPEED."""
    height, width = pixels.shape[1:3]
    backdrop = oracle.background_tone(pixels)
    tone = oracle.object_tone(pixels, backdrop)
    if tone is None:
        return np.array([0.0, 0.0, 1.0])
    centres = oracle.centroids(oracle.unmix(pixels, backdrop, tone)[0])
    _, velocity, _ = oracle.motion_of(centres)
    return allowed_path(np.array([*(centres.mean(0) - [width / 2, height / 2]), np.hypot(*velocity) / SPEED]))


def allowed_path(path: Values) -> Values:
    """Return a path (x, y, relative speed) clamped to what the renderer draws."""
    limits = np.array([JITTER, JITTER, SPEED_SPREAD])
    middle = np.array([0.0, 0.0, 1.0])
    return np.asarray(np.clip(path, middle - limits, middle + limits))


def path_error(pixels: Values, shape: str, size: str, motion: str) -> Callable[[Values], tuple[float, str, str]]:
    """Return the function of a path that returns the least mean squared error, and the colour and background of it."""
    count, height, width = pixels.shape[:3]
    time = np.arange(count) - (count - 1) / 2
    radius = np.full(count, RADIUS[size])
    totals, power = pixels.sum((0, 1, 2)), float((pixels**2).sum())

    def error(path: Values) -> tuple[float, str, str]:
        x, y, speed = allowed_path(path)
        steps = time[:, None] * SPEED * speed * np.array(VELOCITY[motion]) + [width / 2 + x, height / 2 + y]
        alpha = coverage(shape, steps[:, 0], steps[:, 1], radius, height, width).astype(np.float64)
        return best_palette(pixels, alpha, totals, power)

    return error


def best_palette(pixels: Values, alpha: Values, totals: Values, power: float) -> tuple[float, str, str]:
    """Return the least mean squared error of `background + alpha (colour - background)`, with both names.

    The error is a quadratic form of both colours, so that no picture is rendered.

    Args:
        pixels: `(F, H, W, 3)`.
        alpha: coverage `(F, H, W)` of the object.
        totals, power: sums over pixels of each channel `(3,)`, and of all squares.
    """
    weight, flat = alpha.ravel(), pixels.reshape(alpha.size, 3)
    inner, mixed = weight @ weight, weight.sum() - weight @ weight
    gram = np.array([[inner, mixed], [mixed, alpha.size - inner - 2 * mixed]])
    covered = weight @ flat
    sums = np.stack([covered, totals - covered])
    names = list(product(COLOUR, BACKGROUND))
    tones = np.array([(COLOUR[colour], BACKGROUND[background]) for colour, background in names], float)
    errors = power - 2 * (tones * sums).sum((1, 2)) + np.einsum("pic,ij,pjc->p", tones, gram, tones)
    best = int(errors.argmin())
    return float(errors[best]) / (3 * alpha.size), *names[best]


QUALITIES = ("misfit", "tone error", "background error", "stain", "growth", "wobble")


def defects(frames: NDArray[np.uint8]) -> Values:
    """Return what keeps a clip from being a rendering, `(6,)` of 0 to 1 each, in the order of :data:`QUALITIES`.

    One minus the overlap with the best shape; the distances of object and background to the palette, and the residue of
    the background, relative to what the oracle accepts; the relative change of the area, and the distance of the
    centres to a straight path. A clip without an object has 1 in all but the background error.
    """
    reading, pixels = oracle.read(frames), frames.astype(np.float32)
    backdrop = oracle.background_tone(pixels)
    tone = oracle.object_tone(pixels, backdrop)
    background = min(reading.background_error / oracle.TONE, 1.0)
    if tone is None:
        return np.array([1.0, 1.0, background, 1.0, 1.0, 1.0])
    alpha, stain = oracle.unmix(pixels, backdrop, tone)
    area, centres = alpha.sum((1, 2)), oracle.centroids(alpha)
    growth = float(np.ptp(area) / max(float(area.mean()), 1e-6))
    raw = [1 - reading.fit, reading.tone_error / oracle.TONE, background, float(stain.max()), growth, wobble(centres)]
    return np.minimum(raw, 1.0)


def wobble(centres: Values) -> float:
    """Return the root mean square distance of centres `(F, 2)` to a straight path, relative to the largest accepted."""
    time = np.arange(len(centres)) - (len(centres) - 1) / 2
    residual = centres - centres.mean(0) - np.outer(time, time @ centres / (time @ time))
    return float(np.sqrt((residual**2).sum(1).mean())) / oracle.WOBBLE
