"""NAG modulates a negative by its own vector: HunyuanVideo, Framepack and Mochi against plain streams."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.helpers.compilation import compile_whole
from tests.helpers.joint_attention import STRENGTH
from tests.helpers.plain_streams import plain_prediction
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_families import BY_NAME, TINY, Tiny, Values, noise, row
from vidguide import EMAG, NAG, STG, VSF, guide
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance
from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.family import blocks_of, families

HUNYUAN = ("HunyuanVideoTransformer3DModel", "HunyuanVideoTransformer3DModel/token_replace")
FRAMEPACK, MOCHI = "HunyuanVideoFramepackTransformer3DModel", "MochiTransformer3DModel"
NAMES = (*HUNYUAN, FRAMEPACK, MOCHI)
POOLED = (*HUNYUAN, FRAMEPACK)
every_model = pytest.mark.parametrize("tiny", [BY_NAME[name] for name in NAMES], ids=lambda tiny: tiny.name)
every_pooled = pytest.mark.parametrize("tiny", [BY_NAME[name] for name in POOLED], ids=lambda tiny: tiny.name)


@pytest.fixture(autouse=True)
def _quick() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and rotary embeddings in float64 too, which the models themselves take in float32."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def nag(negative: Values) -> NAG:
    return NAG(negative_prompt_embeds=negative, scale=STRENGTH.scale, tau=STRENGTH.tau, alpha=STRENGTH.alpha)


def guided(tiny: Tiny, inputs: Values, *guidances: Guidance) -> Tensor:
    model = tiny.make().to(torch.float64)
    with guide(model, *guidances):
        return prediction_of(model(**inputs))


@pytest.mark.parametrize("tiny", [tiny for tiny in TINY if families()[tiny.key].joint], ids=lambda tiny: tiny.name)
def test_families_declare_whether_the_vector_depends_on_the_text(tiny: Tiny) -> None:
    model, inputs, vectors = tiny.make(), tiny.inputs(1), []
    _, _, block = blocks_of(families()[tiny.key], model)[0]
    arguments = Arguments(block)
    block.register_forward_pre_hook(lambda _, *given: vectors.append(arguments.get("temb", *given)), with_kwargs=True)
    for text in ({}, tiny.text(1, 7, 6)):
        model(**{**inputs, **text})
    joint = families()[tiny.key].joint
    assert joint is not None
    assert torch.equal(*vectors) == (joint.modulation is None)


@pytest.mark.usefixtures("_exact")
@pytest.mark.parametrize("batch", [1, 2])
@every_model
def test_a_model_agrees_with_three_plain_streams(tiny: Tiny, batch: int) -> None:
    inputs, negative = tiny.exact(tiny.inputs(batch)), tiny.exact(tiny.negative(batch))
    expected = plain_prediction(tiny, inputs, negative)
    torch.testing.assert_close(guided(tiny, inputs, nag(negative)), expected, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_exact")
@every_model
def test_so_does_a_second_pass(tiny: Tiny) -> None:
    """STG-R: the prediction without block 1, whose first blocks are not run again."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    expected, weak = (plain_prediction(tiny, inputs, negative, skipped) for skipped in (None, 1))
    result = guided(tiny, inputs, nag(negative), STG(layers=(1,), scale=2, mode="residual"))
    torch.testing.assert_close(result, expected + 2 * (expected - weak), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_exact")
def test_so_does_the_conditional_half_of_a_doubled_batch() -> None:
    """What STG adds goes to both halves, so that classifier-free guidance does not scale it."""
    tiny = BY_NAME[MOCHI]
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    uncond = {**inputs, **tiny.exact(tiny.text(2, 7, 6))}
    both = {
        name: torch.cat([uncond[name], value]) if isinstance(value, Tensor) else value for name, value in inputs.items()
    }
    model, stg = tiny.make().to(torch.float64), STG(layers=(1,), scale=2, mode="residual")
    plain = prediction_of(model(**uncond))
    expected, weak = (plain_prediction(tiny, inputs, negative, skipped) for skipped in (None, 1))
    for guidances, added in (((nag(negative),), 0 * weak), ((nag(negative), stg), 2 * (expected - weak))):
        with guide(SimpleNamespace(transformer=model, do_classifier_free_guidance=True), *guidances):
            halves = prediction_of(model(**both))
        torch.testing.assert_close(halves, torch.cat([plain + added, expected + added]), atol=1e-12, rtol=0)


def pooled(tiny: Tiny, value: float) -> Values:
    """A negative with that in its pooled embedding."""
    negative = tiny.exact(tiny.negative())
    return {**negative, "pooled_projections": torch.full_like(negative["pooled_projections"], value)}


@every_pooled
def test_nag_follows_the_negatives_pooled_embedding_and_vsf_does_not(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    by_nag = [guided(tiny, inputs, nag(pooled(tiny, value))) for value in (0, 1, 10)]
    by_vsf = [guided(tiny, inputs, VSF(negative_prompt_embeds=pooled(tiny, value))) for value in (0, 1, 10)]
    for other in (1, 2):
        assert (by_nag[other] - by_nag[0]).abs().amax(tuple(range(1, by_nag[0].ndim))).min() > 1e-4
        assert torch.equal(by_vsf[other], by_vsf[0])


@every_pooled
def test_where_pooled_embeddings_are_equal_it_is_as_by_the_prompts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for ready embeddings alone, which leave the pooled one to the prompt."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    negative["pooled_projections"] = inputs["pooled_projections"]
    without = {name: value for name, value in negative.items() if name != "pooled_projections"}
    own, ready = guided(tiny, inputs, nag(negative)), guided(tiny, inputs, nag(without))
    monkeypatch.setattr(NAG, "own_vector", False)
    by_prompt = guided(tiny, inputs, nag(negative))
    torch.testing.assert_close(own, by_prompt, atol=1e-12, rtol=0)
    torch.testing.assert_close(ready, by_prompt, atol=1e-12, rtol=0)


@every_model
def test_the_vector_is_that_of_the_step(tiny: Tiny) -> None:
    """Two calls in one run at two timesteps: the second is as if it were alone."""
    negative = tiny.exact(tiny.negative())
    first, second = ({**tiny.exact(tiny.inputs(1)), "timestep": torch.tensor([time])} for time in (900.0, 100.0))
    model = tiny.make().to(torch.float64)
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, nag(negative), scheduler=scheduler):
        scheduler.set_timesteps(2)
        prediction = prediction_of(model(**first))
        scheduler.step(prediction, scheduler.timesteps[0], prediction)
        result = prediction_of(model(**second))
    torch.testing.assert_close(result, guided(tiny, second, nag(negative)), atol=1e-12, rtol=0)


@every_model
def test_several_negatives_each_have_their_own(tiny: Tiny) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    together = guided(tiny, inputs, nag(negative))
    apart = [guided(tiny, row(inputs, i, 2), nag(row(negative, i, 2))) for i in range(2)]
    tiny.agree(together, torch.cat(apart))


@every_model
def test_modules_are_as_they_were(tiny: Tiny, snapshot: Any) -> None:
    model, inputs = tiny.make(), tiny.inputs(2)
    before = snapshot(model)
    scheduler = FlowMatchEulerDiscreteScheduler()
    emag = EMAG(decay=0.5, select=(1,), start=0.0, stop=1.0, scale=4)
    with guide(model, nag(tiny.negative()), emag, scheduler=scheduler):
        scheduler.set_timesteps(2)
        model(**inputs)
    assert snapshots_equal(snapshot(model), before)
    (norm,) = (module for name, module in model.named_modules() if name == "transformer_blocks.1.norm1_context")
    handle = norm.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), guide(model, nag(tiny.negative())):
        model(**inputs)
    handle.remove()
    assert snapshots_equal(snapshot(model), before)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a block")


def test_a_block_without_a_declared_norm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME[HUNYUAN[0]]
    modulation = families()[tiny.key].joint.modulation  # type: ignore[union-attr]
    monkeypatch.setitem(vars(modulation), "norms", ("norm1_context",))
    with pytest.raises(LookupError, match="HunyuanVideoSingleTransformerBlock: none of norm1_context"):
        guided(tiny, tiny.exact(tiny.inputs(1)), nag(tiny.exact(tiny.negative())))


@pytest.mark.parametrize("name", [HUNYUAN[1], MOCHI])
def test_compiled_it_acts_and_agrees(name: str) -> None:
    torch._dynamo.reset()
    tiny = BY_NAME[name]
    inputs, negative = tiny.inputs(2), {**tiny.negative(), **another_pooled(tiny)}
    model, eager = tiny.make(), tiny.make()
    with guide(eager, nag(negative)):
        expected = prediction_of(eager(**inputs))
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    fast: Any = compile_whole(model, counter) if name != MOCHI else torch.compile(model, backend=counter)
    for _ in range(2):
        with guide(fast, nag(negative)):
            result = prediction_of(fast(**inputs))
        counts.append(counter.frame_count)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert counts[0] == counts[1]


def another_pooled(tiny: Tiny) -> Values:
    return {"pooled_projections": noise(1, 8, seed=11)} if tiny.name in POOLED else {}
