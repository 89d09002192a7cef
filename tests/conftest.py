"""Fixtures and options of all tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which diffusers does

from diffusers import WanTransformer3DModel

from tests.helpers.snapshots import snapshot_of
from tests.helpers.tiny_wan import tiny_wan

# Plain eager flex attention instead of a compilation of it at every call.
torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, metavar="FILE", help="write the compatibility table (with -m slow)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table"):
        from tests.helpers.compatibility_table import Recorder

        config.pluginmanager.register(Recorder(config.getoption("--table")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests an hour; the limit of the others is in pyproject.toml."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture
def record_refusal(record_property: Callable[[str, Any], None]) -> Callable[[pytest.ExceptionInfo[Any]], None]:
    """Return a function that records an error for the list of validation errors in COMPATIBILITY.md."""
    return lambda caught: record_property("refusal", f"{caught.type.__name__}: {caught.value}")


@pytest.fixture
def wan() -> WanTransformer3DModel:
    return tiny_wan()


@pytest.fixture
def snapshot() -> Callable[[torch.nn.Module], dict[str, Any]]:
    return snapshot_of
