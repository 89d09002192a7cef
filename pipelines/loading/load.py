"""A pipeline from a shipped name, a preset, a local folder or a hub id, on the device and in the dtype that suit."""

import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vidguide.pipelines.loading.assemble import (
    DTYPE,
    check_parts,
    diffusers_class,
    put_loras,
    set_up,
    single_file_parts,
)
from vidguide.pipelines.loading.hub import FINGERPRINTS, HUB_ID, fingerprints, read_index, weight_files
from vidguide.pipelines.loading.progress_bars import loading_bars
from vidguide.pipelines.models.presets import MODELS, PRESETS
from vidguide.pipelines.models.spec import SHIPPED, Model
from vidguide.pipelines.request.images import check_use, partner, takes_image

OFFLOADS = ("auto", "none", "model", "sequential")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROOM = 1.3  # free device memory a model must have, relative to its weights, to stay there whole


def resolve(model: str | os.PathLike[str] | Model) -> Model:
    """The model behind a name; a folder or hub id is one that leaves every choice to its pipeline.

    Raises:
        ValueError: it is no shipped name, no preset, no folder with a model_index.json and no hub id.
    """
    name = label(model)
    if isinstance(model, Model) or name in MODELS:
        return known(model)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"model={name!r}: a folder without model_index.json; give a diffusers pipeline folder")
        return Model(source=str(folder))
    if folder.exists() or not re.fullmatch(HUB_ID, name):
        raise ValueError(
            f"model={name!r}: unknown. Give a shipped name ({', '.join(SHIPPED)}), a preset ({', '.join(PRESETS)}), a "
            "local pipeline folder, or a hub id like Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
        )
    return Model(source=name)


def known(model: str | os.PathLike[str] | Model) -> Model:
    """The model of that name; one that leaves every choice to its pipeline where we know none."""
    return model if isinstance(model, Model) else MODELS.get(os.fspath(model)) or Model(source=os.fspath(model))


def label(model: str | os.PathLike[str] | Model) -> str:
    """What messages and provenance call a model."""
    return model.source if isinstance(model, Model) else os.fspath(model)


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
    model: str | os.PathLike[str] | Model = "tiny",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offload: str = "auto",
    image: bool | None = None,
    progress: bool = True,
) -> Any:
    """Load a diffusers pipeline.

    Args:
        model: a shipped name, a preset, a local pipeline folder, a hub id, or a :class:`Model` of your own.
        revision: of a hub id: a branch, tag or commit.
        device: None for CUDA where there is one, else MPS, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; None for bfloat16 on CUDA and float32 elsewhere. The VAE stays
            in float32, as Wan's needs.
        offload: "none", "model" or "sequential" (diffusers' CPU offloads); "auto" offloads by model where the
            weights do not fit the GPU's free memory.
        image: True for clips that start from an image: where weights serve a pipeline for text and one for images,
            this chooses. None for what the folder names.
        progress: show the bars of downloads and loading.

    Raises:
        ValueError: an argument that cannot be, by name. OSError: the model's files cannot be read or fetched.
        ImportError: the model needs a package, or a newer diffusers. All before the large files are fetched.
    """
    chosen = resolve(model)
    if revision is not None:
        chosen = dataclasses.replace(chosen, revision=revision)
    if offload not in OFFLOADS:
        raise ValueError(f"offload={offload!r}: give one of {', '.join(OFFLOADS)}")
    target = choose_device(device)
    precision = choose_dtype(dtype, target)
    if image is not None and chosen.image is not None:
        check_use(label(model), chosen.image, image)
    check_parts(chosen)
    with loading_bars(progress):
        with told(label(model)):
            index = read_index(chosen.source, chosen.revision)
        loader = choose_pipeline(chosen, index, image)
        with told(label(model)):
            pipe = build(chosen, loader, index, precision)
    return place(pipe, target, offload)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Whatever goes wrong in files of a model says which model it was."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise OSError(f"model={name!r}: cannot be loaded: {error}") from error


def build(model: Model, loader: Any, index: dict[str, Any], precision: torch.dtype) -> Any:
    """The pipeline that a model declares, on the CPU; its further files are found before its folder is fetched."""
    files = weight_files(model)
    parts = single_file_parts(model, index, files, precision)
    dtypes = {DTYPE: {"default": precision, "vae": torch.float32}}
    pipe = loader.from_pretrained(model.source, revision=model.revision, variant=model.variant, **parts, **dtypes)
    put_loras(pipe, model.loras, files)
    set_up(pipe, model)
    FINGERPRINTS[pipe] = fingerprints(files)
    return pipe


def choose_pipeline(model: Model, index: dict[str, Any], image: bool | None) -> Any:
    """The pipeline's class: the model's own choice, else what its folder names, or the partner that takes an image.

    Raises:
        ValueError: an image is given or lacking where that cannot be.
    """
    import diffusers

    name = model.pipeline or str(index.get("_class_name"))
    loader = getattr(diffusers, name, None)
    if loader is None:
        return diffusers.DiffusionPipeline  # which knows of code that comes with a folder, and says what it lacks
    use = takes_image(loader)
    if image and use == "no" and (other := partner(name, index)):
        return diffusers_class(other)
    if image is not None:
        check_use(name, use, image)
    return loader


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
