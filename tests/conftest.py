"""Fixtures and options of all tests."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

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


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `sampled` leaves out as slow, and give slow tests an hour; the limit of others is in pyproject.toml."""
    for item in left_out(items):
        item.add_marker(pytest.mark.slow)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the parameters that `sampled` leaves out: all but one in k, the same ones in each run, of each test."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    remaining = []
    for group in groups.values():
        marker = group[0].get_closest_marker("sampled")
        assert marker is not None
        group.sort(key=lambda item: crc32(item.nodeid.encode()))
        remaining += group[math.ceil(len(group) / marker.args[0]) :]
    return remaining


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
