"""Guidance on quantised linears equals guidance on a model with the dequantised weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import GGUFQuantizationConfig, WanTransformer3DModel

from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import NAG, STG, guide

SIZES = dict(attention_head_dim=16, ffn_dim=64, text_dim=32, freq_dim=32)  # GGUF packs rows of 32
INPUTS = {**wan_inputs(), "encoder_hidden_states": torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(3))}
NEGATIVE = torch.cat([negative_text(), negative_text(seed=4)], -1)
GUIDANCES = [
    (NAG(negative_prompt_embeds=NEGATIVE),),
    (STG(mode="attention", layers=(1,)), NAG(negative_prompt_embeds=NEGATIVE)),
]
each_guidance = pytest.mark.parametrize("guidances", GUIDANCES, ids=["NAG", "STG and NAG"])


def assert_equal_guided(model: Any, plain: Any, guidances: tuple[Any, ...]) -> None:
    """Assert that both models give the same output, unguided and guided."""
    unguided = model(**INPUTS)[0]
    torch.testing.assert_close(unguided, plain(**INPUTS)[0], atol=1e-4, rtol=1e-3)
    with guide(plain, *guidances):
        expected = plain(**INPUTS)[0]
    with guide(model, *guidances):
        for _ in range(2):
            torch.testing.assert_close(model(**INPUTS)[0], expected, atol=1e-4, rtol=1e-3)
    assert (expected - unguided).abs().max() > 1e-3
    assert torch.equal(model(**INPUTS)[0], unguided)


@each_guidance
def test_gguf_weights_loaded_by_diffusers_are_guided(tmp_path: Path, guidances: tuple[Any, ...]) -> None:
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, dequantize_gguf_tensor

    plain = tiny_wan(**SIZES)
    path = str(tmp_path / "wan.gguf")
    writer = gguf.GGUFWriter(path, "wan")
    for name, weight in plain.state_dict().items():
        array = weight.numpy()
        linear = array.ndim == 2 and array.shape[1] % 32 == 0 and "blocks" in name and "table" not in name
        if linear:
            packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    plain.save_config(tmp_path)
    settings = GGUFQuantizationConfig(compute_dtype=torch.float32)
    model = WanTransformer3DModel.from_single_file(
        path, config=str(tmp_path), quantization_config=settings, torch_dtype=torch.float32
    )
    quantised = [name for name, module in model.named_modules() if isinstance(module, GGUFLinear)]
    assert "blocks.0.attn2.to_k" in quantised
    with torch.no_grad():
        for name in quantised:
            weight = dequantize_gguf_tensor(model.get_submodule(name).weight)
            plain.get_submodule(name).weight.copy_(weight)
        assert_equal_guided(model.eval(), plain, guidances)


@each_guidance
def test_int8_weights_of_torchao_are_guided(guidances: tuple[Any, ...]) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model, plain = tiny_wan(**SIZES), tiny_wan(**SIZES)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for name in linears:
            plain.get_submodule(name).weight.copy_(model.get_submodule(name).weight.dequantize())
        assert_equal_guided(model, plain, guidances)


def quantise_blocks(model: Any, kind: str, **settings: Any) -> dict[str, Any]:
    """Replace the blocks' linears by bitsandbytes'. diffusers' BitsAndBytesConfig requires a GPU, the layers do not."""
    bnb = pytest.importorskip("bitsandbytes.nn")
    layers = {}
    for name, linear in [
        (path, module) for path, module in model.blocks.named_modules() if isinstance(module, torch.nn.Linear)
    ]:
        quantised = getattr(bnb, kind)(linear.in_features, linear.out_features, **settings)
        quantised.load_state_dict(linear.state_dict())
        layers[name] = quantised.to("cpu").requires_grad_(False)  # quantises
        parent, _, child = name.rpartition(".")
        setattr(model.blocks.get_submodule(parent), child, layers[name])
    return layers


@each_guidance
def test_4_bit_weights_of_bitsandbytes_are_guided(guidances: tuple[Any, ...]) -> None:
    model, plain = tiny_wan(**SIZES), tiny_wan(**SIZES)
    with torch.no_grad():
        for name, linear in quantise_blocks(model, "Linear4bit", compute_dtype=torch.float32).items():
            functional = pytest.importorskip("bitsandbytes.functional")
            weight = functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
            plain.blocks.get_submodule(name).weight.copy_(weight)
        assert model.blocks[0].attn2.to_k.weight.dtype == torch.uint8
        assert_equal_guided(model, plain, guidances)


@each_guidance
def test_8_bit_linears_of_bitsandbytes_are_guided(guidances: tuple[Any, ...]) -> None:
    """They also round their input, so the reference model calls the same quantised function."""
    model, plain = tiny_wan(**SIZES), tiny_wan(**SIZES)
    with torch.no_grad():
        for name, linear in quantise_blocks(model, "Linear8bitLt", has_fp16_weights=False).items():
            plain.blocks.get_submodule(name).forward = linear.forward
        assert model.blocks[0].attn2.to_k.weight.dtype == torch.int8
        assert_equal_guided(model, plain, guidances)
