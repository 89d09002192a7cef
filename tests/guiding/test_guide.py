"""guide(): its effect inside the context, and the restored model after it."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.plain_nag import PlainNAGProcessor
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import CFG, NAG, guide
from vidguide.guidances.base import Guidance


@pytest.mark.parametrize("norm", ["token", "frame", "clip"])
@pytest.mark.parametrize("layers", [None, (1,), (0, 2)])
def test_a_guided_model_equals_plain_nag(layers: tuple[int, ...] | None, norm: str) -> None:
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    negative = negative_text(length=7, dtype=torch.float64)
    nag = NAG(negative_prompt_embeds=negative, scale=7.0, tau=2.0, alpha=0.5, layers=layers, norm=norm)
    with guide(model, nag):
        guided = model(**inputs)[0]
    reference = copy.deepcopy(model)
    projected = reference.condition_embedder.text_embedder(negative)
    for layer in layers or range(3):
        reference.blocks[layer].attn2.processor = PlainNAGProcessor(projected, nag)
    assert torch.allclose(guided, reference(**inputs)[0], rtol=0, atol=1e-9)
    assert not torch.allclose(guided, model(**inputs)[0], atol=1e-3)


@pytest.mark.parametrize("make", [partial(NAG, scale=1), partial(NAG, alpha=0), partial(CFG, scale=1)])
def test_neutral_settings_do_not_change_the_output_bitwise(wan: Any, make: Callable[..., Guidance]) -> None:
    inputs = wan_inputs()
    expected = wan(**inputs)[0]
    with guide(wan, make(negative_prompt_embeds=negative_text())):
        assert torch.equal(wan(**inputs)[0], expected)


def test_the_prompt_as_negative_prompt_does_not_change_the_output(wan: Any) -> None:
    inputs = wan_inputs()
    expected = wan(**inputs)[0]
    with guide(wan, NAG(negative_prompt_embeds=inputs["encoder_hidden_states"])):
        assert torch.allclose(wan(**inputs)[0], expected, atol=2e-6)


@pytest.mark.parametrize("negatives", [1, 3])
def test_a_batch_of_three_equals_three_of_one(negatives: int) -> None:
    model, inputs = tiny_wan().double(), wan_inputs(batch=3, dtype=torch.float64)
    embeds = negative_text(batch=negatives, dtype=torch.float64)
    with guide(model, NAG(negative_prompt_embeds=embeds)):
        batched = model(**inputs)[0]
    for index in range(3):
        sample = {k: v[index : index + 1] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        sample_embeds = embeds[index : index + 1] if negatives == 3 else embeds
        with guide(model, NAG(negative_prompt_embeds=sample_embeds)):
            assert torch.allclose(model(**sample)[0][0], batched[index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("within", ["the block", "the model"])
def test_exit_restores_the_model_also_after_an_error(
    wan: Any, snapshot: Callable[..., Any], error: type[BaseException] | None, within: str
) -> None:
    def fail(*args: Any) -> None:
        if error is not None:
            raise error

    inputs, expected = wan_inputs(), wan(**wan_inputs())[0]
    before = snapshot(wan)

    def sample() -> None:
        with guide(wan, NAG(negative_prompt_embeds=negative_text())):
            wan(**inputs)
            if within == "the model":
                handle = wan.blocks[1].ffn.register_forward_hook(fail)
                try:
                    wan(**inputs)
                finally:
                    handle.remove()
            fail()

    with nullcontext() if error is None else pytest.raises(error):
        sample()
    assert snapshots_equal(before, snapshot(wan))
    assert torch.equal(wan(**inputs)[0], expected)


def test_an_interrupt_between_steps_restores_the_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    kind, attributes = type(scheduler), set(vars(scheduler))
    context = guide(tiny_wan(), scheduler=scheduler)
    context.__enter__()
    assert type(scheduler) is not kind
    assert context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    assert type(scheduler) is kind
    assert set(vars(scheduler)) == attributes


def test_a_second_guide_on_the_same_model_is_refused(wan: Any, snapshot: Callable[..., Any]) -> None:
    nag = NAG(negative_prompt_embeds=negative_text())
    with guide(wan, nag):
        guided = wan(**wan_inputs())[0]
        with pytest.raises(ValueError, match="guided already"), guide(wan, nag):
            pass
        assert torch.equal(wan(**wan_inputs())[0], guided)


def test_guides_of_two_models_can_overlap() -> None:
    first_model, second_model, inputs = tiny_wan(), tiny_wan(num_layers=2), wan_inputs()
    unguided = first_model(**inputs)[0], second_model(**inputs)[0]
    nag = NAG(negative_prompt_embeds=negative_text())
    first, second = guide(first_model, nag), guide(second_model, nag)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(first_model(**inputs)[0], unguided[0])
    assert not torch.equal(second_model(**inputs)[0], unguided[1])
    second.__exit__(None, None, None)
    assert torch.equal(second_model(**inputs)[0], unguided[1])


def test_start_and_stop_count_the_schedulers_steps(wan: Any) -> None:
    scheduler, inputs = FlowMatchEulerDiscreteScheduler(), wan_inputs()
    unguided = wan(**inputs)[0]
    nag = NAG(negative_prompt_embeds=negative_text(), start=0.25, stop=0.75)
    with guide(wan, nag, scheduler=scheduler) as run:
        for _ in range(2):  # the second run counts from step 0
            scheduler.set_timesteps(4)
            acted = []
            for timestep in scheduler.timesteps:
                prediction = wan(**inputs)[0]
                acted.append(not torch.equal(prediction, unguided))
                scheduler.step(prediction, timestep, inputs["hidden_states"])
            assert acted == [False, True, True, False]
    assert len(run.traces) == 2
    assert {record.step for record in run.trace} == {1, 2}


def test_negative_keys_and_values_are_computed_once_per_run(wan: Any) -> None:
    scheduler, inputs, calls = FlowMatchEulerDiscreteScheduler(), wan_inputs(), []
    wan.blocks[0].attn2.to_k.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[1]))
    with guide(wan, NAG(negative_prompt_embeds=negative_text()), scheduler=scheduler):
        for _ in range(2):
            scheduler.set_timesteps(3)
            for timestep in scheduler.timesteps:
                scheduler.step(wan(**inputs)[0], timestep, inputs["hidden_states"])
    assert calls.count(9) == 2  # the negative's nine tokens: once in each of two runs
    assert calls.count(7) == 6


def test_the_next_run_uses_changed_weights(wan: Any) -> None:
    """A LoRA fused between two calls changes weights in this way."""
    inputs, scheduler = wan_inputs(), FlowMatchEulerDiscreteScheduler()
    with guide(wan, NAG(negative_prompt_embeds=negative_text()), scheduler=scheduler):
        scheduler.set_timesteps(2)
        wan(**inputs)
        wan.blocks[1].attn2.to_v.weight.mul_(2)
        scheduler.set_timesteps(2)
        within = wan(**inputs)[0]
    with guide(wan, NAG(negative_prompt_embeds=negative_text())):
        assert torch.equal(wan(**inputs)[0], within)


def test_the_unconditional_call_of_a_pipeline_is_not_guided(wan: Any) -> None:
    inputs = wan_inputs()
    unguided = wan(**inputs)[0]
    with guide(wan, NAG(negative_prompt_embeds=negative_text())):
        with wan.cache_context("cond"):
            assert not torch.equal(wan(**inputs)[0], unguided)
        with wan.cache_context("uncond"):
            assert torch.equal(wan(**inputs)[0], unguided)


def test_cfg_equals_the_pipelines_formula_bitwise(wan: Any) -> None:
    inputs, negative = wan_inputs(), negative_text()
    cond = wan(**inputs)[0]
    uncond = wan(**{**inputs, "encoder_hidden_states": negative.repeat(2, 1, 1)})[0]
    with guide(wan, CFG(scale=4.0, negative_prompt_embeds=negative)):
        assert torch.equal(wan(**inputs)[0], uncond + 4.0 * (cond - uncond))


def test_the_order_of_guidances_does_not_matter(wan: Any) -> None:
    inputs, outputs = wan_inputs(), []
    guidances = [NAG(negative_prompt_embeds=negative_text()), CFG(scale=3, negative_prompt_embeds=negative_text())]
    for order in (guidances, guidances[::-1]):
        with guide(wan, *order):
            outputs.append(wan(**inputs)[0])
    assert torch.equal(*outputs)


def test_tuples_and_output_objects_are_guided(wan: Any) -> None:
    inputs = wan_inputs()
    with guide(wan, CFG(scale=3, negative_prompt_embeds=negative_text())):
        as_tuple = wan(**inputs)[0]
        as_object = wan(**{**inputs, "return_dict": True}).sample
    assert torch.equal(as_tuple, as_object)


def test_a_processor_set_inside_guide_is_guided_and_stays_set(wan: Any) -> None:
    inputs = wan_inputs()
    with guide(wan, NAG(negative_prompt_embeds=negative_text())):
        expected = wan(**inputs)[0]
        wan.set_attn_processor(type(wan.blocks[0].attn1.processor).__mro__[0]())
        new = wan.blocks[0].attn2.processor
        assert torch.equal(wan(**inputs)[0], expected)
    assert wan.blocks[0].attn2.processor is new


def test_the_trace_records_steps_and_layers(wan: Any) -> None:
    with guide(wan, NAG(negative_prompt_embeds=negative_text(), layers=(0, 2))) as run:
        wan(**wan_inputs())
    records = list(run.trace)
    assert [(record.step, record.layer) for record in records] == [(0, 0), (0, 2)]
    assert all(0 <= record.clamped <= 1 and record.change > 0 for record in records)
    assert run.trace.summary()["layers"] == 2
    assert len(str(run.trace).splitlines()) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NAG(scale=float("nan")), "scale=nan"),
        (lambda: NAG(scale=0.5), "at least 1"),
        (lambda: NAG(tau=-1), "tau=-1"),
        (lambda: NAG(alpha=1.5), "between 0 and 1"),
        (lambda: NAG(norm="video"), "must be one of token, frame, clip"),
        (lambda: NAG(start=0.5, stop=0.5), "start must be below stop"),
        (lambda: NAG(negative_prompt="  "), "is empty"),
        (lambda: NAG(negative_prompt="a", negative_prompt_embeds=negative_text()), "not both"),
        (lambda: CFG(scale=float("inf")), "scale=inf"),
        (lambda: CFG(layers=(1,)), "leave layers out"),
    ],
)
def test_invalid_values_raise_in_the_constructor(
    make: Callable[[], Guidance], message: str, record_refusal: Any
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    record_refusal(caught)


@pytest.mark.parametrize(
    "parameters",
    [
        dict(scale="11"),
        dict(scale=True),
        dict(layers=3),
        dict(layers=(1.0,)),
        dict(negative_prompt=5),
        dict(negative_prompt=[]),
        dict(negative_prompt_embeds=torch.zeros(3)),
    ],
)
def test_wrong_types_raise_in_the_constructor(parameters: dict[str, Any], record_refusal: Any) -> None:
    with pytest.raises(TypeError, match=next(iter(parameters))) as caught:
        NAG(**parameters)
    record_refusal(caught)


@pytest.mark.parametrize(
    ("guidances", "error", "message"),
    [
        ((NAG(),), ValueError, "say what the clip should not show"),
        ((NAG(negative_prompt="red"),), ValueError, "bare transformer cannot encode"),
        ((NAG(negative_prompt_embeds=negative_text(), layers=(7,)),), ValueError, "blocks are 0 to 2"),
        ((NAG(negative_prompt_embeds=negative_text(), stop=0.5),), ValueError, "needs scheduler="),
        (("NAG",), TypeError, "not a guidance"),
        ((NAG(negative_prompt_embeds=negative_text()),) * 2, ValueError, "given twice"),
    ],
)
def test_invalid_guidances_raise_before_the_model_is_changed(
    wan: Any, snapshot: Callable[..., Any], guidances: Any, error: type[Exception], message: str, record_refusal: Any
) -> None:
    before = snapshot(wan)
    with pytest.raises(error, match=message) as caught, guide(wan, *guidances):
        pass
    record_refusal(caught)
    assert snapshots_equal(before, snapshot(wan))


@pytest.mark.parametrize(
    ("embeds", "message"),
    [(torch.randn(1, 9, 8), "16 wide"), (torch.randn(3, 9, 16), "3 negative prompts for a batch of 2")],
)
def test_embeddings_of_the_wrong_shape_raise_at_the_first_call(
    wan: Any, embeds: Any, message: str, record_refusal: Any
) -> None:
    with guide(wan, NAG(negative_prompt_embeds=embeds)), pytest.raises(ValueError, match=message) as caught:
        wan(**wan_inputs())
    record_refusal(caught)


def test_a_model_without_an_adapter_raises() -> None:
    with (
        pytest.raises(
            LookupError, match=r"no adapter for Linear.*WanTransformer3DModel.*register_family, as examples/new_family"
        ),
        guide(torch.nn.Linear(1, 1)),
    ):
        pass
    with pytest.raises(TypeError, match="give a diffusers pipeline"), guide(object()):
        pass
