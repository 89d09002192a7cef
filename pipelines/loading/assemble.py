"""A pipeline from what a model's declaration says: weights from a single file, adapters, scheduler, boundary."""

import inspect
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from vidguide.pipelines.models.spec import Lora, Model

DTYPE = "dtype" if Version(version("diffusers")) >= Version("0.40") else "torch_dtype"  # the argument's name changed


def diffusers_class(name: str) -> Any:
    """A class of diffusers.

    Raises:
        ImportError: the installed version has none of that name.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    if found is None:
        raise ImportError(f"diffusers {diffusers.__version__} has no {name}: pip install -U diffusers")
    return found


def check_parts(model: Model) -> None:
    """Refuse what the installed packages cannot make, before anything is fetched.

    Raises:
        ImportError: peft is missing, or diffusers has no such class or argument.
    """
    if model.loras and find_spec("peft") is None:
        raise ImportError(f"{model.loras[0].file}: LoRA needs the package peft: pip install peft")
    if model.scheduler:
        diffusers_class(model.scheduler)
    if model.pipeline:
        known = inspect.signature(diffusers_class(model.pipeline).__call__).parameters
        if unknown := sorted(set(model.call) - set(known)):
            name = f"diffusers {version('diffusers')}: {model.pipeline}"
            raise ImportError(f"{name} takes no {', '.join(unknown)}: pip install -U diffusers")


def single_file_parts(
    model: Model, index: dict[str, Any], files: dict[str, Path], precision: torch.dtype
) -> dict[str, Any]:
    """The parts of a pipeline that are read from the model's single file; the folder says of which class they are.

    Raises:
        ValueError: the folder has no such part.
    """
    if model.checkpoint is None:
        return {}
    path = next(iter(files.values()))
    parts = {}
    for name in model.checkpoint.components:
        if name not in index:
            raise ValueError(f"{path.name}: {model.source!r} has no part {name!r}")
        dtype = {DTYPE: torch.float32 if name == "vae" else precision}
        config = dict(config=model.source, subfolder=name, revision=model.revision)
        parts[name] = diffusers_class(index[name][1]).from_single_file(str(path), **config, **dtype)
    return parts


def put_loras(pipe: Any, loras: tuple[Lora, ...], files: dict[str, Path]) -> None:
    """Load adapters, each onto its transformer, at its strength.

    Raises:
        ValueError: the pipeline has no such transformer or takes no adapters, or nothing in the file fits.
    """
    put: dict[str, list[tuple[str, float]]] = {}
    for number, lora in enumerate(loras):
        transformer = getattr(pipe, lora.component, None)
        if transformer is None or not hasattr(pipe, "load_lora_weights"):
            raise ValueError(f"{lora.file}: {type(pipe).__name__} takes no LoRA on its {lora.component}")
        path, name = files[f"{lora.source}/{lora.file}"], f"preset_{number}"
        second = {"load_into_transformer_2": True} if lora.component == "transformer_2" else {}
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name, **second)
        if name not in getattr(transformer, "peft_config", {}):  # diffusers only warns
            raise ValueError(f"{str(path)!r}: holds no LoRA weights for {type(transformer).__name__}")
        put.setdefault(lora.component, []).append((name, lora.strength))
    for component, adapters in put.items():
        names, strengths = zip(*adapters, strict=True)
        getattr(pipe, component).set_adapters(list(names), list(strengths))


def set_up(pipe: Any, model: Model) -> None:
    """Scheduler, boundary between experts, tiling, and the scale of a guider, as the model declares them.

    Raises:
        ValueError: a boundary where there is one expert.
    """
    if model.scheduler or model.scheduler_settings:
        own = type(pipe.scheduler)
        chosen = diffusers_class(model.scheduler) if model.scheduler else own
        if chosen is own:
            pipe.scheduler = own.from_config(pipe.scheduler.config, **model.scheduler_settings)
        else:  # another scheduler's settings mean other things
            pipe.scheduler = chosen(**model.scheduler_settings)
    if model.boundary is not None:
        if getattr(pipe, "transformer_2", None) is None:
            raise ValueError(f"boundary={model.boundary}: {model.source!r} has one transformer, not two experts")
        pipe.register_to_config(boundary_ratio=model.boundary)
    if model.tiling:
        pipe.vae.enable_tiling()
    if model.guidance_scale is not None and hasattr(pipe, "guider"):
        pipe.guider = pipe.guider.new(guidance_scale=model.guidance_scale)
