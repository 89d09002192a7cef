"""Configuration of a sweep: read from YAML and checked before any model is loaded."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import Required, TypedDict

from vidguide.eval.files import read_json_lines, read_text, read_yaml, validate
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.pipelines.request.guidance_spec import parse
from vidguide.pipelines.request.schema import Seed, Settings, Text, known_fields, must_be
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.request.validation import check_setup_of_guidances

MAX_CLIPS = 100_000  # of a sweep; each is an object in memory before the first is generated


def check_spec(spec: str) -> str:
    """Return a guidance spec that can be parsed."""
    parse(spec)
    return spec


def expand_seeds(seeds: Any) -> Any:
    """Return 0 to n - 1 for a number of seeds n; other values unchanged.

    Raises:
        ValueError: more seeds than a sweep may have clips.
    """
    if type(seeds) is int and seeds > MAX_CLIPS:
        raise ValueError(f"{seeds} seeds: must be at most {MAX_CLIPS}, the number of clips in a sweep")
    return list(range(seeds)) if type(seeds) is int else seeds


def name_arms(arms: Any) -> Any:
    """Return arms named by their specs for a list of specs; other values unchanged."""
    if not isinstance(arms, list) or not all(isinstance(spec, str) for spec in arms):
        return arms
    check_unique("arms", arms)
    return {spec: spec for spec in arms}


def check_unique(name: str, values: Sequence[Any]) -> None:
    """Refuse duplicates with a ValueError, because clips are identified by these values."""
    previous: set[Any] = set()
    for value in values:
        if value in previous:
            raise ValueError(f"{name}: duplicate {value!r}; {name} must be unique or carry a unique `id`")
        previous.add(value)


def field_of(name: str) -> BeforeValidator:
    """Convert a text to a mapping with the text in one field; other values unchanged."""
    return BeforeValidator(lambda value: {name: value} if isinstance(value, str) else value)


Spec = Annotated[Text, AfterValidator(check_spec)]


class Placement(TypedDict, total=False):
    """Arguments of :func:`vidguide.pipelines.loading.load.load`, shared by all arms."""

    device: Text | None
    dtype: Text | None
    setup: Setup
    revision: Text | None


class PromptFields(TypedDict, total=False):
    """Entry of `prompts`."""

    prompt: Required[Text]
    negative_prompt: Text | None
    eval_prompt: Text
    id: Text
    image: Text | None


class ArmFields(Settings, total=False):
    """Entry of `arms`: a guidance spec, and settings that apply to this arm only."""

    guidance: Spec


AnyPrompt = Annotated[PromptFields, known_fields(PromptFields), field_of("prompt")]
AnyArm = Annotated[ArmFields, known_fields(ArmFields), field_of("guidance")]
Prompts = Annotated[
    list[AnyPrompt],
    Field(min_length=1),
    must_be("a list of prompts, or a file with one per line (.txt, .jsonl)"),
]
Seeds = Annotated[
    list[Seed],
    Field(min_length=1),
    BeforeValidator(expand_seeds),
    must_be("a list of seeds, or the number of seeds"),
]
Arms = Annotated[
    dict[Text, AnyArm],
    Field(min_length=1),
    BeforeValidator(name_arms),
    must_be("guidance specs by name, or a list of specs such as [none, nag]"),
]


class SweepFields(Settings, Placement, total=False):
    """Content of a sweep's YAML file."""

    model: Text
    prompts: Required[Prompts]
    negative_prompt: Text | None
    seeds: Seeds
    arms: Required[Arms]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Variant of a sweep: name, guidance spec, and settings that apply to this variant only."""

    name: str
    guidance: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Texts and first image of a clip; clips of different arms are paired by `id`."""

    id: str
    prompt: str
    eval_prompt: str
    negative_prompt: str | None = None
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every prompt with every seed in every arm; the first arm is the reference.

    Attributes:
        model: as for :func:`vidguide.pipelines.loading.load.load`.
        prompts: prompts.
        seeds: seeds.
        arms: variants.
        placement: further arguments of :func:`vidguide.pipelines.loading.load.load`.
        settings: settings of :func:`vidguide.generate` for every arm that does not set them.
    """

    model: str
    prompts: list[Prompt]
    seeds: list[int]
    arms: list[Arm]
    placement: dict[str, Any]
    settings: dict[str, Any]


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a sweep's YAML file; relative paths in it are relative to its folder.

    Raises:
        ValueError, TypeError: naming the field, its value and what it must be.
        OSError: a file cannot be read.
    """
    source = Path(path)
    content = read_yaml(source)
    if isinstance(content, Mapping) and isinstance(content.get("prompts"), str):
        content = {**content, "prompts": read_prompts(source.parent / content["prompts"])}
    try:
        fields = validate(Annotated[SweepFields, known_fields(SweepFields)], content, "sweep")
        return make_sweep(fields, source.parent)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise type(error)(f"{str(source)!r}: {error}") from None


def make_sweep(fields: dict[str, Any], folder: Path) -> Sweep:
    """Return a sweep from the content of its file, in a folder; raises as :func:`read_sweep`."""
    sweep = Sweep(
        model=fields.get("model", "tiny"),
        prompts=[make_prompt(entry, fields.get("negative_prompt"), folder) for entry in fields["prompts"]],
        seeds=fields.get("seeds", [0]),
        arms=[make_arm(name, entry) for name, entry in fields["arms"].items()],
        placement={name: fields[name] for name in Placement.__annotations__ if name in fields},
        settings={name: fields[name] for name in Settings.__annotations__ if name in fields},
    )
    check_sweep(sweep)
    return sweep


def read_prompts(path: Path) -> list[Any]:
    """Return the prompts of a text file, one per line, or the entries of a JSON Lines file (.jsonl).

    Raises:
        ValueError: the file is not UTF-8, or a line is not JSON. OSError: it cannot be read.
    """
    if path.suffix == ".jsonl":
        return [entry for _, entry in read_json_lines(path)]
    return [line for line in read_text(path).splitlines() if line.strip()]


def make_prompt(fields: PromptFields, negative_prompt: str | None, folder: Path) -> Prompt:
    """Return a prompt with defaults filled in, and the path of its image.

    Args:
        fields: entry of `prompts`.
        negative_prompt: default of the sweep.
        folder: folder of the sweep file.

    Raises:
        FileNotFoundError: the image does not exist.
    """
    prompt = fields["prompt"]
    values: dict[str, Any] = dict(id=prompt, eval_prompt=prompt, negative_prompt=negative_prompt)
    values |= fields
    if values.get("image") is not None:
        values["image"] = str(folder / values["image"])
        if not Path(values["image"]).is_file():
            raise FileNotFoundError(f"image={values['image']!r}: there is no such file")
    return Prompt(**values)


def make_arm(name: str, fields: ArmFields) -> Arm:
    """Return an arm from its entry in `arms`."""
    values: dict[str, Any] = dict(fields)
    spec = values.pop("guidance", "none")
    return Arm(name=name, guidance=spec, settings=values)


def check_sweep(sweep: Sweep) -> None:
    """Refuse too many clips, duplicates, images for some prompts only, and missing negative prompts.

    Raises:
        ValueError: naming the field and the cure.
    """
    count = len(sweep.prompts) * len(sweep.seeds) * len(sweep.arms)
    if count > MAX_CLIPS:
        sizes = f"{len(sweep.prompts)} prompts, {len(sweep.seeds)} seeds and {len(sweep.arms)} arms"
        raise ValueError(f"sweep: {sizes} are {count} clips; must be at most {MAX_CLIPS}, so divide it into several")
    for arm in sweep.arms:
        check_setup_of_guidances(parse(arm.guidance), sweep.placement.get("setup", Setup()))
    check_unique("seeds", sweep.seeds)
    check_unique("prompts", [prompt.id for prompt in sweep.prompts])
    if len({prompt.image is None for prompt in sweep.prompts}) > 1:
        raise ValueError("image: some prompts have one and some have none; give one to each, or make two sweeps")
    specs = [
        arm.guidance
        for arm in sweep.arms
        if any(isinstance(each, NegativePromptGuidance) for each in parse(arm.guidance))
    ]
    for prompt in sweep.prompts:
        if specs and prompt.negative_prompt is None:
            raise ValueError(
                f"negative_prompt: is missing for {prompt.prompt!r}, and {specs[0]!r} needs one; give one to each "
                "prompt or to the sweep"
            )
