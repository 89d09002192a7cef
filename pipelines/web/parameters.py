"""The controls of a guidance's parameters: read from the fields of its dataclass, their types and their ranges."""

import dataclasses
import inspect
import math
import re
from dataclasses import dataclass
from typing import Any

from vidguide.guidances.base import Guidance, constraints
from vidguide.pipelines.request.guidance_spec import GUIDANCES, expected, guidance_class, parameter_types, text_of
from vidguide.validation import OneOf, Range

TIMES_DEFAULT = 3  # end of the slider of a parameter without a largest value
STEPS = 100  # of a slider, at least
WORDS_OF_ATTRIBUTE = re.compile(r"^\s{4}((?:\w+, )*\w+): (.+(?:\n\s{5,}.+)*)", re.MULTILINE)
PROMPT_FIELD = "negative_prompt"
UNUSED = "not used by this guidance."  # of a parameter, in a docstring


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A control: a slider with a field, a switch, a choice or a text.

    Attributes:
        name: of the parameter.
        kind: "number", "switch", "choice" or "text".
        default: as a text.
        about: from the docstring.
        low, high, step: of the slider; None without one. The field next to it takes any value in the range.
        choices: texts of a choice.
    """

    name: str
    kind: str
    default: str
    about: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()


def all_parameters() -> dict[str, list[Parameter]]:
    """Return the controls of every guidance by its name in a spec."""
    return {name: parameters(guidance_class(name)) for name in GUIDANCES}


def parameters(guidance: type[Guidance]) -> list[Parameter]:
    """Return the controls of a guidance: those of its class first, then those that it shares with others."""
    types, about = parameter_types(guidance), attributes(guidance)
    names = sorted((name for name in types if about.get(name) != UNUSED), key=lambda name: rank(guidance, name))
    if any(field.name == PROMPT_FIELD for field in dataclasses.fields(guidance)):
        names.append(PROMPT_FIELD)
    defaults = {field.name: field.default for field in dataclasses.fields(guidance)}
    allowed = {name: metadata for name, (_, metadata) in constraints(guidance).items()}
    return [
        control(name, defaults[name], types.get(name, (str,)), allowed.get(name, ()), about.get(name, ""))
        for name in names
    ]


def rank(guidance: type[Guidance], name: str) -> int:
    """Return the place of a parameter: the scale, those of the class, those of its base classes, those of all."""
    if name == "scale":
        return 0
    declared, shared = inspect.get_annotations(guidance), {field.name for field in dataclasses.fields(Guidance)}
    return 3 if name in shared else 1 if name in declared else 2


def control(name: str, default: Any, types: tuple[Any, ...], allowed: tuple[Any, ...], about: str) -> Parameter:
    """Return the control of one parameter.

    Args:
        name: of the parameter.
        default: its value.
        types: alternatives of its annotation.
        allowed: metadata of its annotation.
        about: what it is.
    """
    common: dict[str, Any] = dict(name=name, default="" if name == PROMPT_FIELD else text_of(default), about=about)
    for each in allowed:
        if isinstance(each, OneOf):
            return Parameter(kind="choice", choices=tuple(map(text_of, each.values)), **common)
        if isinstance(each, Range):
            return Parameter(kind="number", **common, **slider(default, each, whole=int in types))
    if types == (bool,):
        return Parameter(kind="switch", **common)
    hint = "" if name == PROMPT_FIELD else " or ".join(filter(None, map(expected, types)))
    common["about"] = f"{about} ({hint})" if hint else about
    return Parameter(kind="text", **common)


def slider(default: Any, allowed: Range, whole: bool) -> dict[str, Any]:
    """Return the ends and the step of a slider; empty for a whole number without a range, such as a seed."""
    size = abs(default) if isinstance(default, int | float) else 1.0
    if whole and not math.isfinite(allowed.low):
        return {}
    high = allowed.high if math.isfinite(allowed.high) else round_up(TIMES_DEFAULT * max(size, 1.0))
    low = allowed.low if math.isfinite(allowed.low) else -high
    step = 1.0 if whole else round_up((high - low) / STEPS / 2)
    return {"low": low, "high": high, "step": step}


def round_up(value: float) -> float:
    """Return the next number of the form 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return round(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9)), 12)


def attributes(guidance: type[Guidance]) -> dict[str, str]:
    """Return what the docstrings of a guidance and of its base classes say about each parameter."""
    described: dict[str, str] = {}
    for base in guidance.__mro__:
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for names, about in WORDS_OF_ATTRIBUTE.findall(text):
            for name in names.split(", "):
                described.setdefault(name, re.sub(r"\s+", " ", about).replace("`", ""))
    return described
