"""Text alignment on rendered scenes with known attributes, and on clips and texts of other worlds."""

import numpy as np
import pytest

from vidguide.clip import Clip
from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.world_attributes import negative_attributes
from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption, held_out, render

SCENE = Scene(size="large", colour="red", shape="square", motion="left", background="white")


def sample(scene: Scene, prompt: str | None, negative: str | None = None) -> Sample:
    return Sample(Clip(frames=render(scene, np.random.default_rng(0)), fps=8), prompt, negative)


def value(name: str, clip: Sample) -> float | None:
    return METRICS[name](clip).value


def test_rendered_scenes_match_their_captions() -> None:
    for scene in [scene for scene in all_scenes() if held_out(scene)][::9]:
        clip = sample(scene, caption(scene, 1))
        assert value("world.attributes", clip) == 1, scene
        assert value("world.well_formed", clip) == 1, scene
        assert all(value(f"world.{name}", clip) == 1 for name in ATTRIBUTES)


def test_renderings_are_in_the_world_and_fit_in_every_frame() -> None:
    for scene in all_scenes()[::61]:
        clip = sample(scene, caption(scene))
        assert value("world.in_world", clip) == 1
        assert 0.9 < (value("world.worst_fit", clip) or 0) <= 1


def test_a_colour_outside_the_palette_is_well_formed_and_not_in_the_world() -> None:
    frames = render(SCENE, np.random.default_rng(0))
    red = (245 - frames[..., 1:2].astype(float)) / (245 - 35)  # share of the object in each pixel, from the green
    cyan = np.rint(245 + red * (np.array([20.0, 220, 220]) - 245)).clip(0, 255).astype(np.uint8)
    clip = Sample(Clip(frames=cyan, fps=8), caption(SCENE))
    assert value("world.well_formed", clip) == 1
    assert value("world.in_world", clip) == 0


def test_the_worst_frame_counts_and_the_mean_is_in_the_details() -> None:
    frames = render(SCENE, np.random.default_rng(0)).copy()
    whole = METRICS["world.worst_fit"](Sample(Clip(frames=frames, fps=8), caption(SCENE)))
    frames[5, :, 32:] = frames[5, 0, 0]  # half of the object is gone in one frame
    cut = METRICS["world.worst_fit"](Sample(Clip(frames=frames, fps=8), caption(SCENE)))
    assert whole.value is not None
    assert cut.value is not None
    assert cut.value < whole.value - 0.1
    assert whole.details["mean"] - cut.details["mean"] == pytest.approx((whole.value - cut.value) / 13, abs=0.02)


def test_each_wrong_attribute_lowers_the_share() -> None:
    clip = sample(SCENE, "a large blue square moving right on a white background")
    assert value("world.attributes", clip) == pytest.approx(3 / 5)
    assert value("world.colour", clip) == 0
    assert value("world.shape", clip) == 1
    assert value("world.attributes", sample(SCENE, "a red object")) == 1


def test_attributes_of_the_negative_prompt_are_read() -> None:
    prompt = "a square moving left"
    assert value("world.negative_present", sample(SCENE, prompt, "red")) == 1
    assert value("world.negative_avoided", sample(SCENE, prompt, "red")) == 0
    assert value("world.negative_present", sample(SCENE, prompt, "blue, blurry")) == 0
    assert value("world.negative_avoided", sample(SCENE, prompt, "blue")) == 1
    assert value("world.negative_present", sample(SCENE, prompt, "red, black background")) == 0.5
    with pytest.raises(UndefinedError, match="names no attribute"):
        negative_attributes("blurry")


def test_destroyed_picture_does_not_count_as_avoided() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (13, 64, 64, 3), dtype=np.uint8)
    destroyed = Sample(Clip(frames=noise, fps=8), "a square moving left", "red")
    assert value("world.negative_present", destroyed) == 0
    assert value("world.negative_avoided", destroyed) == 0
    assert value("world.well_formed", destroyed) == 0


@pytest.mark.parametrize(
    ("prompt", "negative", "name", "words"),
    [
        (None, None, "world.attributes", "no eval_prompt"),
        ("a red car", None, "world.attributes", "not of the shipped world: car"),
        ("a moving object", None, "world.attributes", "names no attribute"),
        ("a red circle on a blue square", None, "world.attributes", "two values of colour: red and blue"),
        ("a red circle", None, "world.shape", ""),
        ("a red circle", None, "world.motion", "does not name a motion"),
        ("a red circle", None, "world.negative_present", "no negative_prompt"),
        ("a red circle", "ugly", "world.negative_present", "names no attribute"),
    ],
)
def test_texts_outside_the_world_are_undefined_with_a_reason(
    prompt: str | None, negative: str | None, name: str, words: str
) -> None:
    measured = METRICS[name](sample(SCENE, prompt, negative))
    assert words in str(measured.reason)
    assert (measured.value is None) == bool(words)


def test_other_frame_sizes_are_undefined() -> None:
    big = Clip(frames=render(SCENE, np.random.default_rng(0)).repeat(2, 1).repeat(2, 2), fps=8)
    assert "128x128" in str(METRICS["world.colour"](Sample(big, "a red square")).reason)
