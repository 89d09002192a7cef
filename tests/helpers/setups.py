"""Options of a `Setup` for the shipped model, each with the change to a plain pipeline that has the same effect."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import PyramidAttentionBroadcastConfig, UniPCMultistepScheduler

from tests.helpers.pipeline_features import random_lora, round_to_float8
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request.setup import Setup

PROMPT, NEGATIVE = "a large red circle moving left", "red"
STEPS = 3
CALL: dict[str, Any] = dict(negative_prompt=NEGATIVE, steps=STEPS, frames=5, height=32, width=32, progress=False)
LORA_STRENGTH = 0.7


def no_change(pipe: Any, folder: Path) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Option:
    """Options of a setup.

    Attributes:
        values: of the setup; `{folder}` stands for the folder of the files that :func:`write_files` makes.
        equivalent: changes a plain pipeline to the same effect.
        order: of equivalents: weights, their rounding, what is added to them, and the rest.
        atol: of the frames, in levels of 255, on average.
        exact: whether the frames are those without the option.
        packages: that it needs.
    """

    values: dict[str, Any]
    equivalent: Callable[[Any, Path], None] = no_change
    order: int = 3
    atol: float = 0.01
    exact: bool = True
    packages: tuple[str, ...] = ()

    def setup(self, folder: Path) -> Setup:
        return Setup(**self.filled(folder))

    def filled(self, folder: Path) -> dict[str, Any]:
        def fill(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(fill, value))
            return value.replace("{folder}", str(folder)) if isinstance(value, str) else value

        return {name: fill(value) for name, value in self.values.items()}


def write_files(folder: Path) -> None:
    """Write a random LoRA and a GGUF file of the shipped model's transformer."""
    pipe = load("tiny", device="cpu", progress=False)
    pipe.save_lora_weights(folder, transformer_lora_layers=lora_weights(pipe))
    write_gguf(pipe.transformer, folder / "tiny.gguf")


def lora_weights(pipe: Any) -> dict[str, torch.Tensor]:
    """Return small random low-rank weights for the attention of the transformer."""
    return {name.removeprefix("transformer."): 0.3 * weight for name, weight in random_lora(pipe).items()}


def write_gguf(model: Any, path: Path) -> None:
    """Write a model's weights as GGUF: linear layers of blocks in 8 bits, others unchanged."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "wan")
    for name, weight in model.state_dict().items():
        array = weight.float().numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0 and "blocks" in name and "table" not in name:
            packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantize(weight: Any) -> torch.Tensor:
    """Return a quantized weight as a plain tensor."""
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    plain: torch.Tensor = dequantize_gguf_tensor(weight) if isinstance(weight, GGUFParameter) else weight.dequantize()
    return plain


def copy_dequantized(pipe: Any, quantized: Any) -> int:
    """Copy the dequantized weights of a quantized pipeline to a plain one; return how many linears were quantized."""
    copied = 0
    for name, module in quantized.transformer.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, torch.nn.Linear) and type(weight) is not torch.nn.Parameter:
            with torch.no_grad():
                pipe.transformer.get_submodule(name).weight.copy_(dequantize(weight))
            copied += 1
    return copied


def from_quantized(**values: Any) -> Callable[[Any, Path], None]:
    def change(pipe: Any, folder: Path) -> None:
        quantized = load("tiny", device="cpu", setup=Option(values).setup(folder), progress=False)
        assert copy_dequantized(pipe, quantized) > 10

    return change


def cast(pipe: Any, folder: Path) -> None:
    with torch.no_grad():
        round_to_float8(pipe.transformer)


def add_lora(pipe: Any, folder: Path) -> None:
    """Add the product of the low-rank weights to the full ones."""
    weights = lora_weights(load("tiny", device="cpu", progress=False))
    with torch.no_grad():
        for name, down in weights.items():
            if "lora_A" in name:
                module = pipe.transformer.get_submodule(name.removesuffix(".lora_A.weight"))
                module.weight.add_(LORA_STRENGTH * weights[name.replace("lora_A", "lora_B")] @ down)


def enable_cache(**config: Any) -> Callable[[Any, Path], None]:
    def change(pipe: Any, folder: Path) -> None:
        kind = config["kind"]
        values = {name: value for name, value in config.items() if name != "kind"}
        if kind is PyramidAttentionBroadcastConfig:
            values["current_timestep_callback"] = lambda: pipe.current_timestep
        pipe.transformer.enable_cache(kind(**values))

    return change


def cache_option(kind: str, **values: Any) -> Option:
    """Return the option of a cache, and diffusers' own configuration of it as the equivalent."""
    import diffusers

    def text(value: Any) -> str:
        return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value).removeprefix("torch.")

    spec = ",".join(f"{name}={text(value)}" for name, value in values.items())
    config = getattr(diffusers, f"{kind}Config", None) or getattr(diffusers, f"{kind}CacheConfig")
    return Option({"cache": f"{kind}:{spec}"}, enable_cache(kind=config, **values), order=4, exact=False)


def use_unipc(pipe: Any, folder: Path) -> None:
    shift = pipe.scheduler.config.shift
    flow: dict[str, Any] = dict(use_flow_sigmas=True, prediction_type="flow_prediction", num_train_timesteps=1000)
    pipe.scheduler = UniPCMultistepScheduler(flow_shift=shift, **flow)


def set_shift(pipe: Any, folder: Path) -> None:
    config = {**pipe.scheduler.config, "shift": 2.0}
    pipe.scheduler = type(pipe.scheduler).from_config(config)


def tile(pipe: Any, folder: Path) -> None:
    pipe.vae.enable_tiling()


def slice_batch(pipe: Any, folder: Path) -> None:
    pipe.vae.enable_slicing()


def quantized_option(kind: str, package: str) -> Option:
    return Option({"quantization": kind}, from_quantized(quantization=kind), 0, 0.1, False, (package,))


OPTIONS = {
    "torchao-int8": quantized_option("torchao-int8", "torchao"),
    "torchao-fp8": quantized_option("torchao-fp8", "torchao"),
    "quanto-int8": quantized_option("quanto-int8", "optimum.quanto"),
    "quanto-fp8": quantized_option("quanto-fp8", "optimum.quanto"),
    "gguf": Option(
        {"gguf": "{folder}/tiny.gguf"}, from_quantized(gguf="{folder}/tiny.gguf"), 0, 0.09, False, ("gguf",)
    ),
    "casting": Option({"layerwise_casting": "float8_e4m3fn"}, cast, order=1, exact=False),
    "LoRA": Option(
        {"loras": (f"{{folder}}/pytorch_lora_weights.safetensors:{LORA_STRENGTH}",)}, add_lora, 2, exact=False
    ),
    "offload model": Option({"offload": "model"}),
    "offload sequential": Option({"offload": "sequential"}),
    "offload blocks": Option({"offload": "blocks", "blocks_per_group": 2}),
    "offload leaves": Option({"offload": "leaves"}),
    "compile blocks": Option({"compile": "blocks", "compile_backend": "eager"}),
    "compile whole": Option({"compile": "whole", "compile_backend": "eager"}),
    "backend": Option({"attention_backend": "_native_math"}),
    "FirstBlockCache": cache_option("FirstBlockCache", threshold=5.0),
    "TaylorSeer": cache_option(
        "TaylorSeer",
        cache_interval=3,
        disable_cache_before_step=1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"blocks\.\d+\.attn1"],
    ),
    "MagCache": cache_option(
        "MagCache", threshold=0.5, max_skip_steps=1, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS
    ),
    "PyramidAttentionBroadcast": cache_option(
        "PyramidAttentionBroadcast",
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1001),
        spatial_attention_block_identifiers=("blocks",),
    ),
    "scheduler": Option({"scheduler": "UniPCMultistepScheduler"}, use_unipc, exact=False),
    "shift": Option({"shift": 2.0}, set_shift, exact=False),
    "tiling": Option({"vae_tiling": True}, tile),
    "slicing": Option({"vae_slicing": True}, slice_batch),
}


def sample(pipe: Any) -> torch.Tensor:
    """Return the frames of a guided clip: (F, H, W, 3), in levels of 255."""
    return torch.from_numpy(generate(PROMPT, pipe=pipe, **CALL).frames).float()


def plain_sample(folder: Path, *names: str) -> torch.Tensor:
    """Return the frames of a plain pipeline that was changed to the effect of options."""
    pipe = load("tiny", device="cpu", progress=False)
    for option in sorted((OPTIONS[name] for name in names), key=lambda option: option.order):
        option.equivalent(pipe, folder)
    return sample(pipe)
