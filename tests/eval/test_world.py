"""The synthetic world and its oracle: what is drawn is what is read, and what is no shape is read as none."""

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


def test_the_oracle_reads_clean_renders() -> None:
    random = np.random.default_rng()
    scenes = [all_scenes()[index] for index in random.integers(0, len(all_scenes()), 200)]
    right = sum(correct(read(render(scene, random)), scene) for scene in scenes)
    assert right >= 198


def test_the_oracle_reads_every_scene_once() -> None:
    random = np.random.default_rng(1)
    wrong = [scene for scene in all_scenes() if not correct(read(render(scene, random)), scene)]
    assert len(wrong) <= 7, wrong[:5]


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_soft_edges_are_still_a_shape(sigma: float) -> None:
    random = np.random.default_rng(2)
    for shape in SHAPES:
        scene = Scene(**{**vars(SCENE), "shape": shape})
        soft = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in render(scene, random)])
        assert correct(read(soft), scene)


def test_nothing_at_all_reads_as_none() -> None:
    reading = read(np.full((13, 64, 64, 3), 245, dtype=np.uint8))
    assert (reading.scene, reading.well_formed) == (Scene(background="white"), False)


def test_a_blob_is_no_circle() -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    blob = np.exp(-(x**2 + y**2) / (2 * 8.0**2))[None].repeat(13, 0)
    assert read(painted(blob)).scene.shape is None


@pytest.mark.parametrize("shape", ["between circle and square", "two circles", "a circle with a bite"])
def test_a_distorted_shape_is_none(shape: str) -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    alpha = {
        "between circle and square": np.clip(12 - (np.abs(x) ** 3.2 + np.abs(y) ** 3.2) ** (1 / 3.2), 0, 1)[None],
        "two circles": discs((20, 20), (44, 44))[:1],
        "a circle with a bite": discs((32, 32), radius=14)[:1] * (1 - discs((42, 32), radius=9)[:1]),
    }[shape].repeat(13, 0)
    reading = read(painted(alpha))
    assert reading.scene.shape is None
    assert not reading.well_formed


def test_a_shape_that_changes_in_one_frame_is_not_well_formed() -> None:
    alpha = discs((32, 32))
    alpha[6] = discs((32, 32), shape="square")[0]
    reading = read(painted(alpha))
    assert reading.scene.shape == "circle"
    assert not reading.well_formed


def test_a_jump_or_a_growth_is_not_well_formed() -> None:
    jump = discs((24, 32))
    jump[6:] = discs((40, 32))[0]
    growing = np.concatenate([discs((32, 32), radius=8 + step / 2)[:1] for step in range(13)])
    assert not read(painted(jump)).well_formed
    assert not read(painted(growing)).well_formed


def test_a_colour_off_the_palette_is_none() -> None:
    frames = painted(discs((32, 32)))
    frames[(frames[..., 1] < 100)] = (90, 255, 255)
    assert read(frames).scene.colour is None


def test_a_diagonal_motion_is_none() -> None:
    alpha = np.concatenate([discs((20 + 2 * step, 20 + 2 * step))[:1] for step in range(13)])
    assert read(painted(alpha)).scene.motion is None


def test_stains_on_the_background_are_seen() -> None:
    frames = painted(discs((32, 32)))
    frames[:, :20, :20] = (100, 200, 100)
    assert not read(frames).well_formed


@pytest.mark.parametrize(
    "frames", [np.zeros((13, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros((1, 9, 9, 3), np.uint8)]
)
def test_what_is_no_clip_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the oracle reads"):
        read(frames)


def test_captions_say_what_they_are_given() -> None:
    assert caption(SCENE) == "a large red square moving left on a white background"
    assert caption(SCENE, 2) == "on a white background a large red square moving left"
    assert caption(Scene(colour="red")) == "a red object"
    assert caption(Scene(motion="still")) == "staying still"
    assert caption(Scene()) == ""


def test_no_two_scenes_share_a_caption() -> None:
    captions = {caption(scene, template) for scene in all_scenes() for template in range(3)}
    assert len(captions) == 3 * len(all_scenes())


def test_a_fifth_is_held_out_and_every_value_is_trained_on() -> None:
    kept = [scene for scene in all_scenes() if not held_out(scene)]
    assert 0.15 < 1 - len(kept) / len(all_scenes()) < 0.25
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in kept} == set(values)


def test_a_value_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"colour='pink'.*red, green"):
        Scene(colour="pink")
    with pytest.raises(ValueError, match="only a complete scene"):
        render(Scene(colour="red"), np.random.default_rng(0))
