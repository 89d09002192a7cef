"""The dual encoder that ships, on renders of combinations that it never saw in training."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vidguide.clip import Clip
from vidguide.eval.metrics.registry import METRICS, select_metrics
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.world.scene import ATTRIBUTES, Scene, all_scenes, caption, held_out, render
from vidguide.eval.world.shipped_encoder import FOLDER, WEIGHTS, shipped_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import dual_encoder as training
from text import random_caption

HELD_OUT = [scene for scene in all_scenes() if held_out(scene)]
SCENE = next(scene for scene in HELD_OUT if scene.motion == "left" and scene.colour == "red")


def frames(scene: Scene = SCENE, seed: int = 0) -> np.ndarray:
    return render(scene, np.random.default_rng(seed))


def value(name: str, clip: np.ndarray, prompt: str, negative: str | None = None) -> float:
    result = METRICS[name](Sample(Clip(frames=clip, fps=8), prompt, negative)).value
    assert result is not None
    return result


def test_retrieval_between_held_out_clips_and_captions() -> None:
    clips = np.stack([shipped_encoder().clip(frames(scene, 5)) for scene in HELD_OUT])
    texts = np.stack([shipped_encoder().caption(caption(scene, 1).split()) for scene in HELD_OUT])
    assert np.linalg.norm(clips, axis=1) == pytest.approx(np.ones(len(clips)), abs=1e-5)
    similar, diagonal = clips @ texts.T, np.arange(len(HELD_OUT))
    assert (similar.argmax(0) == diagonal).mean() > 0.98
    assert (similar.argmax(1) == diagonal).mean() > 0.98


def test_each_wrong_word_lowers_the_cosine_by_about_the_same() -> None:
    scene, values = SCENE, []
    for name in (None, *ATTRIBUTES):
        if name:
            other = next(word for word in ATTRIBUTES[name] if word != getattr(SCENE, name))
            scene = Scene(**{**vars(scene), name: other})
        values.append(value("dual.similarity", frames(), caption(scene)))
    steps = -np.diff(values)
    assert (steps > 0.1).all(), values
    assert steps.max() < 2 * steps.min()


def test_similarity_depends_on_motion() -> None:
    left, right = "a red object moving left", "a red object moving right"
    assert value("dual.similarity", frames(), left) > 0.2 + value("dual.similarity", frames(), right)
    back = frames()[::-1].copy()
    assert value("dual.similarity", back, right) > 0.2 + value("dual.similarity", back, left)


def test_negative_similarity_is_high_where_the_word_is_true() -> None:
    prompt = caption(Scene(shape=SCENE.shape, motion="left"))
    shows, absent = (value("dual.negative_similarity", frames(), prompt, word) for word in ("red", "blue"))
    assert shows > absent + 0.3
    both = value("dual.negative_similarity", frames(), prompt, "red, blurry, blue")
    assert both == pytest.approx((shows + absent) / 2)
    margins = [value("dual.margin", frames(), prompt, word) for word in ("red", "blue")]
    assert margins[1] - margins[0] == pytest.approx(shows - absent, abs=1e-5)


def test_destroyed_picture_has_low_similarity() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (13, 64, 64, 3), dtype=np.uint8)
    assert value("dual.similarity", noise, caption(SCENE)) < 0
    assert value("dual.negative_similarity", noise, "a square", "red") < 0.2
    result = METRICS["dual.similarity"](Sample(Clip(frames=noise, fps=8), caption(SCENE)))
    assert result.details["probability"] < 0.01


@pytest.mark.parametrize(
    ("prompt", "negative", "words"),
    [("a red car", "red", "not of the shipped world"), ("a red square", "ugly", "names no attribute")],
)
def test_texts_outside_the_world_are_undefined(prompt: str, negative: str, words: str) -> None:
    result = METRICS["dual.margin"](Sample(Clip(frames=frames(), fps=8), prompt, negative))
    assert result.value is None
    assert words in str(result.reason)


def test_weights_are_small_and_part_of_the_definition() -> None:
    stored = load_file(FOLDER / "model.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    assert (FOLDER / "model.safetensors").stat().st_size < 3e6
    assert {metric.weights for metric in select_metrics(["dual"]) if metric.id.startswith("dual")} == {WEIGHTS}
    assert "dual.similarity" in {metric.id for metric in select_metrics(None)}


def test_training_never_draws_a_held_out_scene() -> None:
    random = np.random.default_rng(0)
    scenes = [scene for scene in all_scenes() if not held_out(scene)]
    for turn in range(300):
        text = random_caption(scenes[random.integers(len(scenes))], random)
        for variant in (text, training.near_miss(text, random)):
            named = Scene(**training.named_attributes(variant))
            assert not (named.complete and held_out(named)), variant
        assert not text or training.named_attributes(text) != training.named_attributes(
            training.near_miss(text, random)
        ), turn


def test_labels_match_the_words() -> None:
    clips, words, labels = training.batch(np.random.default_rng(3), 12)
    assert clips.shape[:2] == (12, 8)
    assert labels.shape == (12, len(words))
    assert training.true_of(SCENE, "red")
    assert not training.true_of(SCENE, "a blue object moving left")
    assert not training.true_of(None, "red")
