"""Snapshots of module trees, to compare a model before and after guidance."""

from typing import Any

import torch


def snapshot_of(model: torch.nn.Module) -> dict[str, Any]:
    """Return all that `guide` could leave on a module tree: classes, attributes, processors, hooks, weights."""
    modules: dict[str, Any] = {}
    for name, module in model.named_modules():
        processor = getattr(module, "processor", None)
        modules[name] = (type(module), sorted(vars(module)), processor, type(processor), len(module._forward_hooks))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"modules": modules, "weights": weights}


def snapshots_equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two snapshots agree, weights bit for bit."""
    weights = all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    return first["modules"] == second["modules"] and weights
