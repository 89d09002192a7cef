"""Read the files that a user gives: text, JSON, JSON Lines and YAML, checked by a schema.

Every error names the file, the field, its value and the cure. :func:`validate` checks values in memory in the same way.
"""

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

WRONG_TYPE, UNKNOWN_FIELD = "wrong_type", "unknown_field"  # types of errors, besides pydantic's
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's types for an unknown field
MAX_VALUE = 200  # characters of a value in a message


class _RefusedError(Exception):
    """Content that Python's JSON parser accepts, and this module does not."""


def read_text(path: str | os.PathLike[str], error: type[ValueError] = ValueError, cure: str = "") -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: of the file, or an object with the method `read_text`.
        error: class of the error to raise.
        cure: last part of the error message.

    Raises:
        ValueError: of the class `error`; the file has another encoding. OSError: it cannot be read.
    """
    try:
        readable: Any = path if hasattr(path, "read_text") else Path(path)
        return str(readable.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as failure:
        problem = f"byte {failure.object[failure.start]:#04x} at {failure.start}"
        raise error(f"{os.fspath(path)}: not UTF-8 ({problem}); {cure or 'save it in UTF-8'}") from None


def parse_json(
    text: str, where: str, error: type[ValueError] = ValueError, cure: str = "", finite: bool = False
) -> Any:
    """Parse JSON.

    Args:
        text: to parse.
        where: file, and line if the text is one, for the error message.
        error, cure: as for :func:`read_text`.
        finite: whether to refuse NaN and infinity, which are no JSON, but which Python writes.

    Raises:
        ValueError: of the class `error`; the text is not JSON, or an object has the same key twice.
    """

    def to_object(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for name, value in items:
            if name in content:
                raise _RefusedError(f"duplicate key {name!r}; remove all but one")
            content[name] = value
        return content

    def to_constant(name: str) -> float:
        if finite:
            raise _RefusedError(f"not JSON ({name} is no JSON value){cure and f'; {cure}'}")
        return float(name)

    try:
        return json.loads(text, object_pairs_hook=to_object, parse_constant=to_constant)
    except _RefusedError as refused:
        raise error(f"{where}: {refused}") from None
    except (ValueError, RecursionError) as failure:
        raise error(f"{where}: not JSON ({failure}){cure and f'; {cure}'}") from None


def read_json(path: str | os.PathLike[str], error: type[ValueError] = ValueError, cure: str = "") -> Any:
    """Return the content of a JSON file; arguments and errors as for :func:`parse_json`."""
    return parse_json(read_text(path, error, cure), os.fspath(path), error, cure)


def read_object(path: str | os.PathLike[str], error: type[ValueError] = ValueError, cure: str = "") -> dict[str, Any]:
    """Return the content of a file with a JSON object.

    Raises:
        ValueError: of the class `error`; the content is something else.
    """
    content = read_json(path, error, cure)
    if not isinstance(content, dict):
        raise error(f"{os.fspath(path)}: is {type(content).__name__}, must be a JSON object{cure and f'; {cure}'}")
    return content


def read_json_lines(
    path: str | os.PathLike[str], error: type[ValueError] = ValueError, cure: str = ""
) -> list[tuple[str, Any]]:
    """Return (file and line, value) of each line of a JSON Lines file; arguments and errors as for `parse_json`."""
    lines = [
        (f"{os.fspath(path)} line {number}", line)
        for number, line in enumerate(read_text(path, error, cure).splitlines(), 1)
        if line.strip()
    ]
    return [(where, parse_json(line, where, error, cure)) for where, line in lines]


def read_yaml(path: str | os.PathLike[str], error: type[ValueError] = ValueError, cure: str = "") -> Any:
    """Return the content of a YAML file, of plain values only.

    Raises:
        ValueError: of the class `error`; the file is not such YAML.
    """
    try:
        return yaml.safe_load(read_text(path, error, cure))
    except (yaml.YAMLError, RecursionError, OverflowError) as failure:
        problem = " ".join(str(failure).split())
        raise error(f"{os.fspath(path)!r}: must be YAML: {problem}{cure and f'; {cure}'}") from None


@functools.cache
def adapter(schema: Any) -> TypeAdapter[Any]:
    """Return the validator of a schema, built once."""
    return TypeAdapter(schema)


def validate(
    schema: Any,
    value: Any,
    name: str = "",
    *,
    where: str = "",
    error: type[ValueError] | None = None,
    cure: str = "",
) -> Any:
    """Return `value` converted to `schema`.

    Args:
        schema: any type that pydantic validates.
        value: the value.
        name: what messages call the value itself; its fields are named by their path.
        where: file, and line if there is one, for the error message.
        error: class of the error to raise; None for TypeError where the type is wrong, and ValueError elsewhere.
        cure: last part of the error message.

    Raises:
        ValueError, TypeError: the first field that is wrong, its value and what it must be.
    """
    try:
        return adapter(schema).validate_python(value)
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        kind = error or (TypeError if first["type"].endswith("_type") else ValueError)
        raise kind(f"{where and f'{where}: '}{message(first, name, schema)}{cure and f'; {cure}'}") from None
    except RecursionError:
        raise (error or ValueError)(f"{where or name}: contains itself, or is nested too deeply") from None


def message(problem: ErrorDetails, name: str, schema: Any = None) -> str:
    """Return an error of pydantic as `field=value: reason`.

    Args:
        problem: from `ValidationError.errors()`.
        name: name of the whole value, for an error that is not in a field.
        schema: that was validated, for the names of its fields.
    """
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"] if part != "[key]")
    field = path.lstrip(".") or name
    if problem["type"] == "missing":
        return f"lacks {field!r}"
    if problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        if reason.startswith("must"):
            return f"{field}={shown(problem['input'])}: {reason}"
        return f"{field}: {reason}" if field else reason
    if problem["type"] in UNKNOWN:
        return unknown("field", field, fields_of(schema) if len(problem["loc"]) == 1 else ())
    reason = problem["msg"].replace("Input should be", "must be")  # of a type without `must_be`
    return f"{field}: {reason}" if problem["type"] == UNKNOWN_FIELD else f"{field}={shown(problem['input'])}: {reason}"


def fields_of(schema: Any) -> list[str]:
    """Return the names of the fields of a pydantic model, a dataclass or a `TypedDict`."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return list(schema.model_fields)
    if dataclasses.is_dataclass(schema):
        return [field.name for field in dataclasses.fields(schema)]
    return list(getattr(schema, "__annotations__", ()))


def shown(value: Any) -> str:
    """Return a value for a message, a long one shortened."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}..."


def unknown(what: str, name: Any, names: Iterable[str]) -> str:
    """Return the message for an unknown name: the closest known name if there is one, and all known names."""
    known = list(names)
    rest = f"; must be one of {', '.join(known)}" if known else ""
    return f"unknown {what} {name!r}{suggestion(str(name), known)}{rest}"


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the closest known name as " (did you mean 'x'?)"; empty if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
