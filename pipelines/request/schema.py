"""Field types of requests and sweep files, with errors as `argument=value: must be ...`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from vidguide.eval.files import UNKNOWN_FIELD, WRONG_TYPE, unknown


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


Text = Annotated[str, Field(strict=True, pattern=r"\S"), must_be("non-empty text")]
Count = Annotated[int, Field(strict=True, ge=1), must_be("an integer of at least 1")]
Rate = Annotated[
    float, Field(strict=True, gt=0, allow_inf_nan=False), must_be("a finite number above 0", convert=False)
]
Share = Annotated[
    float, Field(strict=True, gt=0, le=1, allow_inf_nan=False), must_be("above 0 and at most 1", convert=False)
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
    strength: Share | None


class Prompts(TypedDict):
    """Several prompts of :func:`vidguide.generate`."""

    prompt: Annotated[list[Text], Field(min_length=1), must_be("a text, or a list of at least one")]
