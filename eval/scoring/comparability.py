"""Whether two arms can be compared: the same definitions of metrics, and clips of the same length, size and rate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidguide.eval.scoring.statistics import Key

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ClipProperty:
    """A property that the clips of both arms must share: its fields in a row, its unit, and its relative tolerance."""

    fields: tuple[str, ...]
    unit: str
    tolerance: float = 0.0


PROPERTIES = {
    "length": ClipProperty(("frames",), "frames"),
    "frame size": ClipProperty(("width", "height"), "pixels"),
    "frame rate": ClipProperty(("fps",), "per second", tolerance=0.01),  # 29.97 and 30 are the same rate
}


def same_definition(rows: Iterable[Row], metric: str) -> bool:
    """Return whether all values of a metric have the same version and weights."""
    return len({(row.get("version"), row.get("weights")) for row in rows if row["metric"] == metric}) <= 1


def clip_differences(reference: Sequence[Row], other: Sequence[Row]) -> dict[str, str]:
    """Return in which properties clips of the same prompt and seed differ, with the number of pairs and an example."""
    differences = {}
    for name, clip_property in PROPERTIES.items():
        left, right = (properties_by_key(rows, clip_property.fields) for rows in (reference, other))
        shared = [key for key in left if key in right]
        different = [key for key in shared if not are_equal([*left[key], *right[key]], clip_property.tolerance)]
        if different:
            values = (" x ".join(f"{value:g}" for value in side[different[0]][0]) for side in (left, right))
            counts = f"{len(different)} of {len(shared)} pairs"
            differences[name] = f"{counts}, the first {' and '.join(values)} {clip_property.unit}"
    return differences


def properties_by_key(rows: Iterable[Row], fields: Sequence[str]) -> dict[Key, list[tuple[float, ...]]]:
    """Return the values of some fields by prompt and seed, of the rows that have them."""
    values: dict[Key, list[tuple[float, ...]]] = {}
    for row in rows:
        if all(row.get(field) is not None for field in fields):
            values.setdefault((row["prompt_id"], row["seed"]), []).append(tuple(row[field] for field in fields))
    return values


def are_equal(values: Sequence[tuple[float, ...]], tolerance: float) -> bool:
    """Return whether values are equal up to a relative tolerance."""
    return all(max(column) - min(column) <= tolerance * min(column) for column in zip(*values, strict=True))
