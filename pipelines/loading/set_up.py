"""Apply a `Setup` to a pipeline, in the order in which diffusers allows it, after checks before any download."""

import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

import torch

from vidguide.pipelines.loading.assemble import diffusers_class
from vidguide.pipelines.loading.caches import cache_config
from vidguide.pipelines.loading.quantization import check_gguf, check_quantization
from vidguide.pipelines.models.spec import Checkpoint, Model
from vidguide.pipelines.request.setup import GROUPS, TRANSFORMERS, Setup, locate_file, parse_lora

MEMORY_FACTOR = 1.3  # free device memory, relative to the weights, below which "auto" offloads
WITHOUT_SEQUENTIAL = ("cpu",)  # devices to which accelerate does not move the tied weights of a text encoder

# Setup of each pipeline that load() made.
SETUPS: WeakKeyDictionary[Any, Setup] = WeakKeyDictionary()


def with_files(model: Model, setup: Setup) -> Model:
    """Return the declaration of a model with the files of a setup: its LoRAs, and its GGUF file as a checkpoint."""
    loras = (*model.loras, *map(parse_lora, setup.loras))
    if setup.gguf is None:
        return dataclasses.replace(model, loras=loras)
    source, file = locate_file(setup.gguf, "gguf")
    return dataclasses.replace(model, loras=loras, checkpoint=Checkpoint(source=source, file=file))


def check_setup(setup: Setup, model: Model, index: dict[str, Any], pipeline_class: Any, device: torch.device) -> None:
    """Refuse a setup that the model, the device or the installed packages cannot do, before any download.

    Args:
        setup: as for :func:`vidguide.pipelines.loading.load.load`.
        model: declaration of the model.
        index: content of the folder's `model_index.json`.
        pipeline_class: class of the pipeline.
        device: where the model will run.

    Raises:
        ValueError, ImportError: naming the option, its value and what would be right.
    """
    transformer, vae = component_class(index, "transformer"), component_class(index, "vae")
    check_quantization(setup, index, device)
    check_gguf(setup, model, transformer)
    check_device(setup, device)
    if setup.loras and not hasattr(pipeline_class, "load_lora_weights"):
        raise ValueError(f"loras={setup.loras!r}: {pipeline_class.__name__} takes no LoRA")
    if setup.compile == "blocks" and not getattr(transformer, "_repeated_blocks", None):
        raise ValueError(f"compile='blocks': diffusers names no blocks of {transformer.__name__}; use compile='whole'")
    check_caching(setup.cache, transformer)
    if setup.attention_backend is not None:
        check_attention_backend(setup.attention_backend)
    for name in ("tiling", "slicing"):
        if getattr(setup, f"vae_{name}") and not hasattr(vae, f"enable_{name}"):
            raise ValueError(f"vae_{name}=True: diffusers' {vae.__name__} has no {name}")


def check_device(setup: Setup, device: torch.device) -> None:
    """Refuse offloading that the device cannot do, with a ValueError."""
    if setup.offload == "sequential" and device.type in WITHOUT_SEQUENTIAL:
        raise ValueError(f"offload='sequential': needs a GPU, not {device}; use offload='none'")
    if setup.stream and device.type != "cuda":
        raise ValueError(f"stream=True: needs a CUDA device, not {device}")


def component_class(index: dict[str, Any], name: str) -> Any:
    """Return the class of a component of diffusers; None if the pipeline has none."""
    entry = index.get(name)
    return diffusers_class(entry[1]) if entry and entry[0] == "diffusers" else None


def check_caching(spec: str | None, transformer: Any) -> None:
    """Refuse a cache that the transformer's class or diffusers does not have; raises as :func:`cache_config`."""
    if spec is None:
        return
    if not hasattr(transformer, "enable_cache"):
        raise ValueError(f"cache={spec!r}: diffusers caches nothing of {transformer.__name__}")
    cache_config(spec, None)


def check_attention_backend(name: str) -> None:
    """Refuse an attention backend that diffusers lacks, or whose package is missing, with a ValueError."""
    from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

    known = [each.value for each in AttentionBackendName]
    if name not in known:
        raise ValueError(f"attention_backend={name!r}: must be one of {', '.join(known)}")
    try:
        with attention_backend(name):
            pass
    except (RuntimeError, ImportError) as error:
        raise ValueError(f"attention_backend={name!r}: {error}") from None


def set_up(pipe: Any, setup: Setup, device: torch.device) -> None:
    """Apply a setup to a loaded pipeline on the CPU, and move it to its device.

    Raises:
        ValueError: an option that the model turns out not to have.
    """
    for name in ("tiling", "slicing"):
        wanted = getattr(setup, f"vae_{name}")
        if wanted is not None:
            getattr(pipe.vae, f"{'enable' if wanted else 'disable'}_{name}")()
    for transformer in transformers_of(pipe):
        if setup.attention_backend is not None:
            set_attention_backend(transformer, setup.attention_backend)
        if setup.layerwise_casting is not None:
            storage = getattr(torch, setup.layerwise_casting)
            transformer.enable_layerwise_casting(storage_dtype=storage, compute_dtype=transformer.dtype)
        if setup.cache is not None:
            transformer.enable_cache(cache_config(setup.cache, pipe))
    place(pipe, setup, device)
    for transformer in transformers_of(pipe):
        compile_transformer(transformer, setup)
    SETUPS[pipe] = setup


def transformers_of(pipe: Any) -> list[Any]:
    """Return the transformers of a pipeline: one, or the two experts of Wan 2.2."""
    experts = (getattr(pipe, name, None) for name in TRANSFORMERS)
    return [transformer for transformer in experts if transformer is not None]


def set_attention_backend(transformer: Any, name: str) -> None:
    """Set the attention backend of one transformer; that of other models, which diffusers sets too, is restored.

    Raises:
        ValueError: no attention processor of the transformer takes a backend.
    """
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(name):
        transformer.set_attention_backend(name)
    processors = [getattr(module, "processor", None) for module in transformer.modules()]
    if not any(getattr(processor, "_attention_backend", None) is not None for processor in processors):
        raise ValueError(f"attention_backend={name!r}: {type(transformer).__name__} takes no backend")


def place(pipe: Any, setup: Setup, device: torch.device) -> None:
    """Move a pipeline to its device, or set up offloading to the CPU; "auto" decides by the free memory."""
    offload = setup.offload
    if offload == "auto":
        full = device.type == "cuda" and weight_bytes(pipe) * MEMORY_FACTOR > torch.cuda.mem_get_info(device)[0]
        offload = "model" if full else "none"
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload in GROUPS:
        blocks = setup.blocks_per_group if offload == "blocks" else None
        groups: dict[str, Any] = dict(offload_type=GROUPS[offload], num_blocks_per_group=blocks)
        pipe.enable_group_offload(onload_device=device, use_stream=setup.stream, **groups)
    else:
        pipe.to(device)


def weight_bytes(pipe: Any) -> int:
    """Return the memory of all weights of a pipeline, in bytes."""
    modules = [component for component in pipe.components.values() if isinstance(component, torch.nn.Module)]
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def compile_transformer(transformer: Any, setup: Setup) -> None:
    """Compile a transformer in place, or its blocks."""
    if setup.compile == "blocks":
        transformer.compile_repeated_blocks(backend=setup.compile_backend)
    elif setup.compile == "whole":
        transformer.compile(backend=setup.compile_backend)
