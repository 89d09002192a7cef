"""Every option of a `Setup`, alone and in pairs, gives the clip of a plain pipeline, or is refused by the table."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline

from tests.helpers.setups import OPTIONS, plain_sample, sample, write_files
from vidguide.pipelines.loading import set_up
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request import setup as setups
from vidguide.pipelines.request.setup import Setup

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the packages that quantize
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    target = tmp_path_factory.mktemp("files")
    write_files(target)
    return target


@pytest.fixture(autouse=True)
def sequential_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offload the transformer only: accelerate does not move the tied weights of a text encoder to a CPU."""

    def offload(self: Any, device: torch.device) -> None:
        cpu_offload(self.transformer, torch.device("cpu"), offload_buffers=True)

    monkeypatch.setattr(set_up, "WITHOUT_SEQUENTIAL", ())
    monkeypatch.setattr(DiffusionPipeline, "enable_sequential_cpu_offload", offload)


def together(folder: Path, *names: str) -> dict[str, Any]:
    """Return the values of several options."""
    for name in names:
        for package in OPTIONS[name].packages:
            pytest.importorskip(package)
    return {name: value for option in names for name, value in OPTIONS[option].filled(folder).items()}


def check_equal(folder: Path, *names: str) -> None:
    """Assert that two runs of a pipeline with these options give the frames of a plain one."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    pipe = load("tiny", device="cpu", setup=Setup(**together(folder, *names)), progress=False)
    expected, tolerance = plain_sample(folder, *names), sum(OPTIONS[name].atol for name in names)
    for _ in range(2):
        assert (sample(pipe) - expected).abs().mean().item() < tolerance


def fails(folder: Path, *names: str) -> bool:
    """Return whether options fail, or give other frames than a plain pipeline."""
    try:
        check_equal(folder, *names)
    except pytest.skip.Exception:
        raise
    except Exception:  # of any library
        return True
    except AssertionError:
        return True
    return False


def shared(first: str, second: str) -> bool:
    """Return whether two options give the same field."""
    return bool(set(OPTIONS[first].values) & set(OPTIONS[second].values))


PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if not shared(*pair)]


def in_table(folder: Path, *names: str) -> bool:
    """Return whether the table refuses options."""
    values = together(folder, *names)
    for name in names:
        Setup(**OPTIONS[name].filled(folder))
    try:
        Setup(**values)
    except ValueError:
        return True
    return False


REFUSED = [
    ("torchao-int8", "gguf"),
    ("torchao-int8", "casting"),
    ("quanto-int8", "casting"),
    ("gguf", "casting"),
    ("quanto-int8", "offload sequential"),
    ("gguf", "offload sequential"),
]
DRAWN = random.Random(19).sample(PAIRS, 24)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_gives_the_clip_of_the_plain_pipeline(name: str, folder: Path) -> None:
    check_equal(folder, name)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if not option.exact])
def test_an_option_that_changes_the_model_changes_the_clip(name: str, folder: Path) -> None:
    together(folder, name)
    assert (plain_sample(folder, name) - plain_sample(folder)).abs().mean().item() > 3 * OPTIONS[name].atol


@pytest.mark.parametrize(("first", "second"), REFUSED)
def test_a_pair_in_the_table_fails_without_it(
    first: str, second: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_table(folder, first, second)
    monkeypatch.setattr(setups, "CONFLICTS", ())
    assert fails(folder, first, second)


@pytest.mark.parametrize(("first", "second"), DRAWN)
def test_a_drawn_pair_gives_the_clip_of_the_plain_pipeline_or_is_refused(first: str, second: str, folder: Path) -> None:
    if in_table(folder, first, second):
        pytest.skip("refused, see above")
    check_equal(folder, first, second)


def test_every_conflict_is_tested(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for conflict in setups.CONFLICTS:
        monkeypatch.setattr(setups, "CONFLICTS", (conflict,))
        assert any(in_table(folder, *pair) for pair in REFUSED), conflict
