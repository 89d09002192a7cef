"""Types of generate(): what a type checker sees. mypy checks `checked_by_mypy`, whose ignores must be needed."""

import inspect
import typing

from typing_extensions import assert_type

from vidguide import Clip, generate
from vidguide.pipelines.generate import Arguments


def checked_by_mypy() -> None:
    assert_type(generate("a circle", steps=2, seed=1), Clip)
    assert_type(generate(["a circle", "a square"], steps=2), list[Clip])
    generate("a circle", stepz=2)  # type: ignore[call-overload]
    generate("a circle", steps="two")  # type: ignore[call-overload]


def test_the_overloads_have_the_arguments_of_the_function() -> None:
    parameters = inspect.signature(generate, eval_str=True).parameters
    named = {name: each.annotation for name, each in parameters.items() if name != "prompt"}
    assert typing.get_type_hints(Arguments) == named
