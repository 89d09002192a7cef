"""The components of a pipeline, built from their configurations on the meta device or as fake tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from vidguide.eval.files import read_object
from vidguide.pipelines.loading.assemble import diffusers_class, vae_dtype
from vidguide.pipelines.loading.hub import AGAIN, LIBRARIES, find_file, read_index
from vidguide.pipelines.models.configs import CONFIGS, Config
from vidguide.pipelines.models.sources import REVISIONS
from vidguide.pipelines.models.spec import Model

SKIPPED = ("tokenizer", "scheduler", "image_processor", "feature_extractor")  # components without weights


@dataclass(frozen=True)
class Blueprint:
    """Classes and configurations of a pipeline.

    Attributes:
        index: content of `model_index.json`.
        configs: configuration of each component that has weights.
        source: where they are from, for the reader.
    """

    index: Mapping[str, Any]
    configs: Mapping[str, Config]
    source: str


def read_blueprint(model: Model) -> Blueprint:
    """Return the blueprint of a model: that of a preset, or its JSON files, of which only these are downloaded.

    Raises:
        OSError: a file cannot be read. ValueError: it has another form, or the model has no `config.json` in the
            format of diffusers for a component, as with a single checkpoint.
    """
    if model.source in CONFIGS and model.revision in (None, REVISIONS.get(model.source)):
        return Blueprint(*CONFIGS[model.source], source="vidguide/pipelines/models/configs.py")
    if model.checkpoint is not None:
        raise ValueError(f"{model.checkpoint.file}: cannot be planned: a single checkpoint has no configuration")
    index = read_index(model.source, model.revision)
    if "_class_name" not in index:
        raise ValueError(f"{model.source!r}: cannot be planned: it is a modular pipeline, whose classes are not listed")
    configs = {
        name: read_object(find_file(model.source, f"{name}/config.json", model.revision), cure=AGAIN)
        for name in components_of(index)
    }
    return Blueprint(index, configs, source="config.json of its components")


def components_of(index: Mapping[str, Any]) -> list[str]:
    """Return the names of the components of an index that have weights."""
    return [
        name
        for name, entry in index.items()
        if isinstance(entry, list | tuple) and entry[0] in LIBRARIES and entry[1] and name not in SKIPPED
    ]


def library_class(library: str, kind: str) -> Any:
    """Return a class of diffusers or transformers."""
    return diffusers_class(kind) if library == "diffusers" else getattr(import_module(library), kind)


def build(blueprint: Blueprint, name: str, dtype: torch.dtype) -> nn.Module:
    """Return a component whose weights have the dtypes that loading gives them; under a mode or device of the caller.

    Args:
        blueprint: classes and configurations.
        name: of the component.
        dtype: of the model; that of the VAE is the one that loading gives it, and some modules are kept in float32.
    """
    library, kind = blueprint.index[name][:2]
    config, cls = dict(blueprint.configs[name]), library_class(library, kind)
    module: nn.Module = cls.from_config(config) if library == "diffusers" else cls(cls.config_class(**config))
    chosen = vae_dtype(str(blueprint.index["_class_name"]), dtype) if name == "vae" else dtype
    set_dtypes(module, chosen, float32_modules(module, library, dtype))
    return module.eval()


def float32_modules(module: nn.Module, library: str, dtype: torch.dtype) -> set[str]:
    """Return parts of names of parameters that stay float32: with transformers some of them in float16 only."""
    strict = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    if library == "transformers" and dtype != torch.float16:
        return strict
    return strict | set(getattr(module, "_keep_in_fp32_modules", None) or ())


def set_dtypes(module: nn.Module, dtype: torch.dtype, exempt: set[str]) -> None:
    """Replace the parameters of a module by empty ones of a dtype, or of float32 if a part of the name is exempt."""
    replaced: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # old and new by id of the old one, which stays alive
    for prefix, child in list(module.named_modules()):
        for name, old in [each for each in child._parameters.items() if each[1] is not None]:
            if id(old) not in replaced:
                chosen = torch.float32 if {*prefix.split("."), name} & exempt else dtype
                new = nn.Parameter(torch.empty(old.shape, dtype=chosen, device=old.device), requires_grad=False)
                replaced[id(old)] = (old, new)
            child._parameters[name] = replaced[id(old)][1]


def bytes_of(module: nn.Module) -> int:
    """Return the memory of the parameters and buffers of a module."""
    return sum(
        tensor.numel() * tensor.element_size() for each in (module.parameters(), module.buffers()) for tensor in each
    )
