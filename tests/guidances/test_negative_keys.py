"""Negatives reduced to their distinct keys: the same prediction as with all keys, in every cross-attention family."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.helpers.compilation import compile_blocks, compile_whole
from tests.helpers.family_calls import Make, nag, vsf
from tests.helpers.tiny_families import BY_NAME, TINY, Tiny, Values
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import NAG, guide
from vidguide.attention.site import KernelCall
from vidguide.calls.outputs import prediction_of
from vidguide.edits.nag_attention import CrossAttentionNAG
from vidguide.edits.nag_combine import Combination
from vidguide.functional.distinct_keys import distinct_keys
from vidguide.guidances import negative_keys
from vidguide.guidances.base import Guidance
from vidguide.transformer import text_stream
from vidguide.transformer.family import families

CROSS = [tiny for tiny in TINY if families()[tiny.key].joint is None]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def predict(model: Any, inputs: Values, guidance: Guidance) -> tuple[Tensor, list[str]]:
    with guide(model, guidance) as run:
        return prediction_of(model(**inputs)), run.trace.notes


def with_all_keys(model: Any, inputs: Values, guidance: Guidance) -> Tensor:
    """Return the prediction without any reduction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negative_keys, "few_keys", lambda negative: None)
        prediction, notes = predict(model, inputs, guidance)
    assert notes == []
    return prediction


def with_equal_tokens(text: Values) -> Values:
    """Return text inputs with equal tokens in each row, of other numbers in each and not only at the end."""
    text = dict(text)
    embeds = text["encoder_hidden_states"] = text["encoder_hidden_states"].clone()
    for row in range(embeds.shape[0]):
        tokens = [0, 2, 3, 5, embeds.shape[1] - 1][: 4 + row]
        embeds[row, ..., tokens, :] = embeds[row, ..., :1, :].clone()
    return text


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [nag, vsf], ids=["NAG", "VSF"])
@pytest.mark.parametrize("tiny", CROSS, ids=lambda tiny: tiny.name)
def test_distinct_keys_equal_all_keys_in_every_family(tiny: Tiny, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative_keys, "ALIGNMENT", 1)
    monkeypatch.setattr(negative_keys, "MOST_DISTINCT", 1)
    model, inputs = tiny.make().to(tiny.dtype), tiny.exact(tiny.inputs(2))
    guidance = make(with_equal_tokens(tiny.exact(tiny.negative(2))))
    prediction, notes = predict(model, inputs, guidance)
    assert len(notes) == (make is nag or bool(families()[tiny.key].text_masks))
    tiny.assert_equal(prediction, with_all_keys(model, inputs, guidance))


def padded_text(valid: int, length: int = 64, batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return embeddings of a negative, zeros after the valid tokens, of which each row has one fewer."""
    text = negative_text(batch, length, dtype=dtype)
    for row in range(batch):
        text[row, valid - row :] = 0
    return text


@pytest.mark.parametrize(("valid", "distinct"), [(0, 1), (1, 2), (7, 8), (46, 47), (50, 0), (64, 0)])
def test_a_padded_negative_equals_all_keys(valid: int, distinct: int) -> None:
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    guidance = NAG(negative_prompt_embeds=padded_text(valid, dtype=torch.float64))
    prediction, notes = predict(model, inputs, guidance)
    assert notes == ([f"NAG: negative of 64 keys, {distinct} distinct"] if distinct else [])
    torch.testing.assert_close(prediction, with_all_keys(model, inputs, guidance), atol=1e-12, rtol=0)
    assert (prediction - prediction_of(model(**inputs))).abs().max() > 1e-3


def test_a_negative_without_equal_keys_is_unchanged_bitwise() -> None:
    model, inputs = tiny_wan(), wan_inputs()
    guidance = NAG(negative_prompt_embeds=negative_text(length=64))
    assert torch.equal(predict(model, inputs, guidance)[0], with_all_keys(model, inputs, guidance))


def test_negatives_of_a_batch_may_have_different_numbers_of_pads() -> None:
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    negative = padded_text(9, batch=2, dtype=torch.float64)
    batched, notes = predict(model, inputs, NAG(negative_prompt_embeds=negative))
    assert notes == ["NAG: negative of 64 keys, 10 distinct"]
    for i in range(2):
        sample = {name: v[i : i + 1] if isinstance(v, Tensor) else v for name, v in inputs.items()}
        expected = with_all_keys(model, sample, NAG(negative_prompt_embeds=negative[i : i + 1]))
        torch.testing.assert_close(batched[i], expected[0], atol=1e-12, rtol=0)


def test_gradients_reach_every_pad() -> None:
    """Gradients of equal keys would be those of the first one, so keys with a graph are not reduced."""
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    negative = padded_text(7, dtype=torch.float64).requires_grad_()
    with torch.enable_grad():
        prediction, notes = predict(model, inputs, NAG(negative_prompt_embeds=negative))
        gradient = torch.autograd.grad(prediction.pow(2).sum(), negative)[0]
    assert notes == []
    assert gradient.abs().amax(-1).gt(0).all()


def test_latents_have_the_gradient_of_all_keys() -> None:
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    guidance, gradients = NAG(negative_prompt_embeds=padded_text(7, dtype=torch.float64)), []
    for run in (lambda *arguments: predict(*arguments)[0], with_all_keys):
        latents = inputs["hidden_states"].clone().requires_grad_()
        with torch.enable_grad():
            prediction = run(model, {**inputs, "hidden_states": latents}, guidance)
            gradients.append(torch.autograd.grad(prediction.pow(2).sum(), latents)[0])
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


@pytest.mark.parametrize("compiled", [pytest.param(compile_whole, marks=pytest.mark.slow), compile_blocks])
def test_other_numbers_of_distinct_keys_need_no_new_graph(compiled: Any) -> None:
    torch._dynamo.reset()
    model, inputs, counter = tiny_wan(), wan_inputs(), CompileCounterWithBackend("aot_eager")
    compiled_model, frames = compiled(model, counter), []
    for valid in (7, 20, 12, 40):
        guidance = NAG(negative_prompt_embeds=padded_text(valid))
        result, notes = predict(compiled_model, inputs, guidance)
        assert notes == [f"NAG: negative of 64 keys, {valid + 1} distinct"]
        frames.append(counter.frame_count)
        torch.testing.assert_close(result, predict(tiny_wan(), inputs, guidance)[0], atol=1e-5, rtol=0)
    assert len(set(frames)) == 1
    torch._dynamo.reset()


def test_kernels_that_take_no_mask_attend_to_the_prompt_only() -> None:
    calls: list[Any] = []

    def dispatch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
        calls.append((key.shape[1], getattr(settings["backend"], "value", None), settings["parallel_config"]))
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)

    query, key, value = torch.randn(3, 1, 20, 2, 8).double()
    negative_key, negative_value = torch.randn(2, 1, 20, 2, 8).double()
    negative_key[:, 5:], negative_value[:, 5:] = negative_key[:, 5:6].clone(), negative_value[:, 5:6].clone()
    combine, distinct = Combination((4.0, 1.5, 0.5)), distinct_keys(negative_key, negative_value, None)
    assert distinct is not None
    settings = {"attn_mask": None, "backend": SimpleNamespace(value="sage"), "parallel_config": "ranks"}
    edits = (
        CrossAttentionNAG(combine, negative_key, negative_value, None),
        CrossAttentionNAG(combine, *distinct[:3], True),
    )
    all_keys, few = (edit(KernelCall(dispatch, "BLHD", (), settings), query, key, value) for edit in edits)
    assert calls == [(20, "sage", "ranks"), (20, "sage", None), (20, "sage", "ranks"), (6, "native", None)]
    torch.testing.assert_close(few, all_keys, atol=1e-12, rtol=0)


def test_a_run_is_reduced_once() -> None:
    tiny, scheduler = BY_NAME["WanTransformer3DModel"], FlowMatchEulerDiscreteScheduler()
    model, inputs = tiny.make(), tiny.inputs(1)
    embeds = tiny.text(1, 64, 5)["encoder_hidden_states"]
    embeds[:, 5:] = 0
    with guide(model, NAG(negative_prompt_embeds=embeds), scheduler=scheduler) as run:
        scheduler.set_timesteps(4)
        for _ in range(2):
            model(**inputs)
    assert run.trace.notes == ["NAG: negative of 64 keys, 6 distinct"]
    assert str(run.trace).splitlines()[-1] == "NAG: negative of 64 keys, 6 distinct"


MASKED = [tiny for tiny in TINY if (joint := families()[tiny.key].joint) and joint.block_masks and not joint.per_sample]


def with_padding(model: Any, inputs: Values, guidance: Guidance) -> Tensor:
    """Return the prediction with the padding of the negative's text stream."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_stream.TextStream, "remove_padding", lambda stream: None)
        return predict(model, inputs, guidance)[0]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [nag, vsf], ids=["NAG", "VSF"])
@pytest.mark.parametrize("length", [1, 9, 7])
@pytest.mark.parametrize("tiny", MASKED, ids=lambda tiny: tiny.name)
def test_a_text_stream_without_padding_equals_one_with_padding(
    tiny: Tiny, length: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "ALIGNMENT", 1)
    model, inputs = tiny.make().to(tiny.dtype), tiny.exact(tiny.inputs(2))
    negative = tiny.exact(tiny.text(2, 9, 5))
    for name in families()[tiny.key].text_masks:
        valid = torch.arange(negative[name].shape[1]) < torch.tensor([[length], [max(length - 2, 1)]])
        negative[name] = valid.to(negative[name].dtype)
    guidance = make(negative)
    prediction, notes = predict(model, inputs, guidance)
    assert notes or length == 9
    tiny.assert_equal(prediction, with_padding(model, inputs, guidance))


def with_prompt(distinct: bool, embeds: Any) -> NAG:
    return NAG(negative_prompt_embeds=embeds, scale=5.0, distinct_prompt=distinct)


def check_family(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare both settings for two prompts with different numbers of equal tokens."""
    monkeypatch.setattr(negative_keys, "ALIGNMENT", 1)
    monkeypatch.setattr(negative_keys, "MOST_DISTINCT", 1)
    model, inputs = tiny.make().to(tiny.dtype), tiny.exact(tiny.inputs(2))
    inputs |= with_equal_tokens({"encoder_hidden_states": inputs["encoder_hidden_states"]})
    negative = tiny.exact(tiny.negative(2))
    expected, _ = predict(model, inputs, with_prompt(False, negative))
    prediction, notes = predict(model, inputs, with_prompt(True, negative))
    assert any(note.startswith("NAG: prompt of ") for note in notes)
    tiny.assert_equal(prediction, expected)


def test_distinct_keys_of_the_prompt_equal_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    check_family(BY_NAME["WanTransformer3DModel"], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("tiny", CROSS, ids=lambda tiny: tiny.name)
def test_distinct_keys_of_the_prompt_equal_all_keys_in_every_family(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_family(tiny, monkeypatch)


def padded_inputs(valid: int, batch: int = 1) -> dict[str, Any]:
    """Return a call whose prompts are zeros after the valid tokens, of which each row has one fewer."""
    return {**wan_inputs(batch), "encoder_hidden_states": padded_text(valid, batch=batch)}


@pytest.mark.parametrize("valid", [2, 7, 64])
def test_padding_of_the_prompt_is_one_key(valid: int) -> None:
    model, inputs, negative = tiny_wan(), padded_inputs(valid, 2), padded_text(5)
    expected, _ = predict(model, inputs, with_prompt(False, negative))
    prediction, notes = predict(model, inputs, with_prompt(True, negative))
    torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=1e-5)
    assert ("prompt" in " ".join(notes)) == (valid < 64)
    if valid == 64:
        assert torch.equal(prediction, expected)


def test_another_prompt_within_a_run_is_attended_to() -> None:
    """As a callback of a pipeline's step gives it, also where it writes to the same tensor."""
    model, scheduler, negative = tiny_wan(), FlowMatchEulerDiscreteScheduler(), padded_text(5)
    inputs = padded_inputs(7)
    other, in_place = padded_text(3) * 1.5, 0.7 * padded_text(9)
    with guide(model, with_prompt(True, negative), scheduler=scheduler):
        scheduler.set_timesteps(4)
        model(**inputs)
        replaced = model(**{**inputs, "encoder_hidden_states": other})[0]
        inputs["encoder_hidden_states"].copy_(in_place)
        written = model(**inputs)[0]
    for prompt, prediction in ((other, replaced), (in_place, written)):
        expected, _ = predict(model, {**inputs, "encoder_hidden_states": prompt}, with_prompt(False, negative))
        torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=1e-5)


def test_other_values_and_joint_attention_are_refused() -> None:
    with pytest.raises(TypeError, match="distinct_prompt='yes'"):
        NAG(negative_prompt_embeds=negative_text(), distinct_prompt="yes")  # type: ignore[arg-type]
    tiny = BY_NAME["CogVideoXTransformer3DModel"]
    assert families()[tiny.key].joint is not None
    with (
        pytest.raises(ValueError, match="attends to text and video at once"),
        guide(tiny.make(), with_prompt(True, tiny.negative())),
    ):
        pass
