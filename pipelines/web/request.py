"""A request of the tab *Try*: what a visitor sends, checked against what the server has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import Required, TypedDict

from vidguide.eval.files import parse_json, unknown, validate
from vidguide.guidances.base import Guidance
from vidguide.pipelines.loading.assemble import scheduler_class
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.request.call_settings import SETTINGS
from vidguide.pipelines.request.guidance_spec import (
    GUIDANCES,
    changed_values,
    guidance_class,
    name_of,
    parameter_types,
    parse_value,
    text_of,
)
from vidguide.pipelines.request.provenance import Provenance, guidances_of, model_of, setup_of
from vidguide.pipelines.request.schema import Request, Seed, Settings, Text
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.web.parameters import PROMPT_FIELD
from vidguide.pipelines.web.server import Server

MAX_VARIANTS = 4
MAX_GUIDANCES = 8  # of a variant
MAX_TEXT = 4000  # characters of a prompt
CHANGEABLE = ("cache", "scheduler", "shift", "vae_tiling", "vae_slicing")  # of the setup, by a request: name no file


class GuidanceFields(TypedDict):
    """A guidance of a variant: its name in a spec, and the texts of the parameters that are not the default."""

    name: str
    values: dict[str, str]


class VariantFields(TypedDict):
    """A variant."""

    seed: Seed
    guidances: Annotated[list[GuidanceFields], Field(max_length=MAX_GUIDANCES)]


class TryFields(TypedDict, total=False):
    """What a visitor sends."""

    model: Required[Text]
    prompt: Required[Text]
    negative_prompt: Text | None
    seed: Required[Seed]
    same_noise: Required[bool]
    settings: Required[Settings]
    setup: dict[str, Any]
    variants: Required[Annotated[list[VariantFields], Field(min_length=1, max_length=MAX_VARIANTS)]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One clip of a request."""

    guidances: tuple[Guidance, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class TryRequest:
    """Clips of one prompt.

    Attributes:
        model, prompt, negative_prompt: as for :func:`vidguide.generate`.
        settings: sampling settings that are not the model's.
        setup: with which the model is loaded.
        variants: the clips.
    """

    model: str
    prompt: str
    negative_prompt: str | None
    variants: tuple[Variant, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    setup: Setup = field(default_factory=Setup)

    def arguments(self, variant: Variant) -> dict[str, Any]:
        """Return the arguments of :func:`vidguide.generate` for one clip, without the pipeline."""
        common = dict(prompt=self.prompt, model=self.model, negative_prompt=self.negative_prompt)
        return {**common, "guidance": list(variant.guidances), "seed": variant.seed, **self.settings}


def read_request(fields: Mapping[str, Any], server: Server) -> TryRequest:
    """Return a visitor's request.

    Raises:
        ValueError, TypeError: naming what is wrong, or what the server does not have.
    """
    checked: dict[str, Any] = validate(TryFields, dict(fields))
    server.check_model(checked["model"])
    settings = {name: value for name, value in checked["settings"].items() if value is not None}
    prompt, negative = checked["prompt"], checked.get("negative_prompt") or None
    validate(Request, {"prompt": prompt, "negative_prompt": negative, **settings, "seed": checked["seed"]})
    check_texts({"prompt": prompt, "negative_prompt": negative or ""})
    server.limits.check({**model_settings(checked["model"]), **settings})
    return TryRequest(
        model=checked["model"],
        prompt=prompt,
        negative_prompt=negative,
        variants=tuple(read_variant(each, checked) for each in checked["variants"]),
        settings=settings,
        setup=choose_setup(checked.get("setup") or {}, server.setup),
    )


def check_texts(texts: Mapping[str, str]) -> None:
    """Refuse texts that are too long for any model, with a ValueError."""
    for name, text in texts.items():
        if len(text) > MAX_TEXT:
            raise ValueError(f"{name}: has {len(text)} characters; must have at most {MAX_TEXT}")


def model_settings(model: str) -> dict[str, Any]:
    """Return the sampling settings that a model declares, without those that it leaves to its pipeline."""
    declared = MODELS.get(model)
    values = {name: getattr(declared, name, None) for name in SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def read_variant(fields: VariantFields, request: Mapping[str, Any]) -> Variant:
    """Return a variant; with the noise of the request where that is the same for all."""
    guidances = tuple(read_guidance(each) for each in fields["guidances"])
    return Variant(guidances=guidances, seed=request["seed"] if request["same_noise"] else fields["seed"])


def read_guidance(fields: GuidanceFields) -> Guidance:
    """Return a guidance from the texts of its parameters; no text is taken for the name of a file.

    Raises:
        ValueError, TypeError: naming the guidance, the parameter and what it must be.
    """
    name, values = fields["name"], dict(fields["values"])
    if name not in GUIDANCES:
        raise ValueError(unknown("guidance", name, GUIDANCES))
    guidance = guidance_class(name)
    types = parameter_types(guidance)
    negative: dict[str, Any] = {PROMPT_FIELD: text} if (text := values.pop(PROMPT_FIELD, "")) else {}
    check_texts(values | negative)
    parsed: dict[str, Any] = {}
    for key, text in values.items():
        if key not in types:
            raise ValueError(f"{guidance.__name__}: {unknown('parameter', key, types)}")
        try:
            parsed[key] = parse_value(text.strip(), types[key])
        except ValueError as error:
            raise ValueError(f"{guidance.__name__}({key}={text!r}): {error}") from None
    return guidance(**parsed, **negative)


def choose_setup(values: Mapping[str, Any], base: Setup) -> Setup:
    """Return the setup of a request: that of the server, of which a request may change what names no file.

    Raises:
        ValueError: naming the option, its value, and that of the server; or a scheduler is none.
        ImportError: diffusers lacks the scheduler.
    """
    if not values:
        return base
    default = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(Setup()).items()}
    wanted, given = ({**default, **each} for each in (values, base.values()))
    for name in default:  # before there is a Setup, which looks for the files that it names
        if wanted[name] != given[name] and name not in CHANGEABLE:
            raise ValueError(f"{name}={wanted[name]!r}: this server was started with {name}={given[name]!r}")
    setup: Setup = setup_of({"values": dict(values), "files": {}})
    if setup.scheduler is not None:
        scheduler_class(setup.scheduler)  # before the loaded model makes way for one with this setup
    return setup


def read_provenance(text: str, server: Server) -> dict[str, Any]:
    """Return the fields of a request that makes the clip of a JSON again.

    Raises:
        ValueError, TypeError: the JSON is not that of a clip, or needs what the server does not have.
    """
    recorded = parse_json(text, "the file")
    if not isinstance(recorded, dict):
        raise TypeError("the file: must be the JSON that was written with a clip")
    validate(Provenance, recorded, cure="drop the JSON that was written with a clip")
    server.check_model(recorded["model"])
    check_reproducible(recorded)
    settings = {name: recorded.get(name) for name in SETTINGS}
    declared = server.defaults.get(recorded["model"], {}) | model_settings(recorded["model"])
    seed = recorded["seed"]
    entries = [write_guidance(each, recorded.get(PROMPT_FIELD)) for each in guidances_of(recorded)]
    fields = {
        "model": recorded["model"],
        "prompt": recorded["prompt"],
        "negative_prompt": recorded.get("negative_prompt"),
        "seed": seed,
        "same_noise": True,
        "settings": {name: value for name, value in settings.items() if value != declared.get(name)},
        "setup": (recorded.get("setup") or {"values": {}})["values"],
        "variants": [{"seed": seed, "guidances": entries}],
    }
    read_request(fields, server)
    return fields


def check_reproducible(recorded: Mapping[str, Any]) -> None:
    """Refuse a clip of a preset that has changed, or with a first image, with a ValueError that gives the cure."""
    cure = "use `vidguide generate --from`"
    if recorded.get("image") is not None:
        raise ValueError(f"image: the page has no first images; {cure}")
    preset = recorded.get("preset")
    if preset is not None and not isinstance(model_of(recorded["model"], preset["values"]), str):
        raise ValueError(f"preset: that of {recorded['model']} has changed since the clip was made; {cure}")


def write_guidance(guidance: Guidance, negative_prompt: str | None = None) -> GuidanceFields:
    """Return a guidance as a request has it; its negative prompt is left out where it is that of the request.

    Raises:
        ValueError: it has several negative prompts.
    """
    values = changed_values(guidance)
    negative = values.pop(PROMPT_FIELD, None)
    if not isinstance(negative, str | None):
        raise ValueError(f"{type(guidance).__name__}(negative_prompt={negative!r}): the page takes one text")
    texts = {name: text_of(value) for name, value in values.items()}
    given = {} if negative in (None, negative_prompt) else {PROMPT_FIELD: negative}
    return {"name": name_of(guidance), "values": {**texts, **given}}
