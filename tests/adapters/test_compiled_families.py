"""Families compiled as one graph: equal to the eager guided model, and different from the unguided one.

Marked slow. The families of the compatibility table are compiled as pipelines in tests/test_compatibility.py.
"""

from typing import Any

import pytest
import torch

from tests.helpers.family_calls import METHODS, sample_clips
from tests.helpers.tiny_families import BY_NAME, Tiny, Values
from vidguide.attention.sites import fixed_self_attention
from vidguide.calls.outputs import prediction_of
from vidguide.transformer.family import families

NAMES = [f"{name}Transformer3DModel" for name in ("Allegro", "Latte", "Cosmos", "EasyAnimate", "Kandinsky5")]
NAMES += [f"{name}Transformer3DModel" for name in ("SanaVideo", "WanVACE", "HunyuanVideo15", "ConsisID", "MiniMaxH3")]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def is_one_graph(tiny: Tiny, inputs: Values) -> bool:
    """Return whether the unguided model compiles to one graph."""
    try:
        compiled: Any = torch.compile(tiny.make().to(tiny.dtype), fullgraph=True, backend="eager")
        compiled(**inputs)
    except torch._dynamo.exc.Unsupported:
        return False
    finally:
        torch._dynamo.reset()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("method", ["NAG", "EMAG"])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_guidance_equals_eager_guidance(name: str, method: str) -> None:
    tiny = BY_NAME[name]
    if method == "EMAG" and fixed_self_attention(families()[tiny.key]):
        pytest.skip("no perturbed pass")
    inputs, guidance = tiny.exact(tiny.inputs(2)), METHODS[method](tiny.exact(tiny.negative()))
    eager, _ = sample_clips(tiny.make().to(tiny.dtype), (guidance,), inputs)
    unguided, _ = sample_clips(tiny.make().to(tiny.dtype), (), inputs)
    model = tiny.make().to(tiny.dtype)
    compiled: Any = torch.compile(model, fullgraph=is_one_graph(tiny, inputs), backend="aot_eager")
    result, _ = sample_clips(compiled, (guidance,), inputs)
    tiny.assert_equal(result, eager)
    assert (result - unguided).abs().max() > 1e-3
    tiny.assert_equal(prediction_of(compiled(**inputs)), prediction_of(model(**inputs)))
