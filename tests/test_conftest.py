"""The marker `sampled`."""

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from tests.conftest import left_out

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in left_out(items):
        item.add_marker(pytest.mark.slow)
"""
SOURCE = """
import pytest

@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", range(10))
def test_ten(number):
    pass

@pytest.mark.sampled(3)
def test_one():
    pass

@pytest.mark.parametrize("number", range(4))
def test_others(number):
    pass
"""


def test_one_in_k_of_the_parameters_run_and_the_others_are_slow(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n    slow\n    sampled(k)\n")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SOURCE)
    normal = pytester.inline_run("-m", "not slow", "-p", "no:xdist")
    normal.assertoutcome(passed=4 + 1 + 4)
    pytester.inline_run("-m", "slow", "-p", "no:xdist").assertoutcome(passed=6)
    again = pytester.inline_run("-m", "not slow", "-p", "no:xdist")
    ran = [[call.item.nodeid for call in run.getcalls("pytest_runtest_call")] for run in (normal, again)]
    assert ran[0] == ran[1]
