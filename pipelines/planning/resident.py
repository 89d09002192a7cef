"""Memory of weights: of each component in a setup, and what is on the device while a component runs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vidguide.pipelines.planning.blueprint import bytes_of, float32_modules
from vidguide.pipelines.request.setup import GROUPS, TRANSFORMERS, Setup

# Bytes of a quantized weight, and those of its scale: one per row in torchao, quanto and LLM.int8(), one in float32
# per 64 values in NF4 (QLoRA, section 3).
BYTES = {"int8": 1.0, "fp8": 1.0, "nf4": 0.5 + 4 / 64}


def prepare(module: nn.Module, name: str, setup: Setup, dtype: torch.dtype) -> None:
    """Cast the layers of a transformer on the meta device as a setup asks, by diffusers' own code."""
    if setup.layerwise_casting is not None and name in TRANSFORMERS:
        storage: Any = getattr(torch, setup.layerwise_casting)
        module.enable_layerwise_casting(storage_dtype=storage, compute_dtype=dtype)  # type: ignore[operator]


def weight_bytes(module: nn.Module, name: str, library: str, setup: Setup, dtype: torch.dtype) -> int:
    """Return the memory of a component's weights in a setup.

    Args:
        module: on the meta device, after :func:`prepare`.
        name, library: of the component.
        setup: setup; the linear layers of the components in `quantized` count as quantized.
        dtype: of the model.
    """
    total = bytes_of(module)
    if setup.quantization is None or name not in setup.quantized:
        return total
    size = BYTES[setup.quantization.partition("-")[2]]
    exempt = float32_modules(module, library, dtype)
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and not exempt & set(path.split(".")):
            weight = layer.weight
            rows = 0 if size < 1 else weight.shape[0] * dtype.itemsize
            total += int(weight.numel() * size) + rows - weight.numel() * weight.element_size()
    return total


def largest(parts: list[int], count: int) -> int:
    """Return the sum of the `count` largest parts."""
    return sum(sorted(parts)[-count:])


def resident(running: str, modules: Mapping[str, nn.Module], weights: Mapping[str, int], setup: Setup) -> int:
    """Return the bytes of weights on the device while a component runs.

    Args:
        running: name of the component.
        modules: all components, on the meta device.
        weights: memory of the weights by component, as :func:`weight_bytes` returns it.
        setup: setup, whose offload is not "auto".
    """
    module, scale = modules[running], weights[running] / max(bytes_of(modules[running]), 1)
    copies = 2 if setup.stream else 1
    if setup.offload == "none":
        size_on_device = sum(weights.values())
    elif setup.offload == "model":
        size_on_device = weights[running]
    elif setup.offload == "blocks":
        size_on_device = int(scale * blocks_on_device(module, 1 if setup.stream else setup.blocks_per_group, copies))
    else:
        size_on_device = int(scale * largest([bytes_of(each) for each in layers_of(module)], copies))
    if setup.layerwise_casting is not None and running in TRANSFORMERS:
        size_on_device += max(each.weight.numel() * 2 for each in module.modules() if isinstance(each, nn.Linear))
    return size_on_device


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Return the modules without children."""
    return [each for each in module.modules() if not list(each.children())]


def blocks_on_device(module: nn.Module, per_group: int, copies: int) -> int:
    """Return the bytes on the device for group offload by blocks: the largest groups, and all that is in none.

    Blocks are in the lists that are children of a component, or of those of its children that diffusers names; see
    `_apply_group_offloading_block_level` in `diffusers/hooks/group_offloading.py`.
    """
    named = getattr(module, "_group_offload_block_modules", None) or ()
    parents = [module, *(module.get_submodule(name) for name in named if hasattr(module, name))]
    lists = [child for each in parents for child in each.children() if isinstance(child, nn.ModuleList | nn.Sequential)]
    groups = [
        sum(bytes_of(block) for block in list(blocks)[start : start + per_group])
        for blocks in lists
        for start in range(0, len(blocks), per_group)
    ]
    return bytes_of(module) - sum(groups) + largest(groups, copies)


def transfers(offload: str, weights: int, moved_once: int) -> int:
    """Return the bytes of weights that are copied to the device in each step.

    Args:
        offload: of the setup. weights: of the transformer. moved_once: of it those that stay on the device.
    """
    return max(weights - moved_once, 0) if offload in (*GROUPS, "sequential") else 0


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
