"""What this machine has that vidguide can use."""

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from vidguide.kernels import dispatch as kernels
from vidguide.kernels import lse_backends
from vidguide.pipelines.models.spec import SHIPPED
from vidguide.transformer.family import families

REQUIRED = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "einops", "numpy", "av", "imageio")
OPTIONAL = ("ftfy", "decord", "xformers", "triton", "flash_attn", "peft")


def installed(name: str) -> str | None:
    """The version of a package, None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "present" if find_spec(name) else None


def devices() -> dict[str, str]:
    """Devices that torch can compute on here."""
    import torch

    found = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, {free >> 20} of {total >> 20} MiB free"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def codecs() -> dict[str, str]:
    """Whether the video encoders that clips are written with are there."""
    import av

    return {name: "yes" if name in av.codecs_available else "missing" for name in ("libx264", "ffv1")}


def report() -> dict[str, dict[str, str]]:
    """Everything, by topic, as plain text."""
    return {
        "python": {"version": platform.python_version(), "system": platform.platform()},
        "packages": {name: installed(name) or "missing: pip install vidguide" for name in REQUIRED},
        "optional packages": {name: installed(name) or "not installed" for name in OPTIONAL},
        "devices": devices(),
        "kernels": {**kernels.in_use(), **lse_backends.in_use()},
        "video encoders": codecs(),
        "families": {name: family.name for name, family in sorted(families().items())},
        "shipped models": {
            name: model.about if (model.path / "model_index.json").is_file() else "weights missing"
            for name, model in SHIPPED.items()
        },
    }
