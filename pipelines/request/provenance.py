"""Provenance of a clip: the arguments that reproduce it, read back from its JSON, and a comparison of two runs."""

import functools
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Required, TypedDict

from vidguide.clip import Clip
from vidguide.eval.files import read_object, validate
from vidguide.guidances.base import Guidance
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.models.spec import SHIPPED, Model
from vidguide.pipelines.request.guidance_spec import from_json
from vidguide.pipelines.request.schema import Seed, Settings, Share, Text
from vidguide.pipelines.request.setup import Setup, locate_file, parse_lora
from vidguide.pipelines.request.visual_inputs import INPUTS, same_input
from vidguide.version import __version__


class RecordedPreset(TypedDict):
    """Values of a preset, and the SHA-256 of its weight files by name."""

    values: Required[dict[str, Any]]
    files: dict[str, str]


class RecordedSetup(TypedDict):
    """Options of a setup that are not the default, and the SHA-256 of its weight files by name."""

    values: Required[dict[str, Any]]
    files: dict[str, str]


class RecordedInput(TypedDict):
    """Image or video that a clip started from: its path, unless it was in memory, and the SHA-256 of its pixels."""

    path: Required[str | None]
    sha256: Required[str]


class Provenance(Settings, total=False):
    """Fields of a clip's JSON that :func:`arguments_from` reads; further fields are allowed."""

    prompt: Required[Text]
    negative_prompt: Text | None
    model: Required[Text]
    seed: Required[Seed]
    guidance: Required[list[dict[str, Any]]]
    revision: str | None
    device: str | None
    dtype: str | None
    setup: RecordedSetup | None
    preset: RecordedPreset | None
    image: RecordedInput | None
    last_image: RecordedInput | None
    video: RecordedInput | None
    strength: Share | None
    versions: dict[str, Any]
    weights: dict[str, Any]
    sha256: str
    audio_sha256: str


RECORDED = ("preset", "setup", "guidance", *INPUTS)  # in a form that arguments_from() converts
HASHES = {"sha256": "frames", "audio_sha256": "audio"}  # fields of a clip's JSON, and what they are of
COMPARED = ("versions", "weights", *HASHES)
REPRODUCED = tuple(name for name in Provenance.__annotations__ if name not in (*RECORDED, *COMPARED))
CURE = "pass the JSON that was written with a clip"


def versions() -> dict[str, str]:
    """Return the versions of the packages that the frames depend on."""
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"python": platform.python_version(), "vidguide": __version__, **packages}


def device_name(device: torch.device) -> str:
    """Return the model of a GPU or CPU, on which the frames depend; for another device its type."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else device.type


@functools.cache
def cpu_name() -> str:
    """Return the model of the CPU, as Linux states it, else what Python knows of it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def describe_preset(model: Model, fingerprints: dict[str, str]) -> dict[str, Any] | None:
    """Return the values of a preset and the SHA-256 of its weight files; None for shipped models and bare sources."""
    if model in SHIPPED.values() or model == Model(source=model.source):
        return None
    return {"values": model.values(), "files": fingerprints}


def describe_setup(setup: Setup | None, fingerprints: dict[str, str]) -> dict[str, Any] | None:
    """Return the options of a setup and the SHA-256 of its weight files; None for a pipeline that was given loaded."""
    if setup is None:
        return None
    places = [(lora.source, lora.file) for lora in map(parse_lora, setup.loras)]
    places += [locate_file(setup.gguf, "gguf")] if setup.gguf else []
    names = {f"{source}/{file}" for source, file in places}
    return {
        "values": setup.values(),
        "files": {name: value for name, value in fingerprints.items() if name in names},
    }


def load_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON that was written with a clip.

    Raises:
        ValueError, TypeError, OSError: the file cannot be read, is not JSON, or a field is missing or wrong.
    """
    where = os.fspath(path)
    provenance = read_object(path, cure=CURE)
    try:
        validate(Provenance, provenance, cure=CURE)
        guidances_of(provenance)
        if provenance.get("preset") is not None:
            model_of(provenance["model"], provenance["preset"]["values"])
        if provenance.get("setup") is not None:
            setup_of(provenance["setup"])
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where!r}: {error}{written_by(provenance)}") from None
    return provenance


def written_by(provenance: dict[str, Any]) -> str:
    """Return, for messages, which version of vidguide wrote a JSON, if it was another one."""
    recorded = provenance.get("versions")
    other = recorded.get("vidguide") if isinstance(recorded, dict) else None
    if other in (None, __version__):
        return ""
    return f" (written by vidguide {other}, this is {__version__}: pip install -U vidguide)"


def guidances_of(provenance: dict[str, Any]) -> list[Guidance]:
    """Return the guidances of a clip; raises as :func:`arguments_from`."""
    guidances = []
    for index, entry in enumerate(provenance["guidance"]):
        try:
            guidances.append(from_json(entry))
        except (ValueError, TypeError) as error:
            raise type(error)(f"guidance[{index}]: {error}") from None
    return guidances


def arguments_from(
    provenance: dict[str, Any], image: Any = None, last_image: Any = None, video: Any = None
) -> dict[str, Any]:
    """Return the keyword arguments of :func:`vidguide.generate` that reproduce a clip.

    Args:
        provenance: as :func:`load_provenance` returns it.
        image, last_image, video: what the clip started from, where that was not a file.

    Raises:
        ValueError: a guidance was given embeddings, which the JSON does not hold, or an image or the video is missing
            or has other pixels.
        OSError: it cannot be read.
    """
    arguments = {name: provenance[name] for name in REPRODUCED if name in provenance}
    if provenance.get("preset") is not None:
        arguments["model"] = model_of(provenance["model"], provenance["preset"]["values"])
    if provenance.get("setup") is not None:
        arguments["setup"] = setup_of(provenance["setup"])
    for name, source in {"image": image, "last_image": last_image, "video": video}.items():
        if provenance.get(name) is not None:
            arguments[name] = same_input(name, provenance[name], source)
    return {**arguments, "guidance": guidances_of(provenance)}


def setup_of(recorded: RecordedSetup) -> Setup:
    """Return the setup of a clip; raises as :func:`arguments_from`."""
    setup: Setup = validate(Setup, recorded["values"], where="setup.values")
    return setup


def model_of(name: str, values: dict[str, Any]) -> str | Model:
    """Return the name of a preset, or, where the preset has changed since, a model with the recorded values."""
    recorded: Model = validate(Model, values, where="preset.values")
    return name if MODELS.get(name) == recorded else recorded


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List the versions, device, dtype, weight files and weights that differ between the provenance of two clips."""

    def environment(provenance: dict[str, Any]) -> dict[str, Any]:
        files = {
            name: value
            for part in ("preset", "setup")
            for name, value in (provenance.get(part) or {}).get("files", {}).items()
        }
        placement = {name: provenance.get(name) for name in ("device", "device_name", "dtype")}
        weights = {f"weights of {name}": value for name, value in provenance.get("weights", {}).items()}
        return {**provenance.get("versions", {}), **placement, **files, **weights}

    old, new = environment(before), environment(after)
    return [
        f"{name}: {old.get(name)} before, {new.get(name)} now"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]


def compare_clip(provenance: dict[str, Any], clip: Clip) -> str:
    """Return, as text, whether a reproduced clip has the recorded frames and audio, and otherwise what may explain it.

    Clips of earlier versions have no audio in their JSON, even if the model makes it.
    """
    reproduced = clip.describe()
    compared = [name for name in HASHES if name == "sha256" or name in provenance]
    changed = [HASHES[name] for name in compared if provenance.get(name) != reproduced.get(name)]
    if changed:
        verb = "differs" if changed == ["audio"] else "differ"
        reasons = differences(provenance, clip.provenance) or [
            "no recorded version, device, dtype, file or weight has changed"
        ]
        return f"the {' and '.join(changed)} {verb} from the original's: " + "; ".join(reasons)
    rest = "; the audio of the original was not recorded" if reproduced.keys() & HASHES.keys() - {*compared} else ""
    return f"the same {' and '.join(HASHES[name] for name in compared)}, bit for bit{rest}"
