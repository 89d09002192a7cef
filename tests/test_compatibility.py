"""Guidance with features of diffusers and torch: equal to the plain pipeline, or refused before the first step.

The long run (`pytest -m slow tests/test_compatibility.py --table FILE`) tests every feature with every family and
method, and some hundred random combinations, and writes the table; the default run tests a few random combinations.
"""

import functools
import random
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.common_pipelines import METHODS, SUBJECTS
from tests.helpers.pipeline_features import FEATURES, NO_ACCELERATOR, Feature, UnavailableError
from vidguide import guide
from vidguide.tracing.run import Run

ROOT = Path(__file__).parent.parent
EQUAL, REFUSED, MISSING = "equal", "refused", "not in diffusers"
TOLERANCE = {torch.float32: 0.0, torch.bfloat16: 1e-2}  # added to the feature's, for a different order of rounding


@dataclass(frozen=True)
class Combination:
    """Feature, family, method and settings of one test."""

    feature: str
    family: str
    method: str
    batch: int = 1
    dtype: torch.dtype = torch.float32
    cfg: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        return {"batch": self.batch, "cfg": self.cfg}

    def pipe(self) -> Any:
        return SUBJECTS[self.family].pipe(self.cfg, self.dtype)

    def sample(self, pipe: Any, within: Callable[[], Any] = nullcontext) -> Tensor:
        with torch.no_grad(), within():
            return SUBJECTS[self.family].sample(pipe, dtype=self.dtype, **self.settings).float()

    def guide(self, pipe: Any) -> Any:
        negative = SUBJECTS[self.family].negative(self.dtype)
        return guide(pipe, *METHODS[self.method](negative))


@functools.cache
def unguided_sample(combination: Combination, equivalent: Callable[[Any], None]) -> tuple[Any, Tensor]:
    """Return the equivalent pipeline without the feature, and its unguided sample."""
    pipe = combination.pipe()
    with torch.no_grad():
        equivalent(pipe)
    return pipe, combination.sample(pipe)


def rounding_error(combination: Combination, feature: Feature) -> float:
    """Return the error of the unguided pipeline in bfloat16 against float32, 0 for float32.

    It bounds the error of a feature whose equivalent rounds in another order.
    """
    if combination.dtype == torch.float32:
        return 0.0
    unguided = replace(combination, feature="", method="")
    narrow, float32 = (
        unguided_sample(replace(unguided, dtype=dtype), feature.equivalent)[1]
        for dtype in (combination.dtype, torch.float32)
    )
    return (narrow - float32).abs().mean().item()


@functools.cache
def reference_samples(combination: Combination, equivalent: Callable[[Any], None]) -> tuple[Tensor, Tensor | str]:
    """Return the unguided and the guided sample of a pipeline without the feature; or the message if it is refused."""
    pipe, unguided = unguided_sample(replace(combination, method=""), equivalent)
    try:
        with combination.guide(pipe):
            return unguided, combination.sample(pipe)
    except (LookupError, ValueError) as refusal:
        return unguided, str(refusal)


def reference_of(combination: Combination, feature: Feature) -> tuple[Tensor, Tensor | str]:
    return reference_samples(replace(combination, feature=""), feature.equivalent)


@functools.lru_cache(maxsize=1)
def prepare_pipeline(combination: Combination) -> tuple[Any, Tensor] | str:
    """Return a pipeline with a feature and its unguided sample; or the reason why it does not work."""
    feature, pipe = FEATURES[combination.feature], combination.pipe()
    try:
        with torch.no_grad(), feature.within():
            feature.enable(pipe)
        return pipe, combination.sample(pipe, feature.within)
    except UnavailableError as error:
        return str(error)
    except Exception as error:  # any error of the unguided pipeline
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def run_combination(combination: Combination) -> tuple[str, str]:
    """Compare a guided pipeline with the feature to one without it.

    Returns:
        EQUAL; REFUSED and the message; or MISSING and the reason, if the unguided pipeline does not work either.
    """
    feature = FEATURES[combination.feature]
    prepared = prepare_pipeline(replace(combination, method=""))
    if isinstance(prepared, str):
        return MISSING, prepared
    pipe, before = prepared
    unguided, expected = reference_of(combination, feature)
    feature_error = (before - unguided).abs().mean().item()
    assert feature.lossy or feature_error <= feature.atol + rounding_error(combination, feature), (
        f"error of the feature itself: {feature_error:.1e}"
    )
    message = ""
    run = None
    try:
        with combination.guide(pipe) as run:
            results = [combination.sample(pipe, feature.within) for _ in range(feature.calls)]
    except (LookupError, ValueError) as refusal:
        message = str(refusal)
        assert_raised_by_vidguide(refusal, run)
    if not message:
        assert isinstance(expected, Tensor), "refused without the feature, but not with it"
        inexact = feature.lossy or combination.dtype == torch.bfloat16  # extrapolation magnifies the error
        change = (expected - unguided).abs().mean().item()
        tolerance = TOLERANCE[combination.dtype] + (10 * feature_error + 1e-4 if inexact else feature.atol)
        if feature.lossy:  # Mochi's STG under TaylorSeer: 12.7 times; test_caches.py compares it to 1e-4
            tolerance = max(tolerance, change / 100)
        assert change > 10 * feature.atol
        for result in results:
            error = (result - expected).abs().mean().item()
            assert error <= tolerance, f"error {error:.1e}"
            assert feature.lossy or (result - before).abs().mean() > change / 2
    assert torch.equal(combination.sample(pipe, feature.within), before), "the pipeline is not restored"
    return (REFUSED, message) if message else (EQUAL, "")


def assert_raised_by_vidguide(refusal: Exception, run: Run | None) -> None:
    """Assert that vidguide raised the refusal, before the first step ended."""
    file = Path(traceback.extract_tb(refusal.__traceback__)[-1].filename).resolve()
    assert ROOT in file.parents, f"{type(refusal).__name__}: {refusal}"
    assert ROOT / "tests" not in file.parents
    assert run is None or run.step == 0


LISTED = ("NAG", "EMAG", "STG")
CELLS = [Combination(feature, family, method) for feature in FEATURES for family in SUBJECTS for method in LISTED]


@pytest.mark.slow
@pytest.mark.parametrize(
    "combination", CELLS, ids=lambda combination: f"{combination.feature}-{combination.family}-{combination.method}"
)
def test_every_feature_is_equal_or_refused(
    combination: Combination, record_property: Callable[[str, Any], None]
) -> None:
    kind, detail = run_combination(combination)
    record_property("cell", (combination.feature, combination.family, combination.method, kind, detail))


def draw_combinations(seed: int, count: int) -> list[Combination]:
    """Return random combinations, the same for a seed."""
    generator = random.Random(seed)
    return [
        Combination(
            generator.choice(list(FEATURES)),
            generator.choice(list(SUBJECTS)),
            generator.choice(list(METHODS)),
            generator.choice((1, 2)),
            generator.choice(list(TOLERANCE)),
            generator.choice((True, False)),
        )
        for _ in range(count)
    ]


def name_of(combination: Combination) -> str:
    parts = (
        combination.feature,
        combination.family,
        combination.method,
        combination.batch,
        str(combination.dtype).removeprefix("torch."),
    )
    return "-".join(map(str, (*parts, "cfg" if combination.cfg else "no cfg")))


@pytest.mark.slow
@pytest.mark.parametrize("combination", dict.fromkeys(draw_combinations(2, 400)), ids=name_of)
def test_random_combinations_are_equal_or_refused(combination: Combination) -> None:
    run_combination(combination)


QUICK = [combination for combination in draw_combinations(1, 60) if FEATURES[combination.feature].calls > 1][:16]


UNSUPPORTED = {  # combinations that diffusers does not support
    "fuse_qkv_projections": {"Mochi"},
    "set_attention_backend: _native_flash": {"LTX", "HunyuanVideo"},  # it does not take masks
    "FasterCache": {"Wan", "Wan, two transformers", "LTX", "HunyuanVideo"},
}
PARTLY_REFUSED = {"PyramidAttentionBroadcast", "FasterCache", "MagCache", "TaylorSeer"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("combination", QUICK, ids=name_of)
def test_a_few_random_combinations_are_equal_or_refused(combination: Combination) -> None:
    kind, detail = run_combination(combination)
    unsupported = combination.family in UNSUPPORTED.get(combination.feature, ()) or detail == NO_ACCELERATOR
    assert (kind == MISSING) == unsupported, detail
    assert kind != REFUSED or combination.feature in PARTLY_REFUSED, detail
