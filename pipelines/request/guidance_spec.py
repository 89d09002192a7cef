"""Guidance in one word, as the command line takes it: `nag:scale=11,tau=2.5+cfg:5`."""

import dataclasses
from dataclasses import fields
from typing import Any

from vidguide import (
    APG,
    CADS,
    CFG,
    EMAG,
    MAMBOG,
    NAG,
    PAG,
    SEG,
    STG,
    TCFG,
    TPG,
    VSF,
    CFGZeroStar,
    EnhanceAVideo,
    S2Guidance,
)
from vidguide.guidances.base import Guidance
from vidguide.guidances.emag import SELECTS

KINDS: dict[str, type[Guidance]] = {
    "nag": NAG,
    "vsf": VSF,
    "emag": EMAG,
    "stg": STG,
    "pag": PAG,
    "seg": SEG,
    "tpg": TPG,
    "s2": S2Guidance,
    "enhance": EnhanceAVideo,
    "cads": CADS,
    "cfg": CFG,
    "apg": APG,
    "cfgzero": CFGZeroStar,
    "tcfg": TCFG,
    "mambog": MAMBOG,
}
WORDS = ("extent", "mode", "norm", "variant")  # parameters that are words
WHOLE = ("zero_steps", "seed")  # and whole numbers
SKIPPED = ("negative_prompt", "negative_prompt_embeds")


def parse(spec: str) -> tuple[Guidance, ...]:
    """Guidances from a spec: `name`, `name:value` (its scale) or `name:key=value,...`, joined by `+`; `none` for none.

    A scale may be one number per step, as in `cfg:7/5/3/1`.

    Raises:
        ValueError: an unknown name or parameter, or a value that is no number, naming it.
    """
    if spec.strip().lower() == "none":
        return ()
    return tuple(_parse_one(part.strip(), spec) for part in spec.split("+"))


def parse_or_own(spec: str | None, negative_prompt: str | None) -> tuple[Guidance, ...] | None:
    """The same; None, which leaves it to the model, where nothing is asked, or NAG without parameters."""
    if spec is None or (negative_prompt is not None and spec.strip().lower() == "nag"):
        return None
    return parse(spec)


def _parse_one(part: str, spec: str) -> Guidance:
    name, _, arguments = part.partition(":")
    kind = KINDS.get(name.lower())
    if kind is None:
        raise ValueError(f"guidance {spec!r}: no guidance {name!r}; there is none, {', '.join(KINDS)}")
    known = [field.name for field in fields(kind) if field.name not in SKIPPED]
    values: dict[str, Any] = {}
    for argument in filter(None, arguments.split(",")):
        key, equals, value = argument.partition("=")
        key, value = (key.strip(), value.strip()) if equals else ("scale", key.strip())
        if key not in known:
            raise ValueError(f"guidance {spec!r}: {name} has no parameter {key!r}; it has {', '.join(known)}")
        values[key] = _value(key, value, spec)
    return kind(**values)


def _value(key: str, value: str, spec: str) -> Any:
    if value == "none" and key in ("extent", "sigma"):
        return None
    if key in WORDS or value in ("auto", *SELECTS):
        return value
    if value in ("true", "false"):
        return value == "true"
    try:
        if key in ("layers", "select"):  # a range or single blocks: 3-7 or 3/5/7
            first, dash, last = value.partition("-")
            return tuple(range(int(first), int(last) + 1)) if dash else tuple(int(v) for v in value.split("/"))
        if key == "scale" and "/" in value:  # one value per step: 7/5/3/1
            return tuple(float(one) for one in value.split("/"))
        return int(value) if key in WHOLE else float(value)
    except ValueError:
        raise ValueError(f"guidance {spec!r}: {key}={value!r} is no number") from None


def with_negative(guidances: tuple[Guidance, ...], negative_prompt: str | None) -> tuple[Guidance, ...]:
    """The guidances, those that take a negative prompt and have none given this one."""

    def fill(guidance: Any) -> Guidance:
        takes = negative_prompt is not None and hasattr(guidance, "negative_prompt")
        empty = takes and guidance.negative_prompt is None and guidance.negative_prompt_embeds is None
        filled: Guidance = dataclasses.replace(guidance, negative_prompt=negative_prompt) if empty else guidance
        return filled

    return tuple(fill(guidance) for guidance in guidances)
