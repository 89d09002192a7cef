"""Variants of a sweep in the rows and columns of a grid, by two parameters in which they differ."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidguide.eval.files import read_object
from vidguide.eval.scoring.statistics import Key
from vidguide.pipelines.web.gallery import Gallery, clip_file, values_of

Parameters = dict[str, dict[str, Any]]  # of each variant, by name


def parameters_of(gallery: Gallery, folder: Path) -> Parameters:
    """Return the parameters of each variant, as the JSON of its first clip that has one states them."""
    parameters: Parameters = {}
    for clips in gallery.clips.values():
        for arm, rows in clips.items():
            path = clip_file(rows, folder).with_suffix(".json")
            if arm not in parameters and path.is_file():
                parameters[arm] = values_of(read_object(path))
    return parameters


def axes(parameters: Parameters) -> list[str]:
    """Return the parameters that have more than one value, those with most values first."""
    names = dict.fromkeys(name for values in parameters.values() for name in values)
    counts = {name: len(levels(parameters, name)) for name in names}
    return sorted((name for name in names if counts[name] > 1), key=lambda name: -counts[name])


def levels(parameters: Parameters, name: str) -> list[Any]:
    """Return the values of a parameter in all variants that have it, in order."""
    values = {json.dumps(each[name], sort_keys=True): each[name] for each in parameters.values() if name in each}
    return sorted(
        values.values(), key=lambda value: (isinstance(value, str), str(value) if not number(value) else value)
    )


def number(value: Any) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def cells(gallery: Gallery, parameters: Parameters, key: Key, x: str, y: str) -> list[list[list[str]]]:
    """Return the variants of one prompt and seed in each row and column; the noise is the same in all.

    Args:
        gallery: of the clips.
        parameters: of the variants.
        key: prompt and seed.
        x, y: parameters of the columns and of the rows.
    """
    return [
        [
            [arm for arm, values in parameters.items() if arm in gallery.clips[key] and at(values, {x: right, y: down})]
            for right in levels(parameters, x)
        ]
        for down in levels(parameters, y)
    ]


def at(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a variant has these values."""
    return all(name in values and values[name] == value for name, value in wanted.items())
