"""Clips for which the value of every metric can be derived."""

from collections.abc import Callable

import cv2
import numpy as np

from vidguide.clip import Clip


def texture(height: int, width: int, seed: int = 0, blur: float = 2.0) -> np.ndarray:
    """Return smooth noise `(height, width, 3)` float, mean 128, on which flow can be estimated."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return 128 + 40 * smooth / smooth.std()


def clip(frames: np.ndarray, fps: float = 8.0) -> Clip:
    """Return a clip of float frames, rounded and clamped to uint8."""
    return Clip(frames=np.clip(np.rint(frames), 0, 255).astype(np.uint8), fps=fps)


def constant(frames: int = 12, side: int = 64) -> Clip:
    """Return a textured picture that never changes."""
    return clip(np.repeat(texture(side, side)[None], frames, 0))


def translation(frames: int = 12, side: int = 64, dx: int = 2, dy: int = 1, fps: float = 8.0) -> Clip:
    """Return a texture that moves left by dx and up by dy whole pixels per frame, without interpolation."""
    wide = texture(side + dy * frames, side + dx * frames)
    return clip(np.stack([wide[dy * t : dy * t + side, dx * t : dx * t + side] for t in range(frames)]), fps)


def jittered(pixels: int, frames: int = 12, side: int = 64) -> Clip:
    """Return the translation, shaken by up to `pixels` whole pixels in each direction."""
    wide = texture(side + frames + 2 * pixels, side + 2 * frames + 2 * pixels)
    shake = np.random.default_rng(1).integers(-pixels, pixels + 1, (frames, 2)) + pixels
    starts = [(t + y, 2 * t + x) for t, (y, x) in enumerate(shake)]
    return clip(np.stack([wide[y : y + side, x : x + side] for y, x in starts]))


def noisy(sigma: float, of: Clip | None = None, seed: int = 0) -> Clip:
    """Return a clip with independent noise in every frame."""
    frames = (of or translation()).frames
    return clip(frames + np.random.default_rng(seed).normal(0, sigma, frames.shape)) if sigma else of or translation()


def alternating(amplitude: float, of: Clip | None = None) -> Clip:
    """Return a clip whose brightness alternates by plus and minus the amplitude."""
    frames = (of or constant()).frames
    sign = np.where(np.arange(len(frames)) % 2, 1, -1)[:, None, None, None]
    return clip(frames + amplitude * sign)


def flash(height: float, at: int = 6, frames: int = 12) -> Clip:
    """Return a grey clip with one brighter frame."""
    grey = np.full((frames, 64, 64, 3), 100.0)
    grey[at] += height
    return clip(grey)


def fade(step: float, frames: int = 12) -> Clip:
    """Return a grey clip that brightens by the step each frame."""
    return clip(np.broadcast_to(60 + step * np.arange(frames)[:, None, None, None], (frames, 64, 64, 3)))


def duplicated(at: int = 5) -> Clip:
    """Return the translation with one frame replaced by the previous one."""
    frames = translation().frames.copy()
    frames[at] = frames[at - 1]
    return clip(frames.astype(float))


def wide(frames: int = 9, fps: float = 24.0) -> Clip:
    """Return a moving texture of 96 x 40 pixels at 24 frames per second."""
    picture = texture(40 + 2 * frames, 96 + 3 * frames, seed=3)
    return clip(np.stack([picture[2 * t : 2 * t + 40, 3 * t : 3 * t + 96] for t in range(frames)]), fps)


EVERY: dict[str, Callable[[], Clip]] = {
    "constant": constant,
    "translation": translation,
    "noise": lambda: noisy(8),
    "flash": lambda: flash(60),
    "fade": lambda: fade(5),
    "duplicated": duplicated,
    "jittered": lambda: jittered(2),
    "wide": wide,
}
