"""What a sweep is to make: prompts, seeds and arms, read from YAML and checked before anything is loaded."""

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.pipelines.generate import generate
from vidguide.pipelines.request.guidance_spec import parse
from vidguide.pipelines.request.validation import check_numbers, check_texts, check_words

PROMPT_FIELDS = ("prompt", "negative_prompt", "eval_prompt", "id", "image")
PLACING = ("device", "dtype", "offload", "revision")  # of the model, which all arms share
OWN = ("prompt", "negative_prompt", "image", "seed", "guidance", "model", "pipe", "progress", *PLACING)
SETTINGS = tuple(name for name in inspect.signature(generate).parameters if name not in OWN)
ARM_FIELDS = ("guidance", *SETTINGS)
FIELDS = ("model", "prompts", "negative_prompt", "seeds", "arms", *PLACING, *SETTINGS)
NUMBERS = ("steps", "height", "width", "frames", "fps", "guidance_scale")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A guidance spec, and the settings that are this arm's own."""

    name: str
    guidance: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Texts and first image of a clip; clips are paired by its id."""

    id: str
    prompt: str
    eval_prompt: str
    negative_prompt: str | None = None
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every prompt with every seed in every arm, the first arm being the reference.

    Attributes:
        model, placing: as :func:`vidguide.pipelines.loading.load.load` takes them.
        settings: of :func:`vidguide.generate`, for every arm that does not say otherwise.
    """

    model: str
    prompts: list[Prompt]
    seeds: list[int]
    arms: list[Arm]
    placing: dict[str, Any]
    settings: dict[str, Any]


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a sweep's YAML file; the paths in it are relative to its folder.

    Raises:
        ValueError, TypeError: naming the field, its value and what would be right. OSError: a file cannot be read.
    """
    source = Path(path)
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(source)!r}: is not YAML: {error}") from None
    given = known_fields("sweep", content, FIELDS)
    negative = given.get("negative_prompt")
    sweep = Sweep(
        model=given.get("model", "tiny"),
        prompts=prompts_of(given.get("prompts"), negative, source.parent),
        seeds=seeds_of(given.get("seeds", 1)),
        arms=arms_of(given.get("arms")),
        placing={name: given[name] for name in PLACING if name in given},
        settings={name: given[name] for name in SETTINGS if name in given},
    )
    check_words("model", sweep.model)
    check_negatives(sweep)
    for settings in (sweep.settings, *(arm.settings for arm in sweep.arms)):
        check_numbers({name: settings.get(name) for name in NUMBERS}, seed=0)
    return sweep


def known_fields(what: str, content: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    """A mapping with fields that there are."""
    if not isinstance(content, Mapping):
        raise TypeError(f"{what}={content!r}: must be fields and values, of {', '.join(allowed)}")
    for name in content:
        if name not in allowed:
            raise ValueError(f"{what}: has an unknown field {name!r}; there are {', '.join(allowed)}")
    return dict(content)


def prompts_of(listed: Any, negative: Any, folder: Path) -> list[Prompt]:
    """Prompts from a list, or from a file: a line each, or JSON Lines with the fields of a prompt."""
    if isinstance(listed, str):
        lines = [line for line in (folder / listed).read_text(encoding="utf-8").splitlines() if line.strip()]
        listed = [from_json(line) for line in lines] if listed.endswith(".jsonl") else lines
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"prompts={listed!r}: must be a list of prompts, or a file with one a line (.txt, .jsonl)")
    prompts = [prompt_of(one, negative, folder) for one in listed]
    if len({prompt.image is None for prompt in prompts}) > 1:
        raise ValueError("image: some prompts have one and some have none; give one to each, or make two sweeps")
    refuse_twice("prompts", [one.id for one in prompts])
    return prompts


def from_json(line: str) -> Any:
    """A line of JSON Lines."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts: {line[:80]!r} is not JSON: {error}") from None


def prompt_of(given: Any, negative: Any, folder: Path) -> Prompt:
    """A prompt from its words alone, or from its fields; the sweep's negative prompt where it has none of its own."""
    fields = {"prompt": given} if isinstance(given, str) else known_fields("prompts", given, PROMPT_FIELDS)
    fields = {"negative_prompt": negative, **fields}
    check_texts(fields.get("prompt"), fields["negative_prompt"])
    for name in ("id", "eval_prompt"):
        if name in fields:
            check_words(name, fields[name])
    if (image := fields.get("image")) is not None:
        check_words("image", image)
        fields["image"] = str(folder / image)
        if not Path(fields["image"]).is_file():
            raise FileNotFoundError(f"image={fields['image']!r}: there is no such file")
    return Prompt(**{"id": fields["prompt"], "eval_prompt": fields["prompt"], **fields})


def seeds_of(given: Any) -> list[int]:
    """A list of seeds, or how many, from 0 on."""
    seeds = list(range(given)) if type(given) is int else given
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f"seeds={given!r}: must be a list of seeds, or how many")
    for seed in seeds:
        check_numbers(dict.fromkeys(NUMBERS), seed)
    refuse_twice("seeds", seeds)
    return seeds


def arms_of(given: Any) -> list[Arm]:
    """Arms by name: a guidance spec, or fields with `guidance` and settings; or a list of specs, which name them."""
    if isinstance(given, list):
        for spec in given:
            check_words("arms", spec)
        refuse_twice("arms", given)
        given = {spec: spec for spec in given}
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"arms={given!r}: must be guidance specs by name, or a list of them, such as [none, nag]")
    return [arm_of(name, one) for name, one in given.items()]


def arm_of(name: Any, given: Any) -> Arm:
    """One arm; its name will be a folder's."""
    check_words("arms", name)
    fields = {"guidance": given} if isinstance(given, str) else known_fields(f"arms, {name}", given, ARM_FIELDS)
    spec = fields.pop("guidance", "none")
    check_words(f"arms, {name}: guidance", spec)
    parse(spec)
    return Arm(name=name, guidance=spec, settings=fields)


def check_negatives(sweep: Sweep) -> None:
    """Refuse a prompt without a negative one where an arm needs it."""
    needy = [arm for arm in sweep.arms if any(isinstance(one, NegativePromptGuidance) for one in parse(arm.guidance))]
    for prompt in sweep.prompts:
        if needy and prompt.negative_prompt is None:
            raise ValueError(
                f"negative_prompt: is missing for {prompt.prompt!r}, and {needy[0].guidance!r} needs one; give one to "
                "each prompt or to the sweep"
            )


def refuse_twice(name: str, values: list[Any]) -> None:
    """Refuse a list with a value that is there twice, since clips are told apart by it."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name}: {value!r} is there twice; each must be there once, or have an id of its own")
