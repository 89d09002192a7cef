"""Ways to compile a diffusers model."""

from typing import Any

import torch


def compile_whole(model: Any, backend: Any) -> Any:
    return torch.compile(model, fullgraph=True, backend=backend)


def compile_in_place(model: Any, backend: Any) -> Any:
    model.compile(fullgraph=True, backend=backend)
    return model


def compile_blocks(model: Any, backend: Any) -> Any:
    model.compile_repeated_blocks(fullgraph=True, backend=backend)
    return model
