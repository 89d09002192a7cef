"""NAG with the negative's own modulation vector: HunyuanVideo, Framepack and Mochi against plain streams."""

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
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def _float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute norms and rotary embeddings in float64, which the models compute in float32."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def nag(negative: Values) -> NAG:
    return NAG(negative_prompt_embeds=negative, scale=STRENGTH.scale, tau=STRENGTH.tau, alpha=STRENGTH.alpha)


def predict_guided(tiny: Tiny, inputs: Values, *guidances: Guidance) -> Tensor:
    model = tiny.make().to(torch.float64)
    with guide(model, *guidances):
        return prediction_of(model(**inputs))


@pytest.mark.parametrize("tiny", [tiny for tiny in TINY if families()[tiny.key].joint], ids=lambda tiny: tiny.name)
def test_families_declare_whether_the_vector_depends_on_the_text(tiny: Tiny) -> None:
    model, inputs, vectors = tiny.make(), tiny.inputs(1), []
    _, _, block = blocks_of(families()[tiny.key], model)[0]
    arguments = Arguments(block)
    block.register_forward_pre_hook(lambda _, *call: vectors.append(arguments.get("temb", *call)), with_kwargs=True)
    for text in ({}, tiny.text(1, 7, 6)):
        model(**{**inputs, **text})
    joint = families()[tiny.key].joint
    assert joint is not None
    assert torch.equal(*vectors) == (joint.modulation is None)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("batch", [1, 2])
@every_model
def test_a_guided_model_equals_three_plain_streams(tiny: Tiny, batch: int) -> None:
    inputs, negative = tiny.exact(tiny.inputs(batch)), tiny.exact(tiny.negative(batch))
    expected = plain_prediction(tiny, inputs, negative)
    torch.testing.assert_close(predict_guided(tiny, inputs, nag(negative)), expected, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_float64")
@every_model
def test_a_perturbed_pass_equals_three_plain_streams(tiny: Tiny) -> None:
    """STG-R skips block 1 and replays the blocks before it."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    expected, perturbed = (plain_prediction(tiny, inputs, negative, skipped) for skipped in (None, 1))
    result = predict_guided(tiny, inputs, nag(negative), STG(layers=(1,), scale=2, mode="residual"))
    torch.testing.assert_close(result, expected + 2 * (expected - perturbed), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_float64")
def test_the_cond_samples_of_a_cfg_batch_equal_three_plain_streams() -> None:
    """STG's correction is added to both branches, so that CFG does not scale it."""
    tiny = BY_NAME[MOCHI]
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    uncond = {**inputs, **tiny.exact(tiny.text(2, 7, 6))}
    cfg_batch = {
        name: torch.cat([uncond[name], value]) if isinstance(value, Tensor) else value for name, value in inputs.items()
    }
    model, stg = tiny.make().to(torch.float64), STG(layers=(1,), scale=2, mode="residual")
    uncond_prediction = prediction_of(model(**uncond))
    expected, perturbed = (plain_prediction(tiny, inputs, negative, skipped) for skipped in (None, 1))
    for guidances, added in (((nag(negative),), 0 * perturbed), ((nag(negative), stg), 2 * (expected - perturbed))):
        with guide(SimpleNamespace(transformer=model, do_classifier_free_guidance=True), *guidances):
            branches = prediction_of(model(**cfg_batch))
        torch.testing.assert_close(
            branches, torch.cat([uncond_prediction + added, expected + added]), atol=1e-12, rtol=0
        )


def negative_with_pooled(tiny: Tiny, value: float) -> Values:
    """Return a negative with a constant pooled embedding."""
    negative = tiny.exact(tiny.negative())
    return {**negative, "pooled_projections": torch.full_like(negative["pooled_projections"], value)}


@every_pooled
def test_nag_uses_the_negatives_pooled_embedding_and_vsf_does_not(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    by_nag = [predict_guided(tiny, inputs, nag(negative_with_pooled(tiny, value))) for value in (0, 1, 10)]
    by_vsf = [
        predict_guided(tiny, inputs, VSF(negative_prompt_embeds=negative_with_pooled(tiny, value)))
        for value in (0, 1, 10)
    ]
    for index in (1, 2):
        assert (by_nag[index] - by_nag[0]).abs().amax(tuple(range(1, by_nag[0].ndim))).min() > 1e-4
        assert torch.equal(by_vsf[index], by_vsf[0])


@every_pooled
def test_equal_pooled_embeddings_give_the_result_of_the_prompts_vector(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for text embeddings without a pooled one, which then is the prompt's."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    negative["pooled_projections"] = inputs["pooled_projections"]
    without = {name: value for name, value in negative.items() if name != "pooled_projections"}
    complete, text_only = predict_guided(tiny, inputs, nag(negative)), predict_guided(tiny, inputs, nag(without))
    monkeypatch.setattr(NAG, "negative_modulation", False)
    by_prompt = predict_guided(tiny, inputs, nag(negative))
    torch.testing.assert_close(complete, by_prompt, atol=1e-12, rtol=0)
    torch.testing.assert_close(text_only, by_prompt, atol=1e-12, rtol=0)


@every_model
def test_the_vector_is_computed_at_each_step(tiny: Tiny) -> None:
    """The second of two calls at different timesteps equals a single call."""
    negative = tiny.exact(tiny.negative())
    first, second = ({**tiny.exact(tiny.inputs(1)), "timestep": torch.tensor([time])} for time in (900.0, 100.0))
    model = tiny.make().to(torch.float64)
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, nag(negative), scheduler=scheduler):
        scheduler.set_timesteps(2)
        prediction = prediction_of(model(**first))
        scheduler.step(prediction, scheduler.timesteps[0], prediction)
        result = prediction_of(model(**second))
    torch.testing.assert_close(result, predict_guided(tiny, second, nag(negative)), atol=1e-12, rtol=0)


@every_model
def test_each_negative_of_a_batch_has_its_vector(tiny: Tiny) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    batched = predict_guided(tiny, inputs, nag(negative))
    single = [predict_guided(tiny, row(inputs, i, 2), nag(row(negative, i, 2))) for i in range(2)]
    tiny.assert_equal(batched, torch.cat(single))


@every_model
def test_exit_restores_the_modules_also_after_an_error(tiny: Tiny, snapshot: Any) -> None:
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
    raise ZeroDivisionError("during a block")


def test_a_block_without_a_declared_norm_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME[HUNYUAN[0]]
    modulation = families()[tiny.key].joint.modulation  # type: ignore[union-attr]
    monkeypatch.setitem(vars(modulation), "norms", ("norm1_context",))
    with pytest.raises(LookupError, match="HunyuanVideoSingleTransformerBlock: none of norm1_context"):
        predict_guided(tiny, tiny.exact(tiny.inputs(1)), nag(tiny.exact(tiny.negative())))


@pytest.mark.slow
@pytest.mark.parametrize("name", [HUNYUAN[1], MOCHI])
def test_a_compiled_guided_model_equals_the_eager_one(name: str) -> None:
    torch._dynamo.reset()
    tiny = BY_NAME[name]
    inputs, negative = tiny.inputs(2), {**tiny.negative(), **another_pooled(tiny)}
    model, eager = tiny.make(), tiny.make()
    with guide(eager, nag(negative)):
        expected = prediction_of(eager(**inputs))
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    compiled_model: Any = compile_whole(model, counter) if name != MOCHI else torch.compile(model, backend=counter)
    for _ in range(2):
        with guide(compiled_model, nag(negative)):
            result = prediction_of(compiled_model(**inputs))
        counts.append(counter.frame_count)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert counts[0] == counts[1]


def another_pooled(tiny: Tiny) -> Values:
    return {"pooled_projections": noise(1, 8, seed=11)} if tiny.name in POOLED else {}
