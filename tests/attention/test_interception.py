"""The rebound processor is upstream's own, but for where its kernel calls go."""

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


def test_signature_and_class_are_upstreams() -> None:
    processor = WanAttnProcessor()
    routed = intercepted(processor)
    assert isinstance(routed, WanAttnProcessor)
    assert type(routed).__name__ == "WanAttnProcessor"
    assert inspect.signature(routed.__call__) == inspect.signature(processor.__call__)


def test_attributes_are_shared_both_ways() -> None:
    processor = WanAttnProcessor()
    routed = intercepted(processor)
    processor._attention_backend = "native"
    routed._parallel_config = "set on the rebound one"
    assert routed._attention_backend == "native"
    assert processor._parallel_config == "set on the rebound one"


def test_one_class_per_processor_class() -> None:
    assert type(intercepted(WanAttnProcessor())) is type(intercepted(WanAttnProcessor()))


def test_kernel_calls_are_counted_in_source_order() -> None:
    assert intercepted_class(WanAttnProcessor)[1] == 2  # image-to-video's image tokens first, text or video second


def test_a_processor_without_a_kernel_is_refused() -> None:
    class Linear:
        def __call__(self, attn: Any, hidden_states: Any) -> Any:
            return hidden_states

    with pytest.raises(LookupError, match="Linear: calls none of"):
        intercepted_class(Linear)


def test_closures_and_defaults_survive() -> None:
    factor = 3.0

    class Scaled:
        def __call__(self, attn: Any, q: torch.Tensor, *, shift: float = 2.0) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, q, q) * factor + shift

    query = torch.randn(1, 2, 3, 4)
    attention = torch.nn.Identity()
    assert torch.equal(intercepted(Scaled())(attention, query), Scaled()(attention, query))
    assert torch.equal(intercepted(Scaled())(attention, query, shift=0.0), Scaled()(attention, query, shift=0.0))


def test_passthrough_is_bitwise_upstreams(wan: Any) -> None:
    inputs = wan_inputs()
    expected = wan(**inputs)[0]
    for module in wan.modules():
        if hasattr(module, "processor"):
            module.processor = intercepted(module.processor)
    assert torch.equal(wan(**inputs)[0], expected)


@pytest.mark.parametrize("kernel", ["dispatch", "sdpa"])
def test_an_edit_sees_tokens_before_heads_whatever_the_layout(kernel: str) -> None:
    seen = []

    def edit(kernel: KernelCall, query: Any, key: Any, value: Any) -> Any:
        seen.append((query.shape, key.shape))
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
    assert seen == [((1, 5, 2, 12), (1, 7, 2, 12))]
