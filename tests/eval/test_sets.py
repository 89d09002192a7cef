"""Distances between sets of clips, and of clips to ideal renderings."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

from tests.helpers.attacks import added_noise, blur
from vidguide.clip import Clip
from vidguide.eval.evaluate import evaluate
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring.set_distances import (
    covered,
    frechet_distance,
    kernel_pseudo_values,
    kernel_terms,
    pseudo_values,
    swap_p_value,
    unbiased_mean,
)
from vidguide.eval.scoring.sets import compare_sets, complete_scene
from vidguide.eval.scoring.statistics import estimate
from vidguide.eval.world.ideal import QUALITIES, defects, nearest_rendering
from vidguide.eval.world.scene import Scene, all_scenes, caption, render

SCENES = [all_scenes()[index] for index in np.random.default_rng(1).permutation(len(all_scenes()))[:12]]


def gaussian(count: int, dimensions: int, seed: int, scale: float = 1, shift: float = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)) * scale + shift


def singles(features: np.ndarray) -> list[np.ndarray]:
    return list(features[:, None])


@pytest.mark.parametrize(("counts", "dimensions"), [((40, 30), 6), ((12, 9), 20)])
def test_frechet_distance_equals_its_formula(counts: tuple[int, int], dimensions: int) -> None:
    first, second = gaussian(counts[0], dimensions, 0), gaussian(counts[1], dimensions, 1, 1.5, 0.3)
    covariances = [np.cov(part, rowvar=False) for part in (first, second)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_equals_the_double_loop_without_pairs_of_one_prompt() -> None:
    random = np.random.default_rng(0)
    first, second = ([random.normal(size=(random.integers(1, 4), 5)) for _ in range(6)] for _ in range(2))

    def mean_kernel(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean([(x @ y / 5 + 1) ** 3 for x, y in product(left, right)]))

    sums = [
        mean_kernel(first[p], first[q]) + mean_kernel(second[p], second[q])
        - mean_kernel(first[p], second[q]) - mean_kernel(second[p], first[q])
        for p, q in product(range(6), repeat=2)
        if p != q
    ]  # fmt: skip
    terms = kernel_terms(first, second)
    assert unbiased_mean(terms) == pytest.approx(np.mean(sums), rel=1e-9)
    expected = pseudo_values(lambda prompts: unbiased_mean(terms[np.ix_(prompts, prompts)]), 6)
    np.testing.assert_allclose(kernel_pseudo_values(terms), expected, rtol=1e-9)
    assert kernel_pseudo_values(terms).mean() == pytest.approx(unbiased_mean(terms))


def test_swapping_arms_within_prompts_changes_the_signs_of_the_terms() -> None:
    first, second = singles(gaussian(7, 3, 0)), singles(gaussian(7, 3, 1))
    signs = np.random.default_rng(2).choice([-1, 1], 7)
    left = [b if sign < 0 else a for a, b, sign in zip(first, second, signs, strict=True)]
    right = [a if sign < 0 else b for a, b, sign in zip(first, second, signs, strict=True)]
    np.testing.assert_allclose(kernel_terms(left, right), np.outer(signs, signs) * kernel_terms(first, second))


def test_bias_intervals_and_p_values_of_equal_and_different_sets() -> None:
    raw, jackknife, kernels, inside, p_values, powerful = [], [], [], [], [], []
    for seed in range(60):
        first, second = gaussian(25, 4, 2 * seed), gaussian(25, 4, 2 * seed + 1)
        raw.append(frechet_distance(first, second))
        terms = kernel_terms(singles(first), singles(second))
        kernels.append(unbiased_mean(terms))
        p_values.append(swap_p_value(terms))
        moved = second * 1.3 + 0.5

        def statistic(prompts: list[int], first: np.ndarray = first, moved: np.ndarray = moved) -> float:
            return frechet_distance(first[prompts], moved[prompts])

        interval = estimate(pseudo_values(statistic, 25).tolist())
        assert interval.low is not None
        assert interval.high is not None
        inside.append(interval.low <= 4 * 0.5**2 + 4 * 0.3**2 <= interval.high)
        jackknife.append(interval.mean or 0.0)
        powerful.append(swap_p_value(kernel_terms(singles(first), singles(moved))))
    assert np.mean(raw) > 0.3  # biased by more than the distance that a shift of 0.27 standard deviations makes
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / 60**0.5
    assert np.mean(jackknife) == pytest.approx(1.36, abs=3 * np.std(jackknife) / 60**0.5)
    assert np.mean(inside) > 0.85
    assert np.mean(np.array(p_values) <= 0.05) < 0.15
    assert np.mean(np.array(powerful) <= 0.05) > 0.7


def test_manifold_is_the_union_of_balls_to_the_third_neighbour() -> None:
    points, manifold = gaussian(50, 2, 0, 1.5), gaussian(20, 2, 1)
    expected = []
    for point in points:
        hits = []
        for centre in manifold:
            radius = sorted(np.linalg.norm(manifold - centre, axis=1))[3]
            hits.append(np.linalg.norm(point - centre) <= radius)
        expected.append(any(hits))
    assert 0 < np.mean(expected) < 1
    assert covered(points, manifold).tolist() == expected
    assert covered(manifold, manifold).all()


@pytest.mark.parametrize("scene", SCENES[:4])
def test_renderings_are_their_own_nearest_rendering(scene: Scene) -> None:
    frames = render(scene, np.random.default_rng(0))
    nearest = nearest_rendering(frames)
    assert nearest.scene == scene
    assert nearest.distance < 0.6
    assert (defects(frames) < [0.03, 0.01, 0.01, 0.01, 0.01, 0.01]).all()


def test_distance_to_the_nearest_rendering_is_that_of_the_damage() -> None:
    frames = render(SCENES[0], np.random.default_rng(0))
    assert nearest_rendering(added_noise(8)(frames)).distance == pytest.approx(8, rel=0.05)
    distances = [nearest_rendering(blur(sigma)(frames)).distance for sigma in (0.5, 1, 2)]
    assert distances[0] < distances[1] < distances[2]
    result = METRICS["world.ideal_distance"](Sample(Clip(frames=frames, fps=8), caption(SCENES[1])))
    assert result.value is not None
    assert result.value < 0.6
    assert result.details["nearest"] == vars(SCENES[0])
    assert len(result.details["defects"]) == len(QUALITIES)


def test_plain_clip_has_all_defects_but_of_the_background() -> None:
    plain = np.full((13, 64, 64, 3), 128, np.uint8)
    assert defects(plain).tolist() == [1, 1, 0, 1, 1, 1]
    assert nearest_rendering(plain).scene.background == "grey"


def rows(arm: str, manipulate: Any, seed: int) -> list[dict[str, Any]]:
    """Return the rows of clips of the scenes with the features of all spaces."""
    result = []
    for number, scene in enumerate(SCENES):
        frames = np.ascontiguousarray(manipulate(render(scene, np.random.default_rng([seed, number]))))
        sample = Sample(Clip(frames=frames, fps=8), caption(scene))
        for name in ("temporal.track_consistency", "dual.similarity", "world.ideal_distance"):
            fields = {"arm": arm, "prompt_id": str(number), "seed": 0, "eval_prompt": caption(scene)}
            result.append({"metric": name, "status": "ok", "details": METRICS[name](sample).details, **fields})
    return result


@pytest.fixture(scope="module")
def arms() -> dict[str, list[dict[str, Any]]]:
    unchanged = rows("good", lambda frames: frames, 0)
    return {"good": unchanged, "again": rows("again", lambda frames: frames, 1), "blurred": rows("b", blur(2), 1)}


@pytest.mark.slow
def test_damage_is_seen_where_attributes_are_right(arms: dict[str, list[dict[str, Any]]]) -> None:
    equal, blurred = (
        {distance.name: distance for distance in compare_sets(arms["good"], arms[name])}
        for name in ("again", "blurred")
    )
    spaces = ("motion", "dual", "oracle")
    assert {name.partition(":")[0] for name in equal} == set(spaces)
    # Twelve prompts: more than the oracle's six features, fewer than the 128 of the other spaces.
    assert [name for name in equal if "Fréchet distance between" in name] == [
        "oracle: Fréchet distance between the arms"
    ]
    for name in spaces:
        assert float(equal[f"{name}: kernel distance between the arms"].p or 0) > 0.05
    for name in ("dual", "oracle"):
        assert float(blurred[f"{name}: kernel distance between the arms"].p or 1) <= 0.05
        for kind in ("kernel", "Fréchet"):
            to_renderings = blurred[f"{name}: {kind} distance to renderings"]
            assert to_renderings.difference.mean is not None
            assert to_renderings.difference.mean > 0
    precision = blurred["oracle: precision"]
    assert precision.reference is not None
    assert precision.other is not None
    assert (precision.reference.mean or 0) > 0.8
    assert precision.other.mean == 0
    assert precision.p is not None
    assert precision.p <= 0.05


def test_too_few_prompts_and_other_texts_have_no_distance(arms: dict[str, list[dict[str, Any]]]) -> None:
    few = [row for row in arms["good"] if int(row["prompt_id"]) < 5]
    assert compare_sets(few, few) == []
    foreign = [{**row, "eval_prompt": "a dog"} for row in arms["good"]]
    names = [distance.name for distance in compare_sets(foreign, foreign)]
    assert names
    assert all(name.endswith("between the arms") for name in names)


def test_unnamed_attributes_are_drawn() -> None:
    random = np.random.default_rng(0)
    drawn = [complete_scene(Scene(colour="red"), random) for _ in range(40)]
    assert {scene.colour for scene in drawn} == {"red"}
    assert {scene.shape for scene in drawn} == {"circle", "square", "triangle"}


def test_report_shows_the_distances(tmp_path: Path) -> None:
    for arm, seed in (("one", 0), ("two", 1)):
        (tmp_path / arm).mkdir()
        for number, scene in enumerate(SCENES[:6]):
            frames = render(scene, np.random.default_rng([seed, number]))
            provenance = {"prompt": caption(scene), "seed": 0}
            Clip(frames=frames, fps=8, provenance=provenance).save(tmp_path / arm / f"{number}.mkv")
    evaluate(arms=[str(tmp_path / "one"), str(tmp_path / "two")], metrics=["dual.similarity"], output=tmp_path / "o")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "o" / name).read_text()
        assert "dual: kernel distance between the arms" in text
        assert "Kernel distances are unbiased" in text
