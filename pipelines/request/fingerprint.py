"""Fingerprints of the components of a pipeline, so that a change of the model is noticed and named.

Not of files: a copied file has another time, a retrained one may have the same size, and a LoRA or a pipeline in memory
has no file in the folder. The parameters that ran are sampled instead, which any training changes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vidguide.eval.hashing import short_sha256

SAMPLES = 64  # values of each parameter, evenly spaced


def fingerprints_of(pipe: Any) -> dict[str, str]:
    """Return a fingerprint of each component: of a module's parameters and configuration, or of a configuration alone.

    It changes with names, shapes and dtypes of the parameters, with the strengths of LoRAs, and with `SAMPLES` values
    of each parameter; a change of single other values goes unnoticed. A component whose weights are not in memory
    (sequential offload) has none.
    """
    components = {name: part for name, part in getattr(pipe, "components", {}).items() if part is not None}
    values = {name: fingerprint(getattr(part, "_orig_mod", part)) for name, part in components.items()}
    return {name: value for name, value in values.items() if value is not None}


def fingerprint(component: Any) -> str | None:
    """Return the fingerprint of one component; None where it has neither weights in memory nor a configuration."""
    parts = [describe_config(component)]
    if isinstance(component, nn.Module):
        parameters = dict(component.named_parameters())
        if any(value.is_meta for value in parameters.values()):
            return None
        parts += [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in parameters.items()]
        parts += [
            f"{name} {module.scaling}" for name, module in component.named_modules() if hasattr(module, "scaling")
        ]
        return short_sha256([*(part.encode() for part in parts), *sampled_bytes(parameters.values())])
    return short_sha256(part.encode() for part in parts) if parts[0] else None


def describe_config(component: Any) -> str:
    """Return the configuration of a component as JSON, without private entries such as paths and versions."""
    config: Any = getattr(component, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(values, dict):
        return ""
    private = ("_", "transformers_version")
    public = {name: value for name, value in values.items() if not name.startswith(private)}
    return json.dumps(public, sort_keys=True, default=str)


def sampled_bytes(parameters: Iterable[Tensor]) -> list[bytes]:
    """Return `SAMPLES` evenly spaced values of each parameter as bytes, with one transfer for each dtype and device."""
    samples: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        plain = type(parameter) in (Tensor, nn.Parameter)  # others are packed in ways of their own
        values = parameter.detach().reshape(-1) if plain else torch.empty(0)
        step = max(len(values) // SAMPLES, 1)
        samples[values.dtype, values.device].append(values[::step])
    return [torch.cat(group).cpu().contiguous().view(torch.uint8).numpy().tobytes() for group in samples.values()]
