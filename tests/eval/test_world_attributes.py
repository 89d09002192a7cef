"""Text alignment on rendered scenes, whose attributes are known, and on everything that is none."""

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


def value(name: str, given: Sample) -> float | None:
    return METRICS[name](given).value


def test_rendered_scenes_follow_their_own_captions() -> None:
    for scene in [one for one in all_scenes() if held_out(one)][::9]:
        given = sample(scene, caption(scene, 1))
        assert value("world.attributes", given) == 1, scene
        assert value("world.well_formed", given) == 1, scene
        assert all(value(f"world.{name}", given) == 1 for name in ATTRIBUTES)


def test_each_wrong_attribute_costs_its_share() -> None:
    given = sample(SCENE, "a large blue square moving right on a white background")
    assert value("world.attributes", given) == pytest.approx(3 / 5)
    assert value("world.colour", given) == 0
    assert value("world.shape", given) == 1
    assert value("world.attributes", sample(SCENE, "a red object")) == 1


def test_what_the_negative_names_is_found() -> None:
    prompt = "a square moving left"
    assert value("world.negative_present", sample(SCENE, prompt, "red")) == 1
    assert value("world.negative_avoided", sample(SCENE, prompt, "red")) == 0
    assert value("world.negative_present", sample(SCENE, prompt, "blue, blurry")) == 0
    assert value("world.negative_avoided", sample(SCENE, prompt, "blue")) == 1
    assert value("world.negative_present", sample(SCENE, prompt, "red, black background")) == 0.5
    with pytest.raises(UndefinedError, match="names no attribute"):
        negative_attributes("blurry")


def test_a_destroyed_picture_avoids_nothing() -> None:
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
def test_texts_of_another_world_are_undefined_with_a_reason(
    prompt: str | None, negative: str | None, name: str, words: str
) -> None:
    measured = METRICS[name](sample(SCENE, prompt, negative))
    assert words in str(measured.reason)
    assert (measured.value is None) == bool(words)


def test_other_sizes_are_undefined() -> None:
    big = Clip(frames=render(SCENE, np.random.default_rng(0)).repeat(2, 1).repeat(2, 2), fps=8)
    assert "128x128" in str(METRICS["world.colour"](Sample(big, "a red square")).reason)
