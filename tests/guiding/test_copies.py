"""Copies and pickles of a model made inside the block are plain: they are not guided, and refer to nothing of ours."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.helpers.shipped_calls import PROMPT, RED, load_tiny, sample
from tests.helpers.snapshots import snapshot_of
from tests.helpers.tiny_families import BY_NAME, Tiny
from vidguide import EMAG, NAG, PAG, STG, guide

FAMILIES = [
    BY_NAME[name]
    for name in (
        "WanTransformer3DModel",
        "CogVideoXTransformer3DModel",
        "HunyuanVideoTransformer3DModel",
        "LTXVideoTransformer3DModel",
    )
]
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


def classes(model: torch.nn.Module) -> list[tuple[type, type]]:
    """Return the class of each module and of its processor."""
    return [(type(module), type(getattr(module, "processor", None))) for module in model.modules()]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("tiny", FAMILIES, ids=lambda tiny: tiny.name)
def test_a_copy_made_inside_the_block_is_plain(tiny: Tiny, copied: str) -> None:
    model, inputs = tiny.make(), tiny.inputs(2)
    expected, plain, size = model(**inputs)[0], classes(model), len(pickle.dumps(model))
    with guide(model, NAG(negative_prompt_embeds=tiny.negative()), PAG(layers=(1,)), STG(layers=(1,))):
        guided = model(**inputs)[0]
        other = COPIES[copied](model)
        assert classes(other) == plain
        assert torch.equal(other(**inputs)[0], expected)
        assert len(pickle.dumps(other)) == pytest.approx(size, rel=0.02)
        assert torch.equal(model(**inputs)[0], guided)
    assert torch.equal(other(**inputs)[0], expected)
    assert not torch.equal(guided, expected)


def test_a_copy_can_be_guided_like_the_model() -> None:
    tiny = FAMILIES[0]
    model, inputs, nag = tiny.make(), tiny.inputs(2), NAG(negative_prompt_embeds=tiny.negative())
    with guide(model, nag):
        guided, other = model(**inputs)[0], copy.deepcopy(model)
        with guide(other, nag):
            assert torch.equal(other(**inputs)[0], guided)
    assert snapshot_of(other)["modules"].keys() == snapshot_of(model)["modules"].keys()


def test_a_block_and_an_attention_can_be_copied() -> None:
    tiny = FAMILIES[0]
    model = tiny.make()
    expected = classes(model.blocks[1])
    with guide(model, NAG(negative_prompt_embeds=tiny.negative()), STG(layers=(1,))):
        block, attention = copy.deepcopy(model.blocks[1]), copy.deepcopy(model.blocks[1].attn2)
    assert classes(block) == expected
    assert classes(attention) == classes(model.blocks[1].attn2)


def test_a_copy_of_a_pipelines_transformer_leaves_the_pipeline_alone() -> None:
    pipe: Any = load_tiny()
    plain = sample(pipe, PROMPT)
    size = len(pickle.dumps(pipe.transformer))
    with guide(pipe, NAG(negative_prompt=RED), EMAG()):
        sample(pipe, PROMPT)
        data = pickle.dumps(pipe.transformer)
        ema, scheduler = copy.deepcopy(pipe.transformer), copy.deepcopy(pipe.scheduler)
    assert len(data) < 1.02 * size
    assert type(scheduler) is type(pipe.scheduler)
    assert not [name for name in vars(scheduler) if "vidguide" in name]
    alive = weakref.ref(pipe)
    other: Any = load_tiny()
    del pipe
    gc.collect()
    assert alive() is None
    other.transformer = ema
    assert (sample(other, PROMPT) == plain).all()
