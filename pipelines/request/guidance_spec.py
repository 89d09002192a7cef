"""Guidances from text, as the command line takes them (`nag:scale=11,tau=2.5+cfg:5`), and from a clip's JSON.

The types of the parameters are read from the annotations of the guidance's dataclass.
"""

import dataclasses
import json
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from vidguide.eval.files import shown, unknown
from vidguide.guidances.base import Guidance

GUIDANCES = {  # to register a guidance, add its name in a spec and its class
    "nag": "vidguide.guidances.nag:NAG",
    "vsf": "vidguide.guidances.vsf:VSF",
    "emag": "vidguide.guidances.emag:EMAG",
    "stg": "vidguide.guidances.stg:STG",
    "pag": "vidguide.guidances.pag:PAG",
    "seg": "vidguide.guidances.seg:SEG",
    "tpg": "vidguide.guidances.tpg:TPG",
    "s2": "vidguide.guidances.s2_guidance:S2Guidance",
    "enhance": "vidguide.guidances.enhance_a_video:EnhanceAVideo",
    "cads": "vidguide.guidances.cads:CADS",
    "cfg": "vidguide.guidances.cfg_rules.cfg:CFG",
    "apg": "vidguide.guidances.cfg_rules.apg:APG",
    "cfgzero": "vidguide.guidances.cfg_rules.cfg_zero_star:CFGZeroStar",
    "tcfg": "vidguide.guidances.cfg_rules.tcfg:TCFG",
    "mambog": "vidguide.guidances.cfg_rules.mambo_g:MAMBOG",
}
NOT_IN_SPEC = ("negative_prompt", "negative_prompt_embeds")
EXPECTED = {float: "a number", int: "an integer", bool: "true or false", str: "a word", NoneType: "none"}
RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")
LONGEST_RANGE = 1000  # integers; no transformer has more layers


def parse(spec: str) -> tuple[Guidance, ...]:
    """Parse a guidance spec.

    Args:
        spec: guidances joined by `+`, each `name`, `name:value` (its scale) or `name:key=value,...`; `none` for no
            guidance. `name:@FILE` takes the parameters in a settings file, see :func:`read_settings`; those after it,
            as in `emag:@settings.json,stop=0.9`, replace them. Sequences are `3/5/7`, as in `cfg:7/5/3/1` with a scale
            per step; ranges of integers are `3-7`.

    Raises:
        ValueError, TypeError: an unknown name or parameter, or a wrong value, by name.
    """
    if spec.strip().lower() == "none":
        return ()
    return tuple(parse_guidance(part.strip(), spec) for part in spec.split("+"))


def parse_unless_default(spec: str | None, negative_prompt: str | None) -> tuple[Guidance, ...] | None:
    """Parse a spec, or return None where the model's default guidance applies: no spec, or `nag` for a negative."""
    if spec is None or (negative_prompt is not None and spec.strip().lower() == "nag"):
        return None
    return parse(spec)


def parse_guidance(part: str, spec: str) -> Guidance:
    """Parse one guidance of a spec.

    Args:
        part: `name`, `name:value`, `name:key=value,...` or `name:@FILE,key=value,...`.
        spec: the whole spec, for messages.
    """
    name, _, arguments = part.partition(":")
    if name.lower() not in GUIDANCES:
        raise ValueError(f"guidance {spec!r}: {unknown('guidance', name, ('none', *GUIDANCES))}")
    guidance = guidance_class(name.lower())
    types = parameter_types(guidance)
    values: dict[str, Any] = {}
    file, *rest = arguments.split(",")
    if file.startswith("@"):
        values |= read_settings(Path(file[1:]), name.lower(), types)
        arguments = ",".join(rest)
    for argument in filter(None, arguments.split(",")):
        key, equals, text = argument.partition("=")
        key, text = (key.strip(), text.strip()) if equals else ("scale", key.strip())
        if key not in types:
            raise ValueError(f"guidance {spec!r}: {unknown(f'{name} parameter', key, types)}")
        try:
            values[key] = parse_value(text, types[key])
        except ValueError as error:
            raise ValueError(f"guidance {spec!r}: {key}={text!r}: {error}") from None
    try:
        return guidance(**values)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{file[1:]}: {error}" if file.startswith("@") else str(error)) from None


def read_settings(path: Path, name: str, types: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return a guidance's parameters in a settings file, as `vidguide calibrate` writes it.

    The file is a JSON object whose field `guidances` has an object of parameters by name of a guidance.

    Args:
        name: of the guidance in a spec. types: alternatives of each parameter.

    Raises:
        ValueError: naming the file and the field. FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name}:@{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON in UTF-8 ({error})") from None
    guidances = content.get("guidances") if isinstance(content, dict) else None
    if not isinstance(guidances, dict):
        raise ValueError(f"{path}: lacks the field guidances, an object of parameters by guidance")
    if name not in guidances:
        listed = ", ".join(guidances) or "none: no setting pointed to the truth"
        raise ValueError(f"{path}: guidances has no {name!r}; it has {listed}")
    where = f"{path}: guidances.{name}"
    if not isinstance(guidances[name], dict):
        raise ValueError(f"{where}: must be an object of parameters")
    return {key: setting(f"{where}.{key}", key, value, types) for key, value in guidances[name].items()}


def setting(where: str, key: str, value: Any, types: Mapping[str, tuple[Any, ...]]) -> Any:
    """Return the value of a parameter in a settings file, a list as a tuple.

    Raises:
        ValueError: an unknown parameter, or a value of none of its types.
    """
    if key not in types:
        raise ValueError(f"{where}: {unknown('parameter', key, types)}")
    for kind in types[key]:
        if isinstance(value, list) != is_sequence(kind) or (isinstance(value, bool) and kind is not bool):
            continue
        try:
            return TypeAdapter(kind).validate_python(tuple(value) if isinstance(value, list) else value)
        except ValidationError:
            continue
    raise ValueError(f"{where}={value!r}: must be {' or '.join(filter(None, map(expected, types[key])))}")


def guidance_class(name: str) -> type[Guidance]:
    """Return the class that is registered under a name."""
    guidance: type[Guidance] = pkgutil.resolve_name(GUIDANCES[name])
    return guidance


def parameter_types(guidance: type[Guidance]) -> dict[str, tuple[Any, ...]]:
    """Return the alternatives of each parameter's annotation, by parameter."""
    hints = get_type_hints(guidance)
    names = [field.name for field in dataclasses.fields(guidance) if field.name not in NOT_IN_SPEC]
    return {name: alternatives(hints[name]) for name in names}


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself; `str` last, since every text is a `str`."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(sorted(members, key=lambda member: member is str))


def parse_value(text: str, types: tuple[Any, ...]) -> Any:
    """Convert a text to the first type that accepts it.

    Raises:
        ValueError: no type accepts it; says what the types expect.
    """
    for kind in types:
        if kind is NoneType and text == "none":
            return None
        try:
            return TypeAdapter(kind).validate_python(split(text) if is_sequence(kind) else text)
        except ValidationError:
            continue
    raise ValueError("must be " + " or ".join(filter(None, map(expected, types))))


def text_of(value: Any) -> str:
    """Return a parameter's value as a spec gives it."""
    if isinstance(value, list | tuple):
        return "/".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def changed_values(guidance: Guidance) -> dict[str, Any]:
    """Return the parameters of a guidance that differ from their defaults."""
    fields = dataclasses.fields(guidance)
    return {field.name: value for field in fields if (value := getattr(guidance, field.name)) != field.default}


def name_of(guidance: Guidance) -> str:
    """Return the name of a guidance in a spec."""
    names = [name for name in GUIDANCES if guidance_class(name) is type(guidance)]
    if not names:
        raise ValueError(f"{type(guidance).__name__}: has no name in a spec; register it in GUIDANCES")
    return names[0]


def is_expressible(guidance: Guidance, name: str, value: Any) -> bool:
    """Return whether a spec can express the value of a parameter."""
    try:
        parsed = parse_value(text_of(value), parameter_types(type(guidance))[name])
    except ValueError:
        return False
    return bool((tuple(parsed) if isinstance(parsed, list) else parsed) == value)


def spec_of(guidances: Sequence[Guidance]) -> str:
    """Return the spec that :func:`parse` reads these guidances from; negative prompts are left out.

    Raises:
        ValueError: a spec cannot express a parameter, such as a function.
    """
    parts = []
    for guidance in guidances:
        values = {name: value for name, value in changed_values(guidance).items() if name not in NOT_IN_SPEC}
        part = name_of(guidance) + (":" if values else "") + ",".join(f"{k}={text_of(v)}" for k, v in values.items())
        if wrong := next((name for name, value in values.items() if not is_expressible(guidance, name, value)), None):
            raise ValueError(f"{type(guidance).__name__}({wrong}={values[wrong]!r}): a spec cannot express it")
        parts.append(part)
    return "+".join(parts) or "none"


def is_sequence(kind: Any) -> bool:
    """Return whether a type is a tuple, list or sequence of items."""
    return get_origin(kind) in (tuple, list, Sequence)


def split(text: str) -> list[str]:
    """Split `3/5/7` into items, and expand a range of integers such as `3-7`.

    Raises:
        ValueError: the range has more than `LONGEST_RANGE` integers.
    """
    if match := RANGE.fullmatch(text):
        numbers = range(int(match[1]), int(match[2]) + 1)
        if len(numbers) > LONGEST_RANGE:
            raise ValueError(f"must be a range of at most {LONGEST_RANGE} integers")
        return [str(number) for number in numbers]
    return text.split("/")


def expected(kind: Any) -> str:
    """Return what a spec may give for a type, in words; empty where a text cannot give one."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if is_sequence(kind):
        return f"several, each {expected(get_args(kind)[0])}, such as 3/5/7"
    return EXPECTED.get(kind, "")


def from_json(entry: Mapping[str, Any]) -> Guidance:
    """Return the guidance whose `describe()` a clip's JSON holds.

    Raises:
        ValueError: an unknown guidance or parameter, or one that was given embeddings or a function, which the JSON
            does not hold.
    """
    values = {key: value for key, value in entry.items() if key != "name"}
    classes = {path.rpartition(":")[2]: name for name, path in GUIDANCES.items()}
    name = entry.get("name")
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"name={shown(name)}: {unknown('guidance', name, classes)}")
    if values.get("negative_prompt_embeds") is not None:
        raise ValueError(f"{name}: was given embeddings, which the JSON does not hold")
    guidance = guidance_class(classes[name])
    hints, known = get_type_hints(guidance), [field.name for field in dataclasses.fields(guidance)]
    for key in values:
        if key not in known:
            raise ValueError(f"{name}: {unknown('parameter', key, known)}; a newer vidguide may have it")
    recorded = {key: value for key, value in values.items() if key != "negative_prompt_embeds"}
    return guidance(**{key: from_json_value(name, key, value, hints[key]) for key, value in recorded.items()})


def from_json_value(name: str, key: str, value: Any, annotation: Any) -> Any:
    """Return the value of a guidance's parameter in JSON, a list as a tuple where the parameter has one.

    Args:
        name, key: of guidance and parameter, for messages.
        value: from JSON.
        annotation: type of the parameter.

    Raises:
        ValueError: the value has another type; of a text for a number, that it was a function.
    """
    kinds, text = alternatives(annotation), json.dumps(value)
    for kind in kinds:
        try:
            return TypeAdapter(kind).validate_json(text, strict=True)
        except ValidationError:
            continue
    if isinstance(value, str) and any(get_origin(kind) is Callable for kind in kinds):
        raise ValueError(f"{name}({key}={shown(value)}): was given a function, which the JSON does not hold")
    wanted = " or ".join(filter(None, map(expected, kinds)))
    raise ValueError(f"{name}({key}={shown(value)}): must be {wanted}")


def check_negative_prompts(guidances: Sequence[Guidance]) -> tuple[Guidance, ...]:
    """Return the guidances, after a check that those that need a negative prompt have one.

    Raises:
        ValueError: naming the guidance.
    """
    for guidance in guidances:
        if isinstance(guidance, Guidance) and not guidance.neutral:
            guidance.acts_on(None)
    return tuple(guidances)


def fill_negative_prompt(guidances: Sequence[Guidance], negative_prompt: str | None) -> tuple[Guidance, ...]:
    """Return the guidances; those that take a negative prompt and have none get this one."""

    def fill(guidance: Any) -> Guidance:
        takes_one = negative_prompt is not None and hasattr(guidance, "negative_prompt")
        has_none = takes_one and guidance.negative_prompt is None and guidance.negative_prompt_embeds is None
        filled: Guidance = dataclasses.replace(guidance, negative_prompt=negative_prompt) if has_none else guidance
        return filled

    return tuple(fill(guidance) for guidance in guidances)
