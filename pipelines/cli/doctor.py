"""Check of the environment: versions, devices, kernels, encoders of clips, and models."""

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from vidguide.clip import ENCODINGS
from vidguide.kernels import dispatch, lse_backends
from vidguide.pipelines.models.spec import SHIPPED
from vidguide.transformer.family import families

REQUIRED = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "einops", "numpy", "av", "imageio")
# Optional packages, and the extra of vidguide that installs each.
OPTIONAL = {
    "decord": "decord",
    "xformers": "xformers",
    "triton": "triton",
    "peft": "lora",
    "cv2": "eval",
    "gradio": "web",
}
UNLISTED = ("ftfy", "flash_attn")  # of no extra


def package_version(name: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "present" if find_spec(name) else None


def install(extra: str) -> str:
    """Return how to install the packages of an extra."""
    return f"not installed: pip install 'vidguide[{extra}]'"


def devices() -> dict[str, str]:
    """Return the devices that torch can use, with a description."""
    import torch

    descriptions = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        descriptions[f"cuda:{index}"] = f"{name}, {free >> 20} of {total >> 20} MiB free"
    if torch.backends.mps.is_available():
        descriptions["mps"] = "Apple GPU"
    return descriptions


def encoders() -> dict[str, str]:
    """Return whether PyAV has the encoders of video and audio that clips are written with."""
    import av

    codecs = [codec for encoding in ENCODINGS.values() for codec in (encoding.video, encoding.audio)]
    return {name: "yes" if name in av.codecs_available else "missing" for name in codecs}


def report() -> dict[str, dict[str, str]]:
    """Return the results of all checks as text, by topic and name."""
    return {
        "python": {"version": platform.python_version(), "system": platform.platform()},
        "packages": {name: package_version(name) or "missing: pip install vidguide" for name in REQUIRED},
        "optional packages": {
            **{name: package_version(name) or install(extra) for name, extra in OPTIONAL.items()},
            **{name: package_version(name) or "not installed" for name in UNLISTED},
        },
        "devices": devices(),
        "kernels": {**dispatch.in_use(), **lse_backends.in_use()},
        "encoders": encoders(),
        "families": {name: family.name for name, family in sorted(families().items())},
        "shipped models": {
            name: model.about if (model.path / "model_index.json").is_file() else "weights missing"
            for name, model in SHIPPED.items()
        },
    }
