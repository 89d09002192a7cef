"""Caches of diffusers from text, such as `FirstBlockCache:threshold=0.1`."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_origin, get_type_hints

import torch

from vidguide.eval.files import unknown
from vidguide.pipelines.loading.assemble import diffusers_class
from vidguide.pipelines.request.guidance_spec import alternatives, parse_value

IN_CODE = ("current_timestep_callback",)  # fields that cache_config() fills in from the pipeline


def cache_fields(spec: str) -> dict[str, Any]:
    """Return the fields of a cache's configuration that a spec gives.

    Raises:
        ValueError: an unknown field, or a wrong value, by name. ImportError: diffusers has no such cache.
    """
    name, _, arguments = spec.partition(":")
    types = get_type_hints(config_class(name))
    values = {}
    for argument in filter(None, arguments.split(",")):
        key, _, text = (part.strip() for part in argument.partition("="))
        if key not in types or key in IN_CODE:
            raise ValueError(
                f"cache={spec!r}: {unknown('field', key, [name for name in types if name not in IN_CODE])}"
            )
        try:
            values[key] = parse_field(text, types[key])
        except ValueError as error:
            raise ValueError(f"cache={spec!r}: {key}={text!r}: {error}") from None
    return values


def config_class(name: str) -> Any:
    """Return the class of a cache's configuration; raise ImportError if diffusers lacks it."""
    return diffusers_class(f"{name}CacheConfig" if name == "TaylorSeer" else f"{name}Config")


def parse_field(text: str, annotation: Any) -> Any:
    """Convert the text of a field, `a/b/c` for several values; raise ValueError for another type."""
    kinds = tuple(kind for kind in alternatives(annotation) if kind is not torch.Tensor)
    if torch.dtype in kinds and isinstance(getattr(torch, text, None), torch.dtype):
        return getattr(torch, text)
    plain = tuple(kind for kind in kinds if kind is not torch.dtype and get_origin(kind) is not Callable)
    return parse_value(text, plain)


def cache_config(spec: str, pipe: Any) -> Any:
    """Return the configuration of a cache for a pipeline, whose current timestep it follows.

    Raises:
        ValueError: as :func:`cache_fields`, and where a needed field is missing.
    """
    kind = config_class(spec.partition(":")[0])
    values = cache_fields(spec)
    if "current_timestep_callback" in {field.name for field in dataclasses.fields(kind)}:
        values["current_timestep_callback"] = lambda: pipe.current_timestep
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"cache={spec!r}: {' '.join(str(error).split())}") from None
