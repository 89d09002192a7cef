"""Manipulations of clips that might buy a better score, and what each must do to the metrics.

The matrix in docs/evaluation.md is made from this table: `python -m tests.helpers.attacks docs/evaluation.md`.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.helpers.known_clips import texture
from vidguide.clip import Clip
from vidguide.eval.metrics.base import Guard
from vidguide.eval.metrics.colours import LUMA
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.report.markdown_table import markdown_table
from vidguide.eval.world.scene import Scene, caption, render

Frames = np.ndarray
SIDE, FRAMES, MIDDLE = 96, 16, 8
TEMPORAL = (
    "temporal.warp_error",
    "temporal.warp_error_worst",
    "temporal.luma_flicker",
    "temporal.flow_jerk",
    "temporal.track_consistency",
    "temporal.identity_loss",
    "temporal.periodicity",
)
WORLD = ("world.attributes", "world.negative_present")
COLUMNS = TEMPORAL + WORLD
CHANGE = 0.05  # relative change of a metric that counts as better or worse
START, END = "<!-- matrix -->\n", "<!-- end of matrix -->\n"


def clamp(frames: Frames) -> Frames:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def unsteady(picture: Callable[[int], Frames], seed: int, noise: float = 3, pumping: float = 2) -> Frames:
    """Return a clip with noise, pumping and shake, all of which an arm could honestly lower."""
    random = np.random.default_rng(seed)
    frames = np.stack([picture(t) for t in range(FRAMES)])
    frames = frames + pumping * random.choice([-1, 1], FRAMES)[:, None, None, None]
    return clamp(frames + random.normal(0, noise, frames.shape))


def pan(seed: int, shake: int = 1) -> Callable[[int], Frames]:
    """Return a texture that pans by two pixels a frame, shaken by up to `shake` pixels."""
    wide, random = texture(SIDE + 2 * shake, SIDE + 2 * FRAMES + 2 * shake, seed, 1.5), np.random.default_rng(seed)
    offsets = random.integers(0, 2 * shake + 1, (FRAMES, 2)) + [[0, 2 * t] for t in range(FRAMES)]
    return lambda t: wide[offsets[t][0] : offsets[t][0] + SIDE, offsets[t][1] : offsets[t][1] + SIDE]


def moving_square(seed: int) -> Callable[[int], Frames]:
    """Return a textured square that moves over a still texture of less contrast."""
    still, square = 100 + 0.5 * (texture(SIDE, SIDE, seed, 3) - 128), texture(32, 32, seed + 1, 1.5)

    def picture(t: int) -> Frames:
        frame, left = still.copy(), 10 + 3 * t
        frame[30 + t : 62 + t, left : left + 32] = square[:, : SIDE - left]
        return frame

    return picture


def textures(noise: float = 3, pumping: float = 2, shake: int = 1) -> list[Frames]:
    """Return the clips of the temporal metrics."""
    pictures = [pan(0, shake), pan(1, shake), moving_square(2), moving_square(4)]
    return [unsteady(picture, seed, noise, pumping) for seed, picture in enumerate(pictures)]


SCENES = (
    Scene(size="large", colour="red", shape="circle", motion="left", background="grey"),
    Scene(size="large", colour="green", shape="square", motion="up", background="white"),
    Scene(size="large", colour="yellow", shape="triangle", motion="right", background="black"),
    Scene(size="small", colour="blue", shape="square", motion="down", background="sky"),
)


def scenes() -> list[Frames]:
    """Return the clips of the world's metrics; the unwanted value of the negative prompt shows in each."""
    return [render(scene, np.random.default_rng(seed)) for seed, scene in enumerate(SCENES)]


def scene_sample(scene: Scene, frames: Frames) -> Sample:
    """Return the sample of a scene whose prompt does not name the colour, which is the negative prompt."""
    asked = Scene(size=scene.size, shape=scene.shape, motion=scene.motion, background=scene.background)
    return Sample(Clip(frames=frames, fps=8), caption(asked), scene.colour)


def luma(frames: Frames) -> Frames:
    return frames @ LUMA


def contrast(factor: float) -> Callable[[Frames], Frames]:
    return lambda frames: clamp(frames.mean() + factor * (frames - frames.mean()))


def brightness(factor: float) -> Callable[[Frames], Frames]:
    return lambda frames: clamp(factor * frames.astype(float))


def gamma(exponent: float) -> Callable[[Frames], Frames]:
    return lambda frames: clamp(255 * (frames / 255) ** exponent)


def saturation(factor: float) -> Callable[[Frames], Frames]:
    return lambda frames: clamp(luma(frames)[..., None] + factor * (frames - luma(frames)[..., None]))


def fade(level: float) -> Callable[[Frames], Frames]:
    """Fade to a grey level, of which the last frame has 90%."""
    return lambda frames: clamp(frames + np.linspace(0, 0.9, len(frames))[:, None, None, None] * (level - frames))


def added_noise(sigma: float, still: bool = False) -> Callable[[Frames], Frames]:
    def manipulate(frames: Frames) -> Frames:
        shape = frames.shape[1:] if still else frames.shape
        return clamp(frames + np.random.default_rng(9).normal(0, sigma, shape))

    return manipulate


def blur(sigma: float) -> Callable[[Frames], Frames]:
    return lambda frames: np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def resized(frames: Frames, height: int, width: int) -> Frames:
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])


def lower_resolution(frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    return np.stack(
        [
            cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
            for frame in resized(frames, height // 2, width // 2)
        ]
    )


def posterise(levels: int) -> Callable[[Frames], Frames]:
    return lambda frames: clamp((frames // (256 // levels) + 0.5) * (256 // levels))


def median(frames: Frames) -> Frames:
    return np.stack([cv2.medianBlur(frame, 5) for frame in frames])


def crop(frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    inner = frames[:, height // 8 : -(height // 8), width // 8 : -(width // 8)]
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in inner])


def vignette(frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width]
    distance = ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) * 2
    return clamp(frames * (1 - 0.8 * distance)[..., None])


def bars(value: int) -> Callable[[Frames], Frames]:
    def manipulate(frames: Frames) -> Frames:
        result, height = frames.copy(), frames.shape[1] // 8
        result[:, :height] = result[:, -height:] = value
        return result

    return manipulate


def chequered_border(frames: Frames) -> Frames:
    result, height = frames.copy(), frames.shape[1] // 8
    pattern = np.add.outer(np.arange(height) // 4, np.arange(frames.shape[2]) // 4) % 2 * 255
    result[:, :height] = result[:, -height:] = pattern[..., None]
    return result


def box(length: int = 1, share: float = 0.4, value: int | None = 255) -> Callable[[Frames], Frames]:
    """Hide a corner in some frames by a box: white, or for None of the mean colour."""

    def manipulate(frames: Frames) -> Frames:
        result, side = frames.copy(), round(share * frames.shape[1])
        colour = frames.mean((0, 1, 2)) if value is None else value
        result[MIDDLE : MIDDLE + length, :side, :side] = colour
        return result

    return manipulate


def box_in_every_other_frame(frames: Frames) -> Frames:
    result = frames.copy()
    result[::2, : frames.shape[1] // 2, : frames.shape[2] // 2] = 255
    return result


def single(value: int | None) -> Callable[[Frames], Frames]:
    """Replace one frame by a plain one, or for None by the mean colour."""

    def manipulate(frames: Frames) -> Frames:
        result = frames.copy()
        result[MIDDLE] = frames.mean((0, 1, 2)) if value is None else value
        return result

    return manipulate


def flash(frames: Frames) -> Frames:
    result = frames.astype(float)
    result[MIDDLE] += 40
    return clamp(result)


def cut(frames: Frames) -> Frames:
    return np.concatenate([frames[:MIDDLE], frames[MIDDLE:, ::-1, ::-1]])


def freeze(frames: Frames) -> Frames:
    return np.repeat(frames[:1], len(frames), 0)


def freeze_second_half(frames: Frames) -> Frames:
    return np.concatenate([frames[:MIDDLE], np.repeat(frames[MIDDLE : MIDDLE + 1], len(frames) - MIDDLE, 0)])


def duplicate(frames: Frames) -> Frames:
    return frames[np.arange(len(frames)) // 2 * 2]


def still_with_noise(frames: Frames) -> Frames:
    return added_noise(1)(freeze(frames))


def duplicate_with_noise(frames: Frames) -> Frames:
    return added_noise(1)(duplicate(frames))


def repeat_every_third(frames: Frames) -> Frames:
    """Convert from a rate of two thirds, as players and codecs do: every third frame repeats the one before."""
    return added_noise(1)(frames[np.arange(len(frames)) * 2 // 3])


def change_colours(frames: Frames) -> Frames:
    """Exchange the channels smoothly, from a quarter to three quarters of the clip."""
    share = np.clip(np.linspace(-0.5, 1.5, len(frames)), 0, 1)[:, None, None, None]
    return clamp((1 - share) * frames + share * np.roll(frames, 1, -1))


def loop(frames: Frames) -> Frames:
    return frames[np.arange(len(frames)) % 5]


def loop_with_noise(frames: Frames) -> Frames:
    return added_noise(1)(loop(frames))


def play_first_half_twice(frames: Frames) -> Frames:
    return frames[np.arange(len(frames)) % ((len(frames) + 1) // 2)]


def boomerang(frames: Frames) -> Frames:
    """Play the first half, and then the same frames backward."""
    half = frames[: (len(frames) + 1) // 2]
    return np.concatenate([half, half[::-1]])[: len(frames)]


def boomerang_with_noise(frames: Frames) -> Frames:
    return added_noise(1)(boomerang(frames))


def play_backward(frames: Frames) -> Frames:
    return frames[::-1]


def slow_motion(frames: Frames) -> Frames:
    """Play at half speed, with blended frames between."""
    position = np.arange(len(frames)) / 2
    first, share = position.astype(int), (position % 1)[:, None, None, None]
    return clamp(frames[first] * (1 - share) + frames[first + 1] * share)


def temporal_average(frames: Frames) -> Frames:
    padded = np.pad(frames.astype(float), ((1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
    return clamp((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)


def accumulate(frames: Frames) -> Frames:
    """Average with all earlier frames, exponentially."""
    result = [frames[0].astype(float)]
    for frame in frames[1:]:
        result.append(0.6 * result[-1] + 0.4 * frame)
    return clamp(np.stack(result))


def shuffle(frames: Frames) -> Frames:
    return frames[np.random.default_rng(0).permutation(len(frames))]


def negative(frames: Frames) -> Frames:
    return 255 - frames


def noise_only(frames: Frames) -> Frames:
    return np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)


def plain_grey(frames: Frames) -> Frames:
    return np.full_like(frames, 128)


def swapped_channels(frames: Frames) -> Frames:
    return frames[..., ::-1]


MANIPULATIONS: dict[str, Callable[[Frames], Frames]] = {
    "contrast x 0.7": contrast(0.7),
    "contrast x 0.9": contrast(0.9),
    "contrast x 1.3": contrast(1.3),
    "brightness x 0.7": brightness(0.7),
    "brightness x 1.15": brightness(1.15),
    "gamma 0.7": gamma(0.7),
    "gamma 1.5": gamma(1.5),
    "saturation x 0.33": saturation(0.33),
    "saturation x 1.5": saturation(1.5),
    "grey": saturation(0),
    "negative": negative,
    "channels swapped": swapped_channels,
    "fade to grey": fade(128),
    "fade to black": fade(0),
    "noise, sigma 1": added_noise(1),
    "noise, sigma 4": added_noise(4),
    "noise, sigma 16": added_noise(16),
    "still grain, sigma 8": added_noise(8, still=True),
    "blur, sigma 0.7": blur(0.7),
    "blur, sigma 2": blur(2),
    "median filter": median,
    "half resolution": lower_resolution,
    "8 levels": posterise(8),
    "cropped and enlarged": crop,
    "vignette": vignette,
    "black bars": bars(0),
    "grey bars": bars(128),
    "chequered border": chequered_border,
    "white box, 1 frame": box(),
    "white box, 3 frames": box(3),
    "small white box, 1 frame": box(share=0.2),
    "grey box, 1 frame": box(value=None),
    "white box, every other frame": box_in_every_other_frame,
    "black frame": single(0),
    "white frame": single(255),
    "grey frame": single(None),
    "flash": flash,
    "cut": cut,
    "frozen": freeze,
    "frozen from the middle": freeze_second_half,
    "frozen, noise of sigma 1": still_with_noise,
    "every frame twice": duplicate,
    "every frame twice, noise of sigma 1": duplicate_with_noise,
    "every third frame repeated, noise of sigma 1": repeat_every_third,
    "slow motion": slow_motion,
    "average of 3 frames": temporal_average,
    "average of all earlier frames": accumulate,
    "shuffled": shuffle,
    "colours change": change_colours,
    "loop of 5 frames": loop,
    "loop of 5 frames, noise of sigma 1": loop_with_noise,
    "first half played twice": play_first_half_twice,
    "boomerang": boomerang,
    "boomerang, noise of sigma 1": boomerang_with_noise,
    "played backward": play_backward,
    "noise only": noise_only,
    "plain grey": plain_grey,
}

WORSE, NOT_BETTER, SIMILAR, UNDEFINED = "worse", "not better", "within 10%", "undefined"
# What each manipulation does to the columns: makes them worse, no better, or better with the violation of a guard.
EXPECTED: dict[str, tuple[str, ...]] = {  # by column
    "contrast x 0.7": (
        "not better",
        "not better",
        "less contrast",
        "not better",
        "not better",
        "less contrast",
        "not better",
        "not better",
        "fewer readable attributes",
    ),
    "contrast x 0.9": (
        "not better",
        "not better",
        "less contrast",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
    ),
    "contrast x 1.3": (
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
    ),
    "brightness x 0.7": (
        "not better",
        "not better",
        "less contrast",
        "not better",
        "not better",
        "not better",
        "not better",
        "worse",
        "fewer readable attributes",
    ),
    "brightness x 1.15": (
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
    ),
    "gamma 0.7": (
        "not better",
        "not better",
        "less contrast",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "gamma 1.5": (
        "not better",
        "not better",
        "not better",
        "not better",
        "less brightness",
        "less brightness",
        "not better",
        "not better",
        "not better",
    ),
    "saturation x 0.33": (
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "fewer readable attributes",
    ),
    "saturation x 1.5": (
        "not better",
        "more saturation",
        "not better",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "grey": (
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "fewer readable attributes",
    ),
    "negative": (
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "worse",
        "less of what was asked for",
    ),
    "channels swapped": (
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "fewer readable attributes",
    ),
    "fade to grey": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "fade to black": (
        "worse",
        "worse",
        "less contrast",
        "not better",
        "worse",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "noise, sigma 1": (
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
        "not better",
    ),
    "noise, sigma 4": (
        "worse",
        "worse",
        "not better",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "noise, sigma 16": (
        "worse",
        "worse",
        "not better",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "still grain, sigma 8": (
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "blur, sigma 0.7": (
        "less sharpness",
        "less sharpness",
        "not better",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "blur, sigma 2": (
        "less sharpness",
        "less sharpness",
        "not better",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "median filter": (
        "less sharpness",
        "less sharpness",
        "not better",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "half resolution": (
        "less sharpness",
        "less sharpness",
        "not better",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "8 levels": (
        "worse",
        "worse",
        "not better",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "cropped and enlarged": (
        "less sharpness",
        "less sharpness",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
        "not better",
    ),
    "vignette": (
        "less brightness",
        "less brightness",
        "less brightness",
        "not better",
        "not better",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "black bars": (
        "more contrast",
        "more contrast",
        "more contrast",
        "not better",
        "not better",
        "worse",
        "not better",
        "worse",
        "less of what was asked for",
    ),
    "grey bars": (
        "worse",
        "worse",
        "less contrast",
        "not better",
        "not better",
        "not better",
        "not better",
        "worse",
        "less of what was asked for",
    ),
    "chequered border": (
        "more contrast",
        "more contrast",
        "more contrast",
        "not better",
        "more contrast",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "white box, 1 frame": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "white box, 3 frames": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "small white box, 1 frame": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "grey box, 1 frame": (
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "white box, every other frame": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "worse",
        "worse",
        "fewer well-formed clips",
    ),
    "black frame": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "white frame": (
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "grey frame": (
        "worse",
        "worse",
        "more cuts or flashes",
        "not better",
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "flash": ("worse", "worse", "worse", "not better", "worse", "worse", "not better", "not better", "not better"),
    "cut": ("worse", "worse", "not better", "worse", "worse", "worse", "not better", "worse", "not better"),
    "frozen": (
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "undefined",
        "worse",
        "not better",
    ),
    "frozen from the middle": (
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "not better",
        "not better",
        "not better",
    ),
    "frozen, noise of sigma 1": (
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "less motion",
        "not better",
        "worse",
        "not better",
    ),
    "every frame twice": (
        "more frozen frames",
        "worse",
        "more frozen frames",
        "worse",
        "worse",
        "less motion",
        "not better",
        "not better",
        "not better",
    ),
    "every frame twice, noise of sigma 1": (
        "more jerk",
        "worse",
        "more jerk",
        "worse",
        "worse",
        "less motion",
        "not better",
        "not better",
        "not better",
    ),
    "every third frame repeated, noise of sigma 1": (
        "less motion",
        "not better",
        "less motion",
        "worse",
        "worse",
        "less motion",
        "not better",
        "not better",
        "not better",
    ),
    "slow motion": (
        "worse",
        "worse",
        "less motion",
        "less motion",
        "less motion",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "average of 3 frames": (
        "worse",
        "worse",
        "less sharpness",
        "less sharpness",
        "less motion",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "average of all earlier frames": (
        "worse",
        "worse",
        "less sharpness",
        "less sharpness",
        "less motion",
        "worse",
        "not better",
        "not better",
        "not better",
    ),
    "shuffled": ("worse", "worse", "worse", "worse", "worse", "worse", "not better", "worse", "not better"),
    "colours change": (
        "worse",
        "worse",
        "not better",
        "not better",
        "not better",
        "worse",
        "not better",
        "not better",
        "fewer well-formed clips",
    ),
    "loop of 5 frames": ("worse", "worse", "not better", "worse", "worse", "worse", "worse", "worse", "not better"),
    "loop of 5 frames, noise of sigma 1": (
        "worse",
        "worse",
        "not better",
        "worse",
        "worse",
        "worse",
        "worse",
        "worse",
        "not better",
    ),
    "first half played twice": ("worse", "worse", "worse", "worse", "worse", "worse", "worse", "worse", "not better"),
    "boomerang": (
        "more frozen frames",
        "not better",
        "more frozen frames",
        "worse",
        "not better",
        "more frozen frames",
        "worse",
        "worse",
        "not better",
    ),
    "boomerang, noise of sigma 1": (
        "not better",
        "not better",
        "more repetition",
        "worse",
        "not better",
        "more repetition",
        "worse",
        "worse",
        "not better",
    ),
    "played backward": (
        "within 10%",
        "within 10%",
        "within 10%",
        "within 10%",
        "within 10%",
        "within 10%",
        "within 10%",
        "worse",
        "not better",
    ),
    "noise only": (
        "worse",
        "worse",
        "less is tracked",
        "worse",
        "worse",
        "worse",
        "not better",
        "worse",
        "fewer well-formed clips",
    ),
    "plain grey": (
        "less contrast",
        "less contrast",
        "less contrast",
        "less contrast",
        "undefined",
        "undefined",
        "undefined",
        "worse",
        "fewer well-formed clips",
    ),
}

# Arms that are better in one respect, which must count as such.
CONTROLS: dict[str, Callable[[], list[Frames]]] = {
    "half the noise": lambda: textures(noise=1.5),
    "half the pumping": lambda: textures(pumping=1),
}

Means = Mapping[str, float | None]


def means(samples: Sequence[Sample], columns: Sequence[str]) -> Means:
    """Return the mean over samples of some metrics and of their guards that need no weights."""
    needed = {*columns, *(guard.id for name in columns for guard in METRICS[name].guards)}
    names = [name for name in METRICS if name in needed and not METRICS[name].encoders]
    measured = {name: [METRICS[name](sample).value for sample in samples] for name in names}
    return {
        name: None if None in values else float(np.mean([value or 0 for value in values]))
        for name, values in measured.items()
    }


def texture_means(clips: Sequence[Frames]) -> Means:
    return means([Sample(Clip(frames=np.ascontiguousarray(frames), fps=8)) for frames in clips], TEMPORAL)


def scene_means(clips: Sequence[Frames]) -> Means:
    pairs = zip(SCENES, clips, strict=True)
    return means([scene_sample(scene, np.ascontiguousarray(frames)) for scene, frames in pairs], WORLD)


def improvement(name: str, before: Means, after: Means) -> float:
    """Return the relative change of a metric in its better direction; the absolute one where it was 0."""
    first, second = before[name], after[name]
    assert first is not None
    assert second is not None
    sign = 1 if METRICS[name].better == "higher" else -1
    return sign * (second - first) / (abs(first) or 1.0)


def change(guard: Guard, before: Means, after: Means) -> float:
    """Return the change of a guard metric, relative where the guard is; 0 where it is undefined."""
    first, second = before.get(guard.id), after.get(guard.id)
    if first is None or second is None:
        return 0.0
    return (second - first) / abs(first) if guard.relative else second - first


def violations(name: str, before: Means, after: Means) -> list[str]:
    """Return what the guards of a metric report."""
    exceeded = [
        guard
        for guard in METRICS[name].guards
        if change(guard, before, after) * np.sign(guard.change) > abs(guard.change)
    ]
    return list(dict.fromkeys(guard.violation for guard in exceeded))


def unmet(name: str, expected: str, before: Means, after: Means) -> str:
    """Return how the outcome for a metric differs from the expected one; empty if it does not."""
    if expected == UNDEFINED or after[name] is None:
        return "" if expected == UNDEFINED and after[name] is None else f"{name}: {after[name]}, expected {expected}"
    gain, violated = improvement(name, before, after), violations(name, before, after)
    limits = {WORSE: gain < -CHANGE, NOT_BETTER: gain <= CHANGE, SIMILAR: abs(gain) <= 2 * CHANGE}
    met = limits.get(expected, expected in violated)
    return "" if met else f"{name}: expected {expected!r}, changed by {gain:+.3f} with {violated}"


def matrix() -> str:
    """Return the table of expected outcomes in Markdown."""
    rows = [[name, *outcomes] for name, outcomes in EXPECTED.items()]
    return markdown_table(["manipulation", *(f"`{name}`" for name in COLUMNS)], rows) + "\n"


def with_matrix(text: str) -> str:
    """Return a text with the table between its two marks."""
    head, _, rest = text.partition(START)
    return f"{head}{START}{matrix()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_matrix(document.read_text()))
