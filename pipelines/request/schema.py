"""Field types of requests and sweep files, and pydantic's errors as `argument=value: must be ...`."""

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

WRONG_TYPE, UNKNOWN_FIELD = "wrong_type", "unknown_field"


def must_be(expected: str, convert: bool = True) -> WrapValidator:
    """Replace pydantic's message by "must be `expected`"; errors of items and fields keep their own message.

    Args:
        expected: what the value must be.
        convert: False returns the value as it was given, such as 8 for a float of 8.0.
    """

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            converted = handler(value)
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"] or first["type"] in ("value_error", UNKNOWN_FIELD):
                raise
            kind = WRONG_TYPE if first["type"].endswith("_type") else "wrong_value"
            raise PydanticCustomError(kind, "must be {expected}", {"expected": expected}) from None
        return converted if convert else value

    return WrapValidator(check)


def known_fields(schema: type) -> BeforeValidator:
    """Refuse a value that is not a mapping, or has a key that the `TypedDict` lacks, with the closest name."""
    names = sorted(schema.__annotations__)

    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            context = {"fields": ", ".join(names)}
            raise PydanticCustomError(WRONG_TYPE, "must be a mapping with fields of {fields}", context)
        for name in value:
            if name not in names:
                raise PydanticCustomError(UNKNOWN_FIELD, "{message}", {"message": unknown("field", name, names)})
        return value

    return BeforeValidator(check)


def unknown(what: str, name: Any, names: Iterable[str]) -> str:
    """Return the message for an unknown name: the closest known name if there is one, and all known names."""
    known = list(names)
    return f"unknown {what} {name!r}{suggestion(str(name), known)}; must be one of {', '.join(known)}"


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the closest known name as " (did you mean 'x'?)"; empty if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


Text = Annotated[str, Field(strict=True, pattern=r"\S"), must_be("non-empty text")]
Count = Annotated[int, Field(strict=True, ge=1), must_be("an integer of at least 1")]
Rate = Annotated[
    float, Field(strict=True, gt=0, allow_inf_nan=False), must_be("a finite number above 0", convert=False)
]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63), must_be("an integer from 0 to 2^63 - 1")]


class Settings(TypedDict, total=False):
    """Sampling settings of :func:`vidguide.generate`; None means the default of the model."""

    steps: Count | None
    height: Count | None
    width: Count | None
    frames: Count | None
    fps: Rate | None
    guidance_scale: Rate | None
    max_sequence_length: Count | None


class Request(Settings, total=False):
    """Arguments of :func:`vidguide.generate` that can be checked without a model."""

    prompt: Text
    negative_prompt: Text | None
    seed: Seed


@functools.cache
def adapter(schema: Any) -> TypeAdapter[Any]:
    """Return the validator of a schema, built once."""
    return TypeAdapter(schema)


def validate(schema: Any, value: Any, name: str = "") -> Any:
    """Return `value` converted to `schema`.

    Args:
        schema: any type that pydantic validates.
        value: the value.
        name: what messages call the value itself; its fields are named by their path.

    Raises:
        ValueError, TypeError: the first field that is wrong, its value and what it must be.
    """
    try:
        return adapter(schema).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        kind = TypeError if first["type"].endswith("_type") else ValueError
        raise kind(message(first, name)) from None


def message(error: ErrorDetails, name: str) -> str:
    """Return an error of pydantic as `field=value: reason`.

    Args:
        error: from `ValidationError.errors()`.
        name: name of the whole value, for an error that is not in a field.
    """
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"] if part != "[key]")
    where = path.lstrip(".") or name
    if error["type"] == "missing":
        return f"{where}: is missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    reason = error["msg"].replace("Input should be", "must be")  # of a type without `must_be`
    return f"{where}: {reason}" if error["type"] == UNKNOWN_FIELD else f"{where}={error['input']!r}: {reason}"
