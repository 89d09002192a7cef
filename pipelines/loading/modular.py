"""Load a modular pipeline of diffusers, whose blocks and components its `modular_model_index.json` names."""

from typing import Any

import torch

from vidguide.eval.hub import only_cached
from vidguide.pipelines.loading.assemble import DTYPE, configure
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.setup import Setup

OFFLOADS = ("auto", "none")  # diffusers offloads the components of modular pipelines by their manager only


def is_modular_index(index: dict[str, Any]) -> bool:
    """Return whether an index is that of a modular pipeline."""
    return "_blocks_class_name" in index


def check_modular(model: Model, setup: Setup) -> None:
    """Refuse what a modular pipeline cannot be loaded with.

    Raises:
        ValueError: naming the argument and the cure.
    """
    if setup.offload not in OFFLOADS:
        raise ValueError(
            f"offload={setup.offload!r}: must be one of {', '.join(OFFLOADS)} for a modular pipeline; for offloading, "
            "load it with a ComponentsManager of diffusers, and pass it as pipe="
        )
    if model.checkpoint is not None or model.loras:
        raise ValueError(f"model={model.source!r}: a modular pipeline takes neither a single checkpoint nor LoRAs here")
    if rest := {name: value for name, value in setup.values().items() if name != "offload"}:
        name, value = next(iter(rest.items()))
        raise ValueError(
            f"{name}={value!r}: a modular pipeline takes no setup here; load it with diffusers, set it up, and pass it "
            "as pipe="
        )


def build_modular(model: Model, dtype: torch.dtype) -> Any:
    """Return the modular pipeline of a declaration with all its components, on the CPU; the VAE is float32."""
    from diffusers import ModularPipeline

    cached = only_cached(model.source)
    pipe = ModularPipeline.from_pretrained(model.source, revision=model.revision, local_files_only=cached)
    pipe.load_components(**{DTYPE: {"default": dtype, "vae": torch.float32}})
    configure(pipe, model)
    return pipe
