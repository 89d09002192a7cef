"""A pipeline from a shipped name, a local folder or a hub id, on the device and in the dtype that suit."""

import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from vidguide.pipelines.models import SHIPPED

OFFLOADS = ("auto", "none", "model", "sequential")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE = "dtype" if Version(version("diffusers")) >= Version("0.40") else "torch_dtype"  # the argument's name changed
ROOM = 1.3  # free device memory a model must have, relative to its weights, to stay there whole


def resolve(model: str | os.PathLike[str]) -> str:
    """The folder or hub id behind a model's name.

    Raises:
        ValueError: it is no shipped name, no folder with a model_index.json and no hub id.
    """
    name = os.fspath(model)
    if name in SHIPPED:
        return str(SHIPPED[name].path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"model={name!r}: a folder without model_index.json; give a diffusers pipeline folder")
        return str(folder)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        shipped = ", ".join(SHIPPED)
        raise ValueError(
            f"model={name!r}: unknown. Give a shipped name ({shipped}), a local pipeline folder, or a hub id like "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
        )
    return name


def choose_device(device: str | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        ValueError: a device that torch does not know or this machine does not have.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device!r}: not a device; give cpu, cuda, cuda:1 or mps") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: this machine or this torch build has no CUDA; give cpu")
    return chosen


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The dtype asked for; else bfloat16 on a GPU and float32 on a CPU."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: give one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load(
    model: str | os.PathLike[str] = "tiny",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offload: str = "auto",
) -> Any:
    """Load a diffusers pipeline.

    Args:
        model: a shipped name, a local pipeline folder, or a hub id.
        revision: of a hub id: a branch, tag or commit.
        device: None for CUDA where there is one, else MPS, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; None for bfloat16 on CUDA and float32 elsewhere. The VAE stays
            in float32, as Wan's needs.
        offload: "none", "model" or "sequential" (diffusers' CPU offloads); "auto" offloads by model where the
            weights do not fit the GPU's free memory.

    Raises:
        ValueError: an argument that cannot be, by name. OSError: the model's files cannot be read or fetched.
    """
    import diffusers

    source = resolve(model)
    if offload not in OFFLOADS:
        raise ValueError(f"offload={offload!r}: give one of {', '.join(OFFLOADS)}")
    target = choose_device(device)
    precision = choose_dtype(dtype, target)
    try:
        dtypes = {DTYPE: {"default": precision, "vae": torch.float32}}
        loader: Any = diffusers.DiffusionPipeline
        pipe = loader.from_pretrained(source, revision=revision, **dtypes)
    except (OSError, ValueError, KeyError) as error:
        raise OSError(f"model={os.fspath(model)!r}: cannot be loaded: {error}") from error
    return place(pipe, target, offload)


def place(pipe: Any, device: torch.device, offload: str) -> Any:
    """Put a pipeline on its device, offloaded as asked; "auto" measures."""
    if offload == "auto":
        offload = "none"
        if device.type == "cuda" and weights_bytes(pipe) * ROOM > torch.cuda.mem_get_info(device)[0]:
            offload = "model"
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def weights_bytes(pipe: Any) -> int:
    """Memory of all the weights of a pipeline."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
