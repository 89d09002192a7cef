"""The oracle of the synthetic world reads rendered attributes, and None for anything else."""

import cv2
import numpy as np
import pytest

from vidguide.eval.world.oracle import Reading, read
from vidguide.eval.world.scene import (
    ATTRIBUTES,
    BACKGROUND,
    COLOUR,
    SHAPES,
    Scene,
    all_scenes,
    caption,
    coverage,
    held_out,
    render,
)

SCENE = Scene(size="large", colour="red", shape="square", motion="left", background="white")


def correct(reading: Reading, scene: Scene) -> bool:
    return reading.well_formed and all(reading.matches(scene, name) for name in ATTRIBUTES)


def painted(alpha: np.ndarray, colour: str = "red", background: str = "white") -> np.ndarray:
    """Frames `(F, H, W, 3)` of a coverage `(F, H, W)`."""
    tones = np.array(COLOUR[colour]), np.array(BACKGROUND[background])
    return np.round(tones[1] + alpha[..., None] * (tones[0] - tones[1])).astype(np.uint8)


def discs(*centres: tuple[float, float], radius: float = 10.0, shape: str = "circle") -> np.ndarray:
    """Coverage of 13 still frames with a shape at each centre."""
    columns = np.array(centres).T
    parts = coverage(shape, columns[0], columns[1], np.full(len(centres), radius), 64, 64)
    return np.repeat(parts.max(0, keepdims=True), 13, axis=0)


def test_oracle_reads_clean_renders() -> None:
    random = np.random.default_rng()
    scenes = [all_scenes()[index] for index in random.integers(0, len(all_scenes()), 200)]
    right = sum(correct(read(render(scene, random)), scene) for scene in scenes)
    assert right >= 198


@pytest.mark.slow
def test_oracle_reads_every_scene() -> None:
    random = np.random.default_rng(1)
    wrong = [scene for scene in all_scenes() if not correct(read(render(scene, random)), scene)]
    assert len(wrong) <= 7, wrong[:5]


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_oracle_reads_shapes_with_soft_edges(sigma: float) -> None:
    random = np.random.default_rng(2)
    for shape in SHAPES:
        scene = Scene(**{**vars(SCENE), "shape": shape})
        soft = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in render(scene, random)])
        assert correct(read(soft), scene)


def test_empty_clip_reads_as_none() -> None:
    reading = read(np.full((13, 64, 64, 3), 245, dtype=np.uint8))
    assert (reading.scene, reading.well_formed) == (Scene(background="white"), False)


def test_blob_reads_as_none() -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    blob = np.exp(-(x**2 + y**2) / (2 * 8.0**2))[None].repeat(13, 0)
    assert read(painted(blob)).scene.shape is None


@pytest.mark.parametrize("shape", ["between circle and square", "two circles", "a circle with a bite"])
def test_distorted_shape_reads_as_none(shape: str) -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    alpha = {
        "between circle and square": np.clip(12 - (np.abs(x) ** 3.2 + np.abs(y) ** 3.2) ** (1 / 3.2), 0, 1)[None],
        "two circles": discs((20, 20), (44, 44))[:1],
        "a circle with a bite": discs((32, 32), radius=14)[:1] * (1 - discs((42, 32), radius=9)[:1]),
    }[shape].repeat(13, 0)
    reading = read(painted(alpha))
    assert reading.scene.shape is None
    assert not reading.well_formed


def test_shape_that_changes_in_one_frame_is_not_well_formed() -> None:
    alpha = discs((32, 32))
    alpha[6] = discs((32, 32), shape="square")[0]
    reading = read(painted(alpha))
    assert reading.scene.shape == "circle"
    assert not reading.well_formed


def test_jump_or_growth_is_not_well_formed() -> None:
    jump = discs((24, 32))
    jump[6:] = discs((40, 32))[0]
    growing = np.concatenate([discs((32, 32), radius=8 + step / 2)[:1] for step in range(13)])
    assert not read(painted(jump)).well_formed
    assert not read(painted(growing)).well_formed


def test_colour_outside_the_palette_reads_as_none() -> None:
    frames = painted(discs((32, 32)))
    frames[(frames[..., 1] < 100)] = (90, 255, 255)
    assert read(frames).scene.colour is None


def test_diagonal_motion_reads_as_none() -> None:
    alpha = np.concatenate([discs((20 + 2 * step, 20 + 2 * step))[:1] for step in range(13)])
    assert read(painted(alpha)).scene.motion is None


def test_stained_background_is_not_well_formed() -> None:
    frames = painted(discs((32, 32)))
    frames[:, :20, :20] = (100, 200, 100)
    assert not read(frames).well_formed


@pytest.mark.parametrize(
    "frames", [np.zeros((13, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros((1, 9, 9, 3), np.uint8)]
)
def test_invalid_frames_raise(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="F >= 2"):
        read(frames)


def test_captions_name_the_given_attributes() -> None:
    assert caption(SCENE) == "a large red square moving left on a white background"
    assert caption(SCENE, 2) == "on a white background a large red square moving left"
    assert caption(Scene(colour="red")) == "a red object"
    assert caption(Scene(motion="still")) == "staying still"
    assert caption(Scene()) == ""


def test_captions_are_unique() -> None:
    captions = {caption(scene, template) for scene in all_scenes() for template in range(3)}
    assert len(captions) == 3 * len(all_scenes())


def test_a_fifth_is_held_out_and_training_has_every_value() -> None:
    training = [scene for scene in all_scenes() if not held_out(scene)]
    assert 0.15 < 1 - len(training) / len(all_scenes()) < 0.25
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in training} == set(values)


def test_unknown_value_and_incomplete_scene_raise() -> None:
    with pytest.raises(ValueError, match=r"colour='pink'.*red, green"):
        Scene(colour="pink")
    with pytest.raises(ValueError, match="incomplete"):
        render(Scene(colour="red"), np.random.default_rng(0))
