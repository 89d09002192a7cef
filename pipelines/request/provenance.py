"""What a clip's JSON says, read back into the call that made it."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vidguide import Clip, __version__
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.guidance_spec import KINDS
from vidguide.pipelines.request.images import described, read_image

# Arguments of generate() that provenance holds under their own names.
AGAIN = (
    *("prompt", "model", "negative_prompt", "guidance_scale", "steps", "height", "width", "frames", "fps", "seed"),
    *("max_sequence_length", "revision", "device", "dtype", "offload"),
)
TUPLES = ("layers", "select")  # JSON has lists for them


def versions() -> dict[str, str]:
    """Versions of what the frames depend on."""
    found = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"python": platform.python_version(), "vidguide": __version__, **found}


def load_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON that a clip was written with.

    Raises:
        ValueError, OSError: the file cannot be read or is none of ours.
    """
    try:
        provenance = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r}: is not JSON: {error}") from None
    missing = {"prompt", "model", "seed", "guidance"} - set(provenance if isinstance(provenance, dict) else ())
    if missing:
        raise ValueError(f"{os.fspath(path)!r}: lacks {', '.join(sorted(missing))}; give the JSON beside a clip")
    return dict(provenance)


def arguments_from(provenance: dict[str, Any], image: Any = None) -> dict[str, Any]:
    """Keyword arguments of :func:`vidguide.generate` that make a clip again from its provenance.

    Args:
        provenance: as :func:`load_provenance` reads it.
        image: the first image, for a clip whose own was no file.

    Raises:
        ValueError: a guidance was given ready embeddings, which the JSON does not hold, or the first image is gone
            or is another one. OSError: the first image cannot be read.
    """
    arguments = {name: provenance[name] for name in AGAIN if name in provenance}
    if provenance.get("preset") is not None:
        arguments["model"] = remembered(provenance["model"], provenance["preset"]["values"])
    if provenance.get("image") is not None:
        arguments["image"] = same_image(provenance["image"], image)
    kinds = {kind.__name__: kind for kind in KINDS.values()}
    guidances = []
    for entry in provenance["guidance"]:
        values = {name: value for name, value in entry.items() if name != "name"}
        if values.get("negative_prompt_embeds") is not None:
            raise ValueError(f"{entry['name']}: was given embeddings, which the JSON does not hold")
        values = {name: tuple(value) if name in TUPLES and value else value for name, value in values.items()}
        guidances.append(kinds[entry["name"]](**values))
    return {**arguments, "guidance": guidances}


def remembered(name: str, values: dict[str, Any]) -> str | Model:
    """The preset of that name, or, where the table has changed since, a model with the values of then."""
    then = Model.from_values(values)
    return name if MODELS.get(name) == then else then


def same_image(told: dict[str, Any], given: Any) -> Any:
    """The image that a clip began with, by its path or as given now.

    Raises:
        ValueError: there is neither, or its pixels are others. OSError: it cannot be read.
    """
    image = told["path"] if given is None else given
    if image is None:
        raise ValueError("image=None: the clip's first image was no file; give it again")
    if described(image, read_image(image))["sha256"] != told["sha256"]:
        raise ValueError(f"image={image!r}: is not the image that the clip began with")
    return image


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What may explain that a clip came out otherwise: versions, device, dtype and weight files that are not the same.

    Args:
        then, now: provenance of the two.
    """

    def flat(provenance: dict[str, Any]) -> dict[str, Any]:
        files = (provenance.get("preset") or {}).get("files", {})
        placing = {name: provenance.get(name) for name in ("device", "dtype")}
        return {**provenance.get("versions", {}), **placing, **files}

    before, after = flat(then), flat(now)
    names = sorted(set(before) | set(after))
    return [
        f"{name}: {before.get(name)} then, {after.get(name)} now"
        for name in names
        if before.get(name) != after.get(name)
    ]


def held_against(then: dict[str, Any], clip: Clip) -> str:
    """Whether a clip that was made again has the frames of then, and if not, what may explain it."""
    if then.get("sha256") == clip.sha256:
        return "the same frames, bit for bit"
    reasons = differences(then, clip.provenance) or ["nothing that was written down has changed"]
    return "the frames differ from the original's: " + "; ".join(reasons)
