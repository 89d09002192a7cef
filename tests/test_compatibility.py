"""Guidance with what people put around a pipeline: equal to the plain pipeline, or refused before the first step.

The long run (`pytest -m slow tests/test_compatibility.py --table FILE`) tries every feature with every family and
method, and some hundred drawn combinations, and writes the table; the normal one draws a few.
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
TOLERANCE = {torch.float32: 0.0, torch.bfloat16: 1e-2}  # besides the feature's, for another order of rounding


@dataclass(frozen=True)
class Drawn:
    """A combination to be tried."""

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
def unguided_of(drawn: Drawn, same: Callable[[Any], None]) -> tuple[Any, Tensor]:
    """A pipeline without the feature, and what it makes unguided."""
    pipe = drawn.pipe()
    with torch.no_grad():
        same(pipe)
    return pipe, drawn.sample(pipe)


def rounding(drawn: Drawn, feature: Feature) -> float:
    """How far the unguided pipeline in a narrow dtype is from itself in float32: as far may a feature be from the same
    by other means, which rounds in another order. In float32 it may not."""
    if drawn.dtype == torch.float32:
        return 0.0
    alike = replace(drawn, feature="", method="")
    narrow, wide = (unguided_of(replace(alike, dtype=dtype), feature.same)[1] for dtype in (drawn.dtype, torch.float32))
    return (narrow - wide).abs().mean().item()


@functools.cache
def references(drawn: Drawn, same: Callable[[Any], None]) -> tuple[Tensor, Tensor | str]:
    """Unguided and guided, of a pipeline without the feature; or why it is refused whatever the feature."""
    pipe, unguided = unguided_of(replace(drawn, method=""), same)
    try:
        with drawn.guide(pipe):
            return unguided, drawn.sample(pipe)
    except (LookupError, ValueError) as refusal:
        return unguided, str(refusal)


def reference_of(drawn: Drawn, feature: Feature) -> tuple[Tensor, Tensor | str]:
    return references(replace(drawn, feature=""), feature.same)


@functools.lru_cache(maxsize=1)
def prepare(drawn: Drawn) -> tuple[Any, Tensor] | str:
    """A pipeline with a feature, and what it makes unguided; or why it makes nothing."""
    feature, pipe = FEATURES[drawn.feature], drawn.pipe()
    try:
        with torch.no_grad(), feature.within():
            feature.on(pipe)
        return pipe, drawn.sample(pipe, feature.within)
    except UnavailableError as error:
        return str(error)
    except Exception as error:  # whatever diffusers raises of an unguided pipeline
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def outcome(drawn: Drawn) -> tuple[str, str]:
    """Try a combination.

    Returns:
        EQUAL; REFUSED and the message; or MISSING and why, where the unguided pipeline does not work either.
    """
    feature = FEATURES[drawn.feature]
    prepared = prepare(replace(drawn, method=""))
    if isinstance(prepared, str):
        return MISSING, prepared
    pipe, before = prepared
    unguided, expected = reference_of(drawn, feature)
    lost = (before - unguided).abs().mean().item()
    assert feature.lossy or lost <= feature.atol + rounding(drawn, feature), f"the feature itself is {lost:.1e} off"
    message = ""
    run = None
    try:
        with drawn.guide(pipe) as run:
            results = [drawn.sample(pipe, feature.within) for _ in range(feature.calls)]
    except (LookupError, ValueError) as refusal:
        message = str(refusal)
        assert_ours(refusal, run)
    if not message:
        assert isinstance(expected, Tensor), "refused without the feature, and not with it"
        inexact = feature.lossy or drawn.dtype == torch.bfloat16  # extrapolation magnifies what is lost
        acts = (expected - unguided).abs().mean().item()
        tolerance = TOLERANCE[drawn.dtype] + (10 * lost + 1e-4 if inexact else feature.atol)
        if feature.lossy:  # Mochi's STG under TaylorSeer: 12.7 times; test_caches.py holds what it computes to 1e-4
            tolerance = max(tolerance, acts / 100)
        assert acts > 10 * feature.atol
        for result in results:
            error = (result - expected).abs().mean().item()
            assert error <= tolerance, f"{error:.1e} off"
            assert feature.lossy or (result - before).abs().mean() > acts / 2
    assert torch.equal(drawn.sample(pipe, feature.within), before), "something was left behind"
    return (REFUSED, message) if message else (EQUAL, "")


def assert_ours(refusal: Exception, run: Run | None) -> None:
    """A refusal is raised by us, on purpose, before a step is done."""
    file = Path(traceback.extract_tb(refusal.__traceback__)[-1].filename).resolve()
    assert ROOT in file.parents, f"{type(refusal).__name__}: {refusal}"
    assert ROOT / "tests" not in file.parents
    assert run is None or run.step == 0


LISTED = ("NAG", "EMAG", "STG")
CELLS = [Drawn(feature, family, method) for feature in FEATURES for family in SUBJECTS for method in LISTED]


@pytest.mark.slow
@pytest.mark.parametrize("drawn", CELLS, ids=lambda drawn: f"{drawn.feature}-{drawn.family}-{drawn.method}")
def test_every_feature(drawn: Drawn, record_property: Callable[[str, Any], None]) -> None:
    kind, detail = outcome(drawn)
    record_property("cell", (drawn.feature, drawn.family, drawn.method, kind, detail))


def draw(seed: int, count: int) -> list[Drawn]:
    """Random combinations, the same for a seed."""
    generator = random.Random(seed)
    return [
        Drawn(
            generator.choice(list(FEATURES)),
            generator.choice(list(SUBJECTS)),
            generator.choice(list(METHODS)),
            generator.choice((1, 2)),
            generator.choice(list(TOLERANCE)),
            generator.choice((True, False)),
        )
        for _ in range(count)
    ]


def name_of(drawn: Drawn) -> str:
    parts = (drawn.feature, drawn.family, drawn.method, drawn.batch, str(drawn.dtype).removeprefix("torch."))
    return "-".join(map(str, (*parts, "cfg" if drawn.cfg else "no cfg")))


@pytest.mark.slow
@pytest.mark.parametrize("drawn", dict.fromkeys(draw(2, 400)), ids=name_of)
def test_a_drawn_combination_is_equal_or_refused(drawn: Drawn) -> None:
    outcome(drawn)


QUICK = [drawn for drawn in draw(1, 60) if FEATURES[drawn.feature].calls > 1][:30]


MISSED = {  # what diffusers itself does not do
    "fuse_qkv_projections": {"Mochi"},
    "set_attention_backend: _native_flash": {"LTX", "HunyuanVideo"},  # it takes no masks
    "FasterCache": {"Wan", "Wan, two transformers", "LTX", "HunyuanVideo"},
}
SOME_REFUSED = {"PyramidAttentionBroadcast", "FasterCache", "MagCache", "TaylorSeer"}


@pytest.mark.parametrize("drawn", QUICK, ids=name_of)
def test_a_few_drawn_combinations(drawn: Drawn) -> None:
    kind, detail = outcome(drawn)
    missed = drawn.family in MISSED.get(drawn.feature, ()) or detail == NO_ACCELERATOR
    assert (kind == MISSING) == missed, detail
    assert kind != REFUSED or drawn.feature in SOME_REFUSED, detail
