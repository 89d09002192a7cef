"""Quantized weights: configurations of diffusers and transformers for a pipeline, and GGUF files."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from vidguide.pipelines.loading.assemble import diffusers_class
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.setup import TRANSFORMERS, Setup

PACKAGES = {"torchao": "torchao", "quanto": "optimum-quanto", "bitsandbytes": "bitsandbytes"}  # to install
MODULES = {"torchao": "torchao", "quanto": "optimum.quanto", "bitsandbytes": "bitsandbytes"}  # to import
NEED_CUDA = ("bitsandbytes",)  # diffusers quantizes with these on a GPU only


def installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    parent, _, _ = module.partition(".")
    return find_spec(parent) is not None and find_spec(module) is not None


def check_quantization(setup: Setup, index: dict[str, Any], device: torch.device) -> None:
    """Refuse a quantization that the installed packages, the device or the model cannot do, before any download.

    Args:
        setup: as for :func:`vidguide.pipelines.loading.load.load`.
        index: content of the folder's `model_index.json`.
        device: where the model will run.

    Raises:
        ImportError: a package is missing. ValueError: naming the option, its value and what would be right.
    """
    if setup.quantization is None:
        return
    package = setup.quantization.partition("-")[0]
    if not installed(MODULES[package]):
        raise ImportError(f"quantization={setup.quantization!r}: needs {PACKAGES[package]}: pip install it")
    if package in NEED_CUDA and device.type != "cuda":
        raise ValueError(f"quantization={setup.quantization!r}: needs a CUDA device, not {device}; try torchao-int8")
    unknown = [name for name in setup.quantized if name not in (*index, *TRANSFORMERS)]
    if unknown:
        names = ", ".join(name for name, entry in index.items() if isinstance(entry, list) and entry[1])
        raise ValueError(f"quantized={unknown[0]!r}: must be a component of the model: {names}")


def quantization_arguments(setup: Setup, index: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantize the components that a setup names; empty without one.

    Args:
        setup, index: as for :func:`check_quantization`.
        dtype: in which layers compute.
    """
    if setup.quantization is None:
        return {}
    entries = {name: index[name] for name in setup.quantized if name in index and index[name][0] is not None}
    package, _, kind = setup.quantization.partition("-")
    mapping = {name: CONFIGS[package](import_module(library), kind, dtype) for name, (library, *_) in entries.items()}
    return {"quantization_config": diffusers_class("PipelineQuantizationConfig")(quant_mapping=mapping)}


def torchao_config(library: Any, kind: str, dtype: torch.dtype) -> Any:
    """Return the configuration of torchao's weights of one byte, of diffusers or of transformers."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return library.TorchAoConfig({"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[kind]())


def quanto_config(library: Any, kind: str, dtype: torch.dtype) -> Any:
    """Return the configuration of quanto's weights of one byte, of diffusers or of transformers."""
    weights = {"int8": "int8", "fp8": "float8"}[kind]
    if library.__name__ == "transformers":
        return library.QuantoConfig(weights=weights)
    return library.QuantoConfig(weights_dtype=weights)


def bitsandbytes_config(library: Any, kind: str, dtype: torch.dtype) -> Any:
    """Return the configuration of bitsandbytes: LLM.int8(), or NF4 of QLoRA."""
    if kind == "int8":
        return library.BitsAndBytesConfig(load_in_8bit=True)
    return library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


CONFIGS: dict[str, Callable[[Any, str, torch.dtype], Any]] = {
    "torchao": torchao_config,
    "quanto": quanto_config,
    "bitsandbytes": bitsandbytes_config,
}


def check_gguf(setup: Setup, model: Model, transformer: Any) -> None:
    """Refuse a GGUF file that cannot be the model's transformer, before any download.

    Args:
        setup: as for :func:`vidguide.pipelines.loading.load.load`.
        model: declaration of the model, without the setup.
        transformer: class of the model's transformer.

    Raises:
        ImportError: the package gguf is missing. ValueError: naming the option, its value and what would be right.
    """
    if setup.gguf is None:
        return
    if not installed("gguf"):
        raise ImportError(f"gguf={setup.gguf!r}: needs the package gguf: pip install gguf")
    if not setup.gguf.endswith(".gguf"):
        raise ValueError(f"gguf={setup.gguf!r}: must be a file whose name ends in .gguf")
    if model.checkpoint is not None:
        raise ValueError(f"gguf={setup.gguf!r}: {model.checkpoint.file} already gives this model's transformer")
    if not hasattr(transformer, "from_single_file"):
        raise ValueError(f"gguf={setup.gguf!r}: diffusers reads no {transformer.__name__} from a single file")
