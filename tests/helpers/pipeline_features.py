"""What people put around a pipeline, as data: how it is put on, and what the same pipeline is without it."""

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
    """The feature itself does not exist for a model, whoever guides it."""


def nothing(pipe: Any) -> None:
    pass


@dataclass(frozen=True)
class Feature:
    """Something that people put around a pipeline.

    Attributes:
        name: as in the table.
        on: puts it on a pipeline.
        same: makes of another pipeline what the feature makes of one, by other means: rounded weights, say.
        within: a context to sample in.
        atol: how far it may be from that.
        calls: how often to sample; what compiles is slow, and transformer/test_compile.py tests it over several calls.
        lossy: it leaves work out: it may be as far as ten times what it changes in the unguided pipeline.
    """

    name: str
    on: Callable[[Any], None] = nothing
    same: Callable[[Any], None] = nothing
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    atol: float = 2e-5
    lossy: bool = False
    calls: int = 3


def each(change: Callable[[Any], Any], pipe: Any) -> None:
    """Change every transformer of a pipeline."""
    for transformer in transformers_of(pipe):
        change(transformer)


def on_transformers(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    return partial(each, change)


def forget_graphs() -> None:
    """Of other models, and let one have several: unguided, and under one guidance after the other."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64


def compile_whole(pipe: Any) -> None:
    forget_graphs()
    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            setattr(pipe, name, torch.compile(getattr(pipe, name), fullgraph=True, backend="eager"))


def compile_blocks(model: Any) -> None:
    forget_graphs()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")


def model_offloaded(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def modules_offloaded(model: Any) -> None:
    """What enable_sequential_cpu_offload does, which itself asks for an accelerator."""
    cpu_offload(model, CPU, offload_buffers=True)


def grouped(**kind: Any) -> Callable[[Any], None]:
    return on_transformers(lambda model: in_groups(model, **kind))


def in_groups(model: Any, **kind: Any) -> None:
    try:
        apply_group_offloading(model, onload_device=CPU, offload_device=CPU, **kind)
    except AttributeError as error:  # 0.36 asks for the type of the accelerator, and there is none
        raise UnavailableError(NO_ACCELERATOR) from error


def cast_layerwise(model: Any) -> None:
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.dtype)


def rounded(model: Any) -> None:
    """Weights rounded as layerwise casting stores them, in a model that is not cast."""
    twin = type(model).from_config(model.config)
    cast_layerwise(twin)
    cast = {name for name, module in twin.named_modules() if hasattr(module, "_diffusers_hook")}
    for name, module in model.named_modules():
        if name in cast:
            for parameter in module.parameters(recurse=False):
                parameter.copy_(parameter.to(torch.float8_e4m3fn))


def lora_for(pipe: Any) -> dict[str, torch.Tensor]:
    """Random low-rank weights for the attention of a pipeline's first transformer, as a file would hold them."""
    from peft import LoraConfig, get_peft_model_state_dict

    twin = type(pipe.transformer).from_config(pipe.transformer.config)
    torch.manual_seed(7)
    twin.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    return {f"transformer.{name}": weight for name, weight in get_peft_model_state_dict(twin).items()}


def lora_loaded(pipe: Any) -> None:
    pipe.load_lora_weights(lora_for(pipe), adapter_name="style")
    pipe.set_adapters("style", 0.5)


def lora_fused(pipe: Any) -> None:
    lora_loaded(pipe)
    pipe.fuse_lora(lora_scale=1.0)


def lora_added(pipe: Any) -> None:
    """The product of the low-rank weights added to the full ones."""
    weights = lora_for(pipe)
    for name, down in weights.items():
        if "lora_A" in name:
            module = pipe.transformer.get_submodule(name.removeprefix("transformer.").removesuffix(".lora_A.weight"))
            module.weight.add_(0.5 * weights[name.replace("lora_A", "lora_B")] @ down)


def projections_fused(model: Any) -> None:
    if not hasattr(model, "fuse_qkv_projections"):
        raise UnavailableError("no fuse_qkv_projections")
    model.fuse_qkv_projections()


def backend_set(name: str) -> Callable[[Any], None]:
    return on_transformers(lambda model: model.set_attention_backend(name))


@contextmanager
def global_backend_kept() -> Iterator[None]:
    """`set_attention_backend` sets the backend of every other model as well."""
    before = Registry._active_backend
    try:
        yield
    finally:
        Registry._active_backend = before


def first_block_cached(model: Any) -> None:
    model.enable_cache(FirstBlockCacheConfig(threshold=0.5))


def taylor_cached(model: Any) -> None:
    config: dict[str, Any] = dict(cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32)
    model.enable_cache(TaylorSeerCacheConfig(cache_identifiers=[r".*blocks\.\d+\.(attn\d?|cross_attention)"], **config))


def mag_cached(model: Any, steps: int = STEPS) -> None:
    if not hasattr(diffusers, "MagCacheConfig"):
        raise UnavailableError("no MagCache in this diffusers")
    config = dict(threshold=0.5, max_skip_steps=1, num_inference_steps=steps, mag_ratios=[1.0] * steps)
    model.enable_cache(diffusers.MagCacheConfig(**config))


def broadcast(model: Any) -> None:
    ranges: dict[str, Any] = {f"{kind}_attention_timestep_skip_range": EVERY for kind in ("spatial", "cross")}
    ranges |= {f"{kind}_attention_block_identifiers": BLOCKS for kind in ("spatial", "cross")}
    skips: dict[str, Any] = dict(spatial_attention_block_skip_range=2, cross_attention_block_skip_range=3)
    config = PyramidAttentionBroadcastConfig(**ranges, **skips, current_timestep_callback=lambda: 500)
    apply_pyramid_attention_broadcast(model, config)  # without enable_cache, as many do


def faster_cached(model: Any, distilled: bool = False) -> None:
    steps = iter([999] * 9 * distilled)  # the first forward of each of three blocks, in which it must not skip
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
        Feature("model offload", model_offloaded),
        Feature("sequential offload", on_transformers(modules_offloaded)),
        Feature("group offload, blocks", grouped(offload_type="block_level", num_blocks_per_group=1)),
        Feature("group offload, leaves", grouped(offload_type="leaf_level")),
        Feature("layerwise casting to float8", on_transformers(cast_layerwise), on_transformers(rounded)),
        Feature("LoRA", lora_loaded, lora_added),
        Feature("LoRA, fused", lora_fused, lora_added),
        Feature("fuse_qkv_projections", on_transformers(projections_fused)),
        Feature("set_attention_backend: _native_math", backend_set("_native_math"), within=global_backend_kept),
        Feature("set_attention_backend: _native_flash", backend_set("_native_flash"), within=global_backend_kept),
        Feature("set_attention_backend: flex", backend_set("flex"), within=global_backend_kept, calls=1),
        Feature("attention_backend: _native_math", within=partial(attention_backend, "_native_math")),
        Feature("FirstBlockCache", on_transformers(first_block_cached), lossy=True),
        Feature("TaylorSeer", on_transformers(taylor_cached), lossy=True),
        Feature("MagCache", on_transformers(mag_cached), lossy=True),
        Feature("PyramidAttentionBroadcast", on_transformers(broadcast), lossy=True),
        Feature("FasterCache", on_transformers(faster_cached), lossy=True),
    )
}
