"""The settings to try: ranges of a guidance's parameters, from text, checked by the guidance's validation."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidguide.eval.files import unknown
from vidguide.pipelines.request.guidance_spec import GUIDANCES, guidance_class, parameter_types, parse

FORM = "must be NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=[A,B,...]"
LIST = re.compile(r"\[(.*)\]")
DIGITS = 3  # significant ones of a number that is tried; more in a narrow range


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values of one parameter.

    Attributes:
        name: of the parameter, as `--over` has it: with the guidance and a dot if there are several guidances.
        low, high: ends of an interval.
        whole: whether only whole numbers are tried.
        log: whether numbers are tried uniformly in their logarithm.
        choices: values as text, if it is not an interval.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}=[{','.join(self.choices)}]"
        return f"{self.name}={number_text(self.low)}:{number_text(self.high)}{':log' if self.log else ''}"

    def ends(self) -> tuple[str, ...]:
        """Return the values to check, as text: both ends, or all choices."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def text(self, value: Any) -> str:
        """Return a value as a spec has it."""
        return str(value) if self.choices else number_text(value)

    def rounded(self, value: Any) -> Any:
        """Return a proposed number with `DIGITS` significant digits of the range, within it; others unchanged."""
        if self.choices or self.whole:
            return value
        further = int(math.log10(max(abs(self.low), abs(self.high)) / (self.high - self.low)) + 1e-9)
        return min(max(float(f"{value:.{DIGITS + max(further, 0)}g}"), self.low), self.high)

    def has(self, value: Any) -> bool:
        """Return whether a parameter's value is in the range."""
        if self.choices:
            return self.named(value) is not None
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def named(self, value: Any) -> Any:
        """Return a parameter's value as the range has it: of choices the text, None for none of them."""
        if not self.choices:
            return value
        texts = {str(value).lower(), number_text(value) if type(value) is float else ""}
        return next((choice for choice in self.choices if choice.lower() in texts), None)

    def values(self) -> Sequence[Any]:
        """Return all values; none of an interval of numbers that are not whole."""
        return self.choices or (range(int(self.low), int(self.high) + 1) if self.whole else ())

    def distribution(self) -> Any:
        """Return the range as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Guidances with ranges of some of their parameters.

    Attributes:
        parts: specs of the guidances, without the parameters that are tuned.
        ranges: of these parameters.
        places: by name of a range, the index of its guidance and its parameter.
    """

    parts: tuple[str, ...]
    ranges: tuple[Range, ...]
    places: Mapping[str, tuple[int, str]]

    def spec(self, values: Mapping[str, Any]) -> str:
        """Return the spec with values of the tuned parameters, by name of the range."""
        added: dict[int, list[str]] = {}
        for each in self.ranges:
            index, parameter = self.places[each.name]
            added.setdefault(index, []).append(f"{parameter}={each.text(values[each.name])}")
        return "+".join(
            ("," if ":" in part else ":").join([part, ",".join(added[index])]) if index in added else part
            for index, part in enumerate(self.parts)
        )

    def settings(self) -> Iterator[dict[str, Any]]:
        """Yield all settings; none if a range has numbers that are not whole."""
        names = [each.name for each in self.ranges]
        for values in itertools.product(*(each.values() for each in self.ranges)):
            yield dict(zip(names, values, strict=True))

    def defaults(self) -> dict[str, Any] | None:
        """Return the guidance's default values; None if one of them is outside its range."""
        values: dict[str, Any] = {}
        for each in self.ranges:
            index, parameter = self.places[each.name]
            default = getattr(guidance_class(name_of(self.parts[index])), parameter, None)
            if not each.has(default):
                return None
            values[each.name] = each.named(default)
        return values


def parse_space(spec: str, over: Iterable[str]) -> Space:
    """Return the guidances of a spec with ranges of parameters, all of which the guidances accept.

    Args:
        spec: as the command line takes it.
        over: ranges: `scale=4:16`, `scale=1:30:log`, `select=[largest,all]`; with several guidances in the spec
            `nag.scale=4:16`.

    Raises:
        ValueError, TypeError: naming the range or the parameter, its value and what it must be.
    """
    parse(spec)
    parts = tuple(part.strip() for part in spec.split("+"))
    if parts[0].lower() == "none":
        raise ValueError(f"guidance={spec!r}: has no parameters to tune; must be one of {', '.join(GUIDANCES)}")
    places: dict[str, tuple[int, str]] = {}
    ranges = [parse_range(text, parts, places) for text in over]
    if not ranges:
        raise ValueError(f"over: is missing; {FORM}, such as scale=4:16")
    space = Space(parts=parts, ranges=tuple(ranges), places=places)
    check_ends(space)
    return space


def parse_range(text: str, parts: Sequence[str], places: dict[str, tuple[int, str]]) -> Range:
    """Return the range of a text, and note the place of its parameter; raises as :func:`parse_space`."""
    name, equals, values = (part.strip() for part in text.partition("="))
    if not (name and equals and values):
        raise ValueError(f"over={text!r}: {FORM}")
    index, parameter = place_of(name, parts, text)
    if (index, parameter) in places.values():
        raise ValueError(f"over={text!r}: {name} has a range already; give one")
    types = parameter_types(guidance_class(name_of(parts[index])))
    if parameter not in types:
        raise ValueError(f"over={text!r}: {unknown(f'{name_of(parts[index])} parameter', parameter, types)}")
    if parameter in fixed_parameters(parts[index]):
        raise ValueError(f"over={text!r}: guidance {parts[index]!r} sets {parameter}; leave it out there")
    places[name] = (index, parameter)
    if listed := LIST.fullmatch(values):
        return choices_of(name, listed[1], text)
    return interval_of(name, values, types[parameter], text)


def place_of(name: str, parts: Sequence[str], text: str) -> tuple[int, str]:
    """Return the index of the guidance of a range's name, and the parameter."""
    guidance, dot, parameter = name.rpartition(".")
    names = [name_of(part) for part in parts]
    if len(parts) == 1 and not dot:
        return 0, name
    if not dot or names.count(guidance.lower()) != 1:
        raise ValueError(f"over={text!r}: must name one of {', '.join(names)}, such as {names[0]}.{parameter}=...")
    return names.index(guidance.lower()), parameter


def name_of(part: str) -> str:
    """Return the name of a guidance in a spec of one."""
    return part.partition(":")[0].strip().lower()


def fixed_parameters(part: str) -> set[str]:
    """Return the parameters that a spec of one guidance sets."""
    arguments = [argument for argument in part.partition(":")[2].split(",") if argument and argument[0] != "@"]
    return {argument.partition("=")[0].strip() if "=" in argument else "scale" for argument in arguments}


def choices_of(name: str, listed: str, text: str) -> Range:
    """Return the range of listed values."""
    choices = tuple(choice.strip() for choice in listed.split(",") if choice.strip())
    if len(set(choices)) < 2 or len(set(choices)) < len(choices):
        raise ValueError(f"over={text!r}: must list at least two different values")
    return Range(name=name, choices=choices)


def interval_of(name: str, values: str, types: Sequence[Any], text: str) -> Range:
    """Return the range of an interval of numbers."""
    if float not in types and int not in types:
        raise ValueError(f"over={text!r}: is no number; must be a list, such as {name}=[A,B]")
    low_text, _, rest = values.partition(":")
    high_text, colon, scale = rest.partition(":")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        raise ValueError(f"over={text!r}: {FORM}") from None
    if colon and scale != "log":
        raise ValueError(f"over={text!r}: {FORM}")
    if not low < high or high == float("inf"):
        raise ValueError(f"over={text!r}: is empty or infinite; LOW must be less than HIGH")
    if scale == "log" and low <= 0:
        raise ValueError(f"over={text!r}: the lower end must be above 0 for log")
    whole = float not in types
    if whole and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"over={text!r}: must have whole numbers as ends")
    return Range(name=name, low=low, high=high, whole=whole, log=scale == "log")


def check_ends(space: Space) -> None:
    """Refuse a space whose corners the guidances refuse; raises as :func:`parse_space`."""
    first = {each.name: each.ends()[0] for each in space.ranges}
    corners = [{**first, each.name: end} for each in space.ranges for end in each.ends()]
    if len(space.ranges) <= 6 and all(len(each.ends()) <= 3 for each in space.ranges):
        every = itertools.product(*(each.ends() for each in space.ranges))
        corners += [dict(zip(first, ends, strict=True)) for ends in every]
    for corner in corners:
        try:
            parse(space.spec(corner))
        except (ValueError, TypeError) as error:
            given = ", ".join(str(each) for each in space.ranges)
            raise type(error)(f"over={given!r}: {error}") from None


def number_text(value: float | str) -> str:
    """Return a number for a spec; a text unchanged."""
    return str(value) if isinstance(value, str) else f"{value:.12g}"
