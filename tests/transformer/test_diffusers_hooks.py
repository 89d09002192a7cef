"""Guidance on models with diffusers' offload, casting or cache hooks, in cross-attention and joint attention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import FirstBlockCacheConfig, apply_group_offloading
from torch import Tensor

from tests.helpers.tiny_families import BY_NAME, Tiny
from vidguide import NAG, guide
from vidguide.calls.outputs import prediction_of

CPU = torch.device("cpu")


def offload_blocks(model: Any) -> None:
    offload_groups(model, offload_type="block_level", num_blocks_per_group=1)


def offload_leaves(model: Any) -> None:
    offload_groups(model, offload_type="leaf_level")


def offload_groups(model: Any, **kind: Any) -> None:
    try:
        apply_group_offloading(model, onload_device=CPU, offload_device=CPU, **kind)
    except AttributeError:  # 0.36 requires an accelerator
        pytest.skip("this diffusers offloads groups only where there is an accelerator")


def offload_modules(model: Any) -> None:
    cpu_offload(model, CPU)


def enable_cache(model: Any) -> None:
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))  # caches nothing, but installs every hook


def cast_layers(model: Any) -> None:
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def predict_guided(model: Any, tiny: Tiny) -> Tensor:
    with torch.no_grad(), guide(model, NAG(negative_prompt_embeds=tiny.negative())):
        for _ in range(2):
            with model.cache_context("cond"):
                prediction = prediction_of(model(**tiny.inputs(2)))
    return prediction


@pytest.mark.parametrize("hook", [offload_blocks, offload_leaves, offload_modules, enable_cache, cast_layers])
@pytest.mark.parametrize("name", ["WanTransformer3DModel", "HunyuanVideoTransformer3DModel", "MochiTransformer3DModel"])
def test_a_model_with_diffusers_hooks_is_guided_equally(name: str, hook: Callable[[Any], None]) -> None:
    tiny, model = BY_NAME[name], BY_NAME[name].make()
    expected = predict_guided(tiny.make(), tiny)
    hook(model)
    difference = (predict_guided(model, tiny) - expected).abs()
    assert difference.mean() < (1e-2 if hook is cast_layers else 1e-6)  # casting rounds the weights
