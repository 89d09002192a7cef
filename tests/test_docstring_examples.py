"""The examples in the docstrings of all public names print what they say."""

import doctest

import pytest

import vidguide

SAMPLE = {"attach", "calibrate", "generate", "guide"}  # run the shipped model
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SAMPLE else [])
    for name in vidguide.__all__
    if name != "__version__"
]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_public_name_print_what_they_say(name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    examples = [test for test in finder.find(getattr(vidguide, name), name, globs={}) if test.examples]
    assert examples, f"{name}: has no example"
    runner = doctest.DocTestRunner(verbose=False)
    for test in examples:
        runner.run(test)
    assert runner.failures == 0
