"""Apply a model's declaration to a pipeline: single-file weights, LoRAs, scheduler and expert boundary."""

import inspect
from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from vidguide.eval.hub import only_cached
from vidguide.pipelines.models.spec import Lora, Model

DTYPE = "dtype" if Version(version("diffusers")) >= Version("0.40") else "torch_dtype"  # argument of from_pretrained


def diffusers_class(name: str) -> Any:
    """Return a class of diffusers by name; raise ImportError if the installed release does not have it."""
    import diffusers

    if not hasattr(diffusers, name):
        raise ImportError(f"diffusers {diffusers.__version__} has no {name}: pip install -U diffusers")
    return getattr(diffusers, name)


def scheduler_class(name: str) -> Any:
    """Return a scheduler of diffusers by name; raise ValueError for another class, and as :func:`diffusers_class`."""
    from diffusers import SchedulerMixin

    scheduler = diffusers_class(name)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise ValueError(f"scheduler={name!r}: must be the class of a scheduler in diffusers")
    return scheduler


def check_requirements(model: Model) -> None:
    """Refuse a model that the installed packages cannot run, before anything is downloaded.

    Raises:
        ImportError: peft is missing, or diffusers lacks a class or an argument.
        ValueError: the scheduler is another class.
    """
    if model.loras and find_spec("peft") is None:
        raise ImportError(f"{model.loras[0].file}: LoRA needs the package peft: pip install 'vidguide[lora]'")
    if model.scheduler:
        scheduler_class(model.scheduler)
    if model.pipeline:
        known = inspect.signature(diffusers_class(model.pipeline).__call__).parameters
        if unknown := sorted(set(model.call) - set(known)):
            name = f"diffusers {version('diffusers')}: {model.pipeline}"
            raise ImportError(f"{name} has no argument {', '.join(unknown)}: pip install -U diffusers")


# Beginnings of class names of pipelines that do not convert latents to the dtype of their VAE, which must be that of
# the model; the others take one of float32, as Wan's requires.
VAE_OF_MODEL_DTYPE = ("CogVideoX", "ConsisID", "EasyAnimate", "Latte", "LTXImageToVideo", "Mochi")


def vae_dtype(pipeline: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the VAE of a pipeline.

    Args:
        pipeline: class name of the pipeline.
        dtype: of the model.
    """
    return dtype if pipeline.startswith(VAE_OF_MODEL_DTYPE) else torch.float32


def single_file_components(
    model: Model, index: dict[str, Any], files: dict[str, Path], dtypes: dict[str, torch.dtype]
) -> dict[str, Any]:
    """Load the components that the model's single checkpoint holds.

    Args:
        model: declaration.
        index: content of the folder's `model_index.json`, which names the classes.
        files: paths of the weight files, the checkpoint first.
        dtypes: of the components by name, and under "default".

    Raises:
        ValueError: the folder has no such component.
    """
    if model.checkpoint is None:
        return {}
    path = next(iter(files.values()))
    components = {}
    for name in model.checkpoint.components:
        if name not in index:
            raise ValueError(f"{path.name}: {model.source!r} has no component {name!r}")
        settings: dict[str, Any] = {DTYPE: dtypes.get(name, dtypes["default"])}
        settings |= quantization_of_file(path, dtypes["default"])
        config: dict[str, Any] = dict(config=model.source, subfolder=name, revision=model.revision)
        config["local_files_only"] = only_cached(model.source)
        components[name] = diffusers_class(index[name][1]).from_single_file(str(path), **config, **settings)
    return components


def quantization_of_file(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Return the argument of `from_single_file` for a GGUF file, whose layers compute in `dtype`; else no argument."""
    if path.suffix != ".gguf":
        return {}
    return {"quantization_config": diffusers_class("GGUFQuantizationConfig")(compute_dtype=dtype)}


def load_loras(pipe: Any, loras: tuple[Lora, ...], files: dict[str, Path]) -> None:
    """Load LoRAs into their transformers, each at its strength.

    Args:
        pipe: diffusers pipeline.
        loras: declarations.
        files: paths of the weight files by `source/file`.

    Raises:
        ValueError: the pipeline has no such transformer or does not support LoRA, or no weight of the file fits.
    """
    adapters: dict[str, dict[str, float]] = defaultdict(dict)  # strength by component and adapter name
    for number, lora in enumerate(loras):
        name = f"lora_{number}"
        load_lora(pipe, lora, files[f"{lora.source}/{lora.file}"], name)
        adapters[lora.component][name] = lora.strength
    for component, strengths in adapters.items():
        getattr(pipe, component).set_adapters(list(strengths), list(strengths.values()))


def load_lora(pipe: Any, lora: Lora, path: Path, name: str) -> None:
    """Load one LoRA under an adapter name; raises as :func:`load_loras`."""
    transformer = getattr(pipe, lora.component, None)
    if transformer is None or not hasattr(pipe, "load_lora_weights"):
        raise ValueError(f"{lora.file}: {type(pipe).__name__} takes no LoRA on its {lora.component}")
    second = {"load_into_transformer_2": True} if lora.component == "transformer_2" else {}
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name, **second)
    if name not in getattr(transformer, "peft_config", {}):  # diffusers only warns
        raise ValueError(f"{str(path)!r}: has no LoRA weights for {type(transformer).__name__}")


def configure(pipe: Any, model: Model) -> None:
    """Set scheduler, expert boundary, tiling and the scale of a guider as the model declares them.

    Raises:
        ValueError: a boundary for a pipeline with one transformer.
    """
    if model.scheduler or model.scheduler_settings:
        pipe.scheduler = scheduler_for(pipe.scheduler, model)
    if model.boundary is not None:
        if getattr(pipe, "transformer_2", None) is None:
            raise ValueError(f"boundary={model.boundary}: {model.source!r} has one transformer, not two experts")
        pipe.register_to_config(boundary_ratio=model.boundary)
    if model.tiling:
        pipe.vae.enable_tiling()
    correct_scale_factors(pipe)
    if model.guidance_scale is not None and hasattr(pipe, "guider"):
        pipe.guider = pipe.guider.new(guidance_scale=model.guidance_scale)


def correct_scale_factors(pipe: Any) -> None:
    """Set the scale factors of a pipeline that computes them without the patches of its VAE to those of the VAE.

    `WanVideoToVideoPipeline` of diffusers 0.42 does: with a VAE of patches its noise has another size than its video.
    """
    for name in ("scale_factor_temporal", "scale_factor_spatial"):
        factor = getattr(getattr(getattr(pipe, "vae", None), "config", None), name, None)
        if factor is not None and f"vae_{name}" in vars(pipe):  # modular pipelines compute it at each use
            setattr(pipe, f"vae_{name}", factor)


def scheduler_for(scheduler: Any, model: Model) -> Any:
    """Return the scheduler that a model declares: the pipeline's with changes, or one of another class."""
    current = type(scheduler)
    declared = scheduler_class(model.scheduler) if model.scheduler else current
    if declared is current:
        return current.from_config(scheduler.config, **model.scheduler_settings)
    return declared(**model.scheduler_settings)  # settings of another class have other meanings
