"""A clip of a request as Python and as a command."""

import shlex
from collections.abc import Mapping
from typing import Any

from vidguide.guidances.base import Guidance
from vidguide.pipelines.request.guidance_spec import changed_values, spec_of
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.web.request import TryRequest, Variant

OPTIONS = {"steps": "--steps", "frames": "--frames", "guidance_scale": "--cfg"}


def python_text(request: TryRequest, variant: Variant) -> str:
    """Return Python that makes a clip."""
    names = {type(each).__name__ for each in variant.guidances} | {"generate"}
    arguments = {"model": request.model, "negative_prompt": request.negative_prompt, **request.settings}
    lines = [f"    {request.prompt!r},"]
    lines += [f"    {name}={value!r}," for name, value in arguments.items() if value is not None]
    lines.append(f"    guidance=[{', '.join(map(guidance_text, variant.guidances))}],")
    lines.append(f"    seed={variant.seed},")
    if values := request.setup.values():
        names.add("Setup")
        lines.append(f"    setup=Setup({call_text(tuples(values))}),")
    head = f"from vidguide import {', '.join(sorted(names))}\n\n"
    return head + "clip = generate(\n" + "\n".join(lines) + '\n)\nclip.save("clip.mp4")\n'


def guidance_text(guidance: Guidance) -> str:
    """Return a guidance as Python."""
    return f"{type(guidance).__name__}({call_text(changed_values(guidance))})"


def call_text(values: Mapping[str, Any]) -> str:
    """Return the keyword arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a setup with lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def command_text(request: TryRequest, variant: Variant) -> str:
    """Return the command that makes a clip.

    Raises:
        ValueError: it has no option for a setting.
    """
    dashed = request.prompt.startswith("-")  # would be an option
    words = ["vidguide", "generate", *([] if dashed else [request.prompt]), "--model", request.model]
    if request.negative_prompt is not None:
        words += ["--negative", request.negative_prompt]
    check_negatives(request, variant)
    words += ["--guidance", spec_of(variant.guidances), "--seed", str(variant.seed)]
    words += [*settings_words(request.settings), *setup_words(request.setup), "--output", "clip.mp4"]
    words += ["--", request.prompt] if dashed else []
    return shlex.join(words) + "\n"


def check_negatives(request: TryRequest, variant: Variant) -> None:
    """Refuse a guidance with another negative prompt than the request's, with a ValueError."""
    for guidance in variant.guidances:
        negative = getattr(guidance, "negative_prompt", None)
        if negative not in (None, request.negative_prompt):
            name = type(guidance).__name__
            raise ValueError(f"{name}(negative_prompt={negative!r}): the command has one negative prompt; use Python")


def settings_words(settings: Mapping[str, Any]) -> list[str]:
    """Return the options of sampling settings; raises as :func:`command_text`."""
    remaining = dict(settings)
    width, height = remaining.pop("width", None), remaining.pop("height", None)
    if (width is None) != (height is None):
        raise ValueError(f"width={width}, height={height}: the command needs both; use Python")
    words = [] if width is None else ["--size", f"{width}x{height}"]
    for name, value in remaining.items():
        if name not in OPTIONS:
            raise ValueError(f"{name}={value}: the command has no such option; use Python")
        words += [OPTIONS[name], str(value)]
    return words


def setup_words(setup: Setup) -> list[str]:
    """Return the options of a setup."""
    words = []
    for name, value in setup.values().items():
        option = "--lora" if name == "loras" else "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [word for each in (value if isinstance(value, list) else [value]) for word in (option, str(each))]
    return words
