"""Features that are used with pipelines: how to enable each, and an equivalent pipeline without it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from accelerate import cpu_offload
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_group_offloading,
    apply_pyramid_attention_broadcast,
)
from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
from diffusers.models.attention_dispatch import attention_backend

from tests.helpers.common_pipelines import STEPS, transformers_of

CPU = torch.device("cpu")
NO_ACCELERATOR = "this diffusers offloads groups only where there is an accelerator"


class UnavailableError(Exception):
    """The model does not support the feature, with or without guidance."""


def no_change(pipe: Any) -> None:
    pass


@dataclass(frozen=True)
class Feature:
    """Feature of diffusers or torch that is used with a pipeline.

    Attributes:
        name: row name in the compatibility table.
        enable: enables the feature on a pipeline.
        equivalent: changes a pipeline to the same effect by other means, for example by rounding its weights.
        within: context in which to sample.
        atol: tolerance of the comparison with the equivalent pipeline.
        calls: number of runs; one for compiled models, as transformer/test_compile.py tests several.
        lossy: the feature skips work; its tolerance is ten times its change to the unguided pipeline.
    """

    name: str
    enable: Callable[[Any], None] = no_change
    equivalent: Callable[[Any], None] = no_change
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    atol: float = 2e-5
    lossy: bool = False
    calls: int = 3


def for_each_transformer(change: Callable[[Any], Any], pipe: Any) -> None:
    """Apply a function to every transformer of a pipeline."""
    for transformer in transformers_of(pipe):
        change(transformer)


def on_transformers(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    return partial(for_each_transformer, change)


def reset_dynamo() -> None:
    """Discard the graphs of other models, and allow several per model: unguided, and one set per guidance."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64


def compile_whole(pipe: Any) -> None:
    reset_dynamo()
    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            setattr(pipe, name, torch.compile(getattr(pipe, name), fullgraph=True, backend="eager"))


def compile_blocks(model: Any) -> None:
    reset_dynamo()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")


def offload_model(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def offload_modules(model: Any) -> None:
    """Offload as enable_sequential_cpu_offload does, which requires an accelerator."""
    cpu_offload(model, CPU, offload_buffers=True)


def offload_groups(**kind: Any) -> Callable[[Any], None]:
    return on_transformers(lambda model: apply_groups(model, **kind))


def apply_groups(model: Any, **kind: Any) -> None:
    try:
        apply_group_offloading(model, onload_device=CPU, offload_device=CPU, **kind)
    except AttributeError as error:  # 0.36 requires an accelerator
        raise UnavailableError(NO_ACCELERATOR) from error


def cast_layerwise(model: Any) -> None:
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.dtype)


def round_to_float8(model: Any) -> None:
    """Round the weights to float8 as layerwise casting stores them."""
    twin = type(model).from_config(model.config)
    cast_layerwise(twin)
    cast = {name for name, module in twin.named_modules() if hasattr(module, "_diffusers_hook")}
    for name, module in model.named_modules():
        if name in cast:
            for parameter in module.parameters(recurse=False):
                parameter.copy_(parameter.to(torch.float8_e4m3fn))


def random_lora(pipe: Any) -> dict[str, torch.Tensor]:
    """Return random low-rank weights for the attention of a pipeline's first transformer, as in a LoRA file."""
    from peft import LoraConfig, get_peft_model_state_dict

    twin = type(pipe.transformer).from_config(pipe.transformer.config)
    torch.manual_seed(7)
    twin.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    return {f"transformer.{name}": weight for name, weight in get_peft_model_state_dict(twin).items()}


def load_lora(pipe: Any) -> None:
    pipe.load_lora_weights(random_lora(pipe), adapter_name="style")
    pipe.set_adapters("style", 0.5)


def fuse_lora(pipe: Any) -> None:
    load_lora(pipe)
    pipe.fuse_lora(lora_scale=1.0)


def add_lora_to_weights(pipe: Any) -> None:
    """Add the product of the low-rank weights to the full ones."""
    weights = random_lora(pipe)
    for name, down in weights.items():
        if "lora_A" in name:
            module = pipe.transformer.get_submodule(name.removeprefix("transformer.").removesuffix(".lora_A.weight"))
            module.weight.add_(0.5 * weights[name.replace("lora_A", "lora_B")] @ down)


def fuse_projections(model: Any) -> None:
    if not hasattr(model, "fuse_qkv_projections"):
        raise UnavailableError("no fuse_qkv_projections")
    model.fuse_qkv_projections()


def set_backend(name: str) -> Callable[[Any], None]:
    return on_transformers(lambda model: model.set_attention_backend(name))


@contextmanager
def restore_global_backend() -> Iterator[None]:
    """Restore the global attention backend, which `set_attention_backend` changes for all models."""
    before = Registry._active_backend
    try:
        yield
    finally:
        Registry._active_backend = before


def enable_first_block_cache(model: Any) -> None:
    model.enable_cache(FirstBlockCacheConfig(threshold=0.5))


def enable_taylorseer(model: Any) -> None:
    config: dict[str, Any] = dict(cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32)
    model.enable_cache(TaylorSeerCacheConfig(cache_identifiers=[r".*blocks\.\d+\.(attn\d?|cross_attention)"], **config))


def enable_mag_cache(model: Any, steps: int = STEPS) -> None:
    if not hasattr(diffusers, "MagCacheConfig"):
        raise UnavailableError("no MagCache in this diffusers")
    config = dict(threshold=0.5, max_skip_steps=1, num_inference_steps=steps, mag_ratios=[1.0] * steps)
    model.enable_cache(diffusers.MagCacheConfig(**config))


def enable_attention_broadcast(model: Any) -> None:
    ranges: dict[str, Any] = {f"{kind}_attention_timestep_skip_range": EVERY for kind in ("spatial", "cross")}
    ranges |= {f"{kind}_attention_block_identifiers": BLOCKS for kind in ("spatial", "cross")}
    skips: dict[str, Any] = dict(spatial_attention_block_skip_range=2, cross_attention_block_skip_range=3)
    config = PyramidAttentionBroadcastConfig(**ranges, **skips, current_timestep_callback=lambda: 500)
    apply_pyramid_attention_broadcast(model, config)  # without enable_cache, as is common


def enable_faster_cache(model: Any, distilled: bool = False) -> None:
    steps = iter([999] * 9 * distilled)  # the first forward of each of three blocks must not be skipped
    config: dict[str, Any] = dict(attention_weight_callback=lambda module: 0.3)
    config |= dict(current_timestep_callback=lambda: next(steps, 500), tensor_format="BFCHW")
    config |= dict(spatial_attention_block_identifiers=BLOCKS, spatial_attention_timestep_skip_range=(-1, 900))
    config |= dict(unconditional_batch_timestep_skip_range=EVERY, is_guidance_distilled=distilled)
    model.enable_cache(FasterCacheConfig(**config))


BLOCKS = ("blocks", "transformer_blocks")
EVERY = (-1, 1001)  # timesteps in which a cache may skip

FEATURES = {
    feature.name: feature
    for feature in (
        Feature("nothing else"),
        Feature("torch.compile, whole, fullgraph", compile_whole, calls=1),
        Feature("compile_repeated_blocks, fullgraph", on_transformers(compile_blocks), calls=1),
        Feature("model offload", offload_model),
        Feature("sequential offload", on_transformers(offload_modules)),
        Feature("group offload, blocks", offload_groups(offload_type="block_level", num_blocks_per_group=1)),
        Feature("group offload, leaves", offload_groups(offload_type="leaf_level")),
        Feature("layerwise casting to float8", on_transformers(cast_layerwise), on_transformers(round_to_float8)),
        Feature("LoRA", load_lora, add_lora_to_weights),
        Feature("LoRA, fused", fuse_lora, add_lora_to_weights),
        Feature("fuse_qkv_projections", on_transformers(fuse_projections)),
        Feature("set_attention_backend: _native_math", set_backend("_native_math"), within=restore_global_backend),
        Feature("set_attention_backend: _native_flash", set_backend("_native_flash"), within=restore_global_backend),
        Feature("set_attention_backend: flex", set_backend("flex"), within=restore_global_backend, calls=1),
        Feature("attention_backend: _native_math", within=partial(attention_backend, "_native_math")),
        Feature("FirstBlockCache", on_transformers(enable_first_block_cache), lossy=True),
        Feature("TaylorSeer", on_transformers(enable_taylorseer), lossy=True),
        Feature("MagCache", on_transformers(enable_mag_cache), lossy=True),
        Feature("PyramidAttentionBroadcast", on_transformers(enable_attention_broadcast), lossy=True),
        Feature("FasterCache", on_transformers(enable_faster_cache), lossy=True),
    )
}
