"""An intercepted processor equals the original one, except that its kernel calls go to the attention site."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from tests.helpers.tiny_wan import tiny_wan, wan_inputs
from vidguide.attention.interception import intercepted, intercepted_class
from vidguide.attention.site import SITE, AttentionSite, KernelCall


def test_an_intercepted_processor_has_upstreams_class_and_signature() -> None:
    processor = WanAttnProcessor()
    wrapped = intercepted(processor)
    assert isinstance(wrapped, WanAttnProcessor)
    assert type(wrapped).__name__ == "WanAttnProcessor"
    assert inspect.signature(wrapped.__call__) == inspect.signature(processor.__call__)


def test_attributes_are_shared_with_the_original_processor() -> None:
    processor = WanAttnProcessor()
    wrapped = intercepted(processor)
    processor._attention_backend = "native"
    wrapped._parallel_config = "set on the intercepted processor"
    assert wrapped._attention_backend == "native"
    assert processor._parallel_config == "set on the intercepted processor"


def test_each_processor_class_is_intercepted_once() -> None:
    assert type(intercepted(WanAttnProcessor())) is type(intercepted(WanAttnProcessor()))


def test_kernel_calls_are_numbered_in_source_order() -> None:
    assert intercepted_class(WanAttnProcessor)[1] == 2  # image tokens of image-to-video first, then text or video


def test_a_processor_without_a_kernel_call_raises() -> None:
    class Linear:
        def __call__(self, attn: Any, hidden_states: Any) -> Any:
            return hidden_states

    with pytest.raises(LookupError, match="Linear: calls none of"):
        intercepted_class(Linear)


def test_closures_and_default_arguments_are_preserved() -> None:
    factor = 3.0

    class Scaled:
        def __call__(self, attn: Any, q: torch.Tensor, *, shift: float = 2.0) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, q, q) * factor + shift

    query = torch.randn(1, 2, 3, 4)
    attention = torch.nn.Identity()
    assert torch.equal(intercepted(Scaled())(attention, query), Scaled()(attention, query))
    assert torch.equal(intercepted(Scaled())(attention, query, shift=0.0), Scaled()(attention, query, shift=0.0))


def test_interception_without_edits_does_not_change_the_output_bitwise(wan: Any) -> None:
    inputs = wan_inputs()
    expected = wan(**inputs)[0]
    for module in wan.modules():
        if hasattr(module, "processor"):
            module.processor = intercepted(module.processor)
    assert torch.equal(wan(**inputs)[0], expected)


@pytest.mark.parametrize("kernel", ["dispatch", "sdpa"])
def test_an_edit_gets_tokens_before_heads_for_every_kernel_layout(kernel: str) -> None:
    shapes = []

    def edit(kernel: KernelCall, query: Any, key: Any, value: Any) -> Any:
        shapes.append((query.shape, key.shape))
        return kernel(query, key, value, kernel.mask)

    if kernel == "dispatch":
        attention: Any = tiny_wan().blocks[0].attn2
        arguments = (torch.randn(1, 5, 24), torch.randn(1, 7, 24))
    else:
        attention = Attention(query_dim=24, cross_attention_dim=24, heads=2, dim_head=12, processor=AttnProcessor2_0())
        arguments = (torch.randn(1, 5, 24), torch.randn(1, 7, 24))
    expected = attention(*arguments)
    processor: Any = type(attention.processor)
    site = AttentionSite(0, attention, intercepted_class(processor)[1] - 1)
    site.edit = edit
    setattr(attention, SITE, site)
    attention.processor = intercepted(attention.processor)
    assert torch.equal(attention(*arguments), expected)
    assert shapes == [((1, 5, 2, 12), (1, 7, 2, 12))]
