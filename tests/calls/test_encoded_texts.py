"""Texts that are encoded once, and keys of a negative that are made once: never stale."""

import copy
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tests.helpers import shipped_calls
from tests.helpers.shipped_calls import BLUE, PROMPT, RED, guided, sample
from tests.helpers.tiny_families import BY_NAME
from vidguide import CFG, NAG, attach, guide
from vidguide.calls import encoded_prompts
from vidguide.calls.encoded_prompts import CAPACITY, encoded_prompts_of, plain_value
from vidguide.transformer.model_state import module_state

Change = Callable[[Any], None]
load_once = functools.cache(shipped_calls.load_tiny)


def new_pipe() -> Any:
    """Return another pipeline of the shipped model."""
    return copy.deepcopy(load_once())


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


class Counter:
    """Numbers of calls of a module's forward."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        module.register_forward_pre_hook(self.count)

    def count(self, *_: Any) -> None:
        self.calls += 1


def encode(pipe: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """Encode the prompt and a negative within `guide`."""
    with guide(pipe):
        embeds, negative = pipe.encode_prompt(prompt=PROMPT, negative_prompt=RED, **settings)
    return embeds, negative


def uncached(pipe: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """Encode the same texts without vidguide."""
    embeds, negative = pipe.encode_prompt(prompt=PROMPT, negative_prompt=RED, **settings)
    return embeds, negative


def test_blocks_seeds_and_variants_share_encoded_texts() -> None:
    pipe = new_pipe()
    expected = guided(new_pipe(), NAG(negative_prompt=RED), PROMPT, num_inference_steps=1)
    counter = Counter(pipe.text_encoder)
    for guidance in (NAG(negative_prompt=RED), NAG(negative_prompt=RED, scale=3.0), CFG(negative_prompt=RED)):
        with guide(pipe, guidance) as run:
            sample(pipe, PROMPT, num_inference_steps=1)
    assert counter.calls == 2
    assert "texts: 2 not encoded again" in run.trace.notes
    assert (guided(pipe, NAG(negative_prompt=RED), PROMPT, num_inference_steps=1) == expected).all()
    with guide(pipe, NAG(negative_prompt=BLUE)) as run:
        sample(pipe, PROMPT, num_inference_steps=1)
    assert counter.calls == 3
    assert "texts: 1 not encoded again" in run.trace.notes


def add_lora(pipe: Any) -> None:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False), pipe.text_encoder)


def scale_lora(pipe: Any) -> None:
    add_lora(pipe)
    encode(pipe)
    for module in pipe.text_encoder.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(3.0)


def scale_in_place(pipe: Any) -> None:
    for weight in pipe.text_encoder.parameters():
        weight.mul_(1.3)


def scale_data(pipe: Any) -> None:
    for weight in pipe.text_encoder.parameters():
        weight.data.mul_(1.3)


def replace_weight(pipe: Any) -> None:
    norm = pipe.text_encoder.encoder.final_layer_norm
    norm.weight = nn.Parameter(norm.weight * 1.3)


def replace_data(pipe: Any) -> None:
    pipe.text_encoder.shared.weight.data = pipe.text_encoder.shared.weight.data * 1.3


def replace_encoder(pipe: Any) -> None:
    pipe.text_encoder = new_pipe().text_encoder
    scale_in_place(pipe)


def convert(pipe: Any) -> None:
    pipe.text_encoder.to(torch.bfloat16)


def load_weights(pipe: Any) -> None:
    pipe.text_encoder.load_state_dict({name: 1.3 * one for name, one in pipe.text_encoder.state_dict().items()})


CHANGES = (
    add_lora,
    scale_lora,
    scale_in_place,
    scale_data,
    replace_weight,
    replace_data,
    replace_encoder,
    convert,
    load_weights,
)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_encoders_encode_anew(change: Change) -> None:
    pipe = new_pipe()
    before = encode(pipe)
    change(pipe)
    within, expected = encode(pipe), uncached(pipe)
    assert all(torch.equal(one, other) for one, other in zip(within, expected, strict=True))
    assert not torch.equal(within[0].float(), before[0].float())
    counter = Counter(pipe.text_encoder)
    encode(pipe)
    first = counter.calls
    encode(pipe)
    assert first == counter.calls


@pytest.mark.parametrize(
    "settings", [{"max_sequence_length": 64}, {"dtype": torch.bfloat16}, {"num_videos_per_prompt": 2}]
)
def test_other_arguments_encode_anew(settings: dict[str, Any]) -> None:
    pipe = new_pipe()
    before, within = encode(pipe), encode(pipe, **settings)
    assert all(torch.equal(one, other) for one, other in zip(within, uncached(pipe, **settings), strict=True))
    assert within[0].shape != before[0].shape or within[0].dtype != before[0].dtype


def test_a_negative_within_one_block_is_encoded_anew_for_other_weights() -> None:
    pipe, changed = new_pipe(), new_pipe()
    scale_in_place(changed)
    with guide(pipe, NAG(negative_prompt=RED)):
        sample(pipe, PROMPT, num_inference_steps=1)
        scale_in_place(pipe)
        within = sample(pipe, PROMPT, num_inference_steps=1)
    assert (within == guided(changed, NAG(negative_prompt=RED), PROMPT, num_inference_steps=1)).all()


def test_embeddings_that_were_changed_are_not_returned_again() -> None:
    pipe = new_pipe()
    expected = encode(pipe)[0].clone()
    encode(pipe)[0].zero_()
    assert torch.equal(encode(pipe)[0], expected)


def test_texts_of_an_encoder_in_training_mode_and_with_a_graph_are_not_cached() -> None:
    pipe = new_pipe()
    counter = Counter(pipe.text_encoder)
    with torch.enable_grad():
        for _ in range(2):
            assert encode(pipe)[0].requires_grad
    assert counter.calls == 4
    pipe.text_encoder.train()
    for _ in range(2):
        encode(pipe)
    assert counter.calls == 8


def test_the_number_of_cached_texts_is_bounded() -> None:
    pipe = new_pipe()
    with guide(pipe):
        for number in range(CAPACITY + 3):
            pipe.encode_prompt(prompt="red " * number, do_classifier_free_guidance=False)
    assert len(encoded_prompts_of(pipe)._results) == CAPACITY


def test_outside_of_guide_texts_are_encoded_as_ever() -> None:
    pipe = new_pipe()
    encode(pipe)
    counter = Counter(pipe.text_encoder)
    uncached(pipe)
    assert counter.calls == 2


def left_padding(pipe: Any) -> None:
    pipe.tokenizer.padding_side = "left"


def hook_encoder(pipe: Any) -> None:
    pipe.text_encoder.encoder.final_layer_norm.register_forward_hook(lambda module, inputs, output: 2 * output)


def replace_forward(pipe: Any) -> None:
    norm = pipe.text_encoder.encoder.final_layer_norm
    forward = norm.forward
    norm.forward = lambda hidden: 2 * forward(hidden)


@pytest.mark.parametrize("change", [left_padding, hook_encoder, replace_forward])
def test_changed_tokenizers_hooks_and_forwards_encode_anew(change: Change) -> None:
    pipe = new_pipe()
    before = encode(pipe)
    change(pipe)
    within, expected = encode(pipe), uncached(pipe)
    assert all(torch.equal(one, other) for one, other in zip(within, expected, strict=True))
    assert not torch.equal(within[0], before[0])


def test_random_encoders_encode_anew() -> None:
    """A submodule in training mode, whose dropout draws; and a hook that draws."""
    pipe = new_pipe()
    dropout = next(module for module in pipe.text_encoder.modules() if isinstance(module, nn.Dropout))
    before, dropout.p = encode(pipe)[0], 0.5
    dropout.train()
    assert not torch.equal(encode(pipe)[0], before)
    assert not torch.equal(encode(pipe)[0], encode(pipe)[0])
    dropout.eval()
    norm = pipe.text_encoder.encoder.final_layer_norm
    norm.register_forward_hook(lambda module, inputs, output: output + torch.randn_like(output))
    assert not torch.equal(encode(pipe)[0], encode(pipe)[0])


def test_writes_to_a_few_elements_of_embeddings_do_not_reach_the_cache() -> None:
    pipe = new_pipe()
    with torch.inference_mode():  # in which torch does not count changes
        expected = encode(pipe)[0].clone()
        for _ in range(2):
            encode(pipe)[0].view(-1)[1] += 1
        assert torch.equal(encode(pipe)[0], expected)


class Numbered(type(load_once())):  # type: ignore[misc]
    """A pipeline whose `encode_prompt` has a side effect."""

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        self._number = getattr(self, "_number", 0) + 1
        return super().encode_prompt(*args, **kwargs)


def test_texts_of_a_method_that_is_not_of_diffusers_are_not_cached() -> None:
    pipe = Numbered(**new_pipe().components)
    for _ in range(3):
        encode(pipe)
    assert pipe._number == 3


def test_the_memory_of_cached_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = new_pipe()
    size = sum(one.nbytes for one in encode(pipe))
    monkeypatch.setattr(encoded_prompts, "MAX_BYTES", 3 * size)
    with guide(pipe):
        for number in range(6):
            pipe.encode_prompt(prompt=PROMPT, negative_prompt="red " * number)
    cache = encoded_prompts_of(pipe)
    assert len(cache._results) == 3
    monkeypatch.setattr(encoded_prompts, "MAX_BYTES", size - 1)
    with guide(pipe):
        pipe.encode_prompt(prompt=PROMPT, negative_prompt=BLUE)
    assert len(cache._results) == 3


def test_a_cache_does_not_prolong_the_life_of_its_pipeline() -> None:
    pipe = new_pipe()
    encode(pipe)
    ends = weakref.ref(pipe), weakref.ref(pipe.text_encoder), weakref.ref(pipe.tokenizer)
    del pipe
    gc.collect()
    assert all(end() is None for end in ends)


def test_lists_tuples_and_mappings_are_different_arguments() -> None:
    values = [["a", "b"], ("a", "b"), {"a": "b"}, [], (), {}, "", None]
    assert len({plain_value(value) for value in values}) == len(values)
    assert plain_value({"a": torch.zeros(1)}) is None


def test_threads_may_encode_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, errors = new_pipe(), []
    monkeypatch.setattr(encoded_prompts, "CAPACITY", 1)

    def work(text: str) -> None:
        try:
            for number in range(20):
                pipe.encode_prompt(prompt=f"{text} {number % 2}", do_classifier_free_guidance=False)
        except Exception as error:
            errors.append(error)

    with guide(pipe):
        threads = [threading.Thread(target=work, args=(text,)) for text in (RED, BLUE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not errors


@pytest.mark.parametrize("change", [hook_encoder, replace_forward])
def test_a_negative_of_an_attachment_is_encoded_anew_for_other_hooks(change: Change) -> None:
    """The cache of an attachment holds for all calls."""
    pipe, changed = new_pipe(), new_pipe()
    change(changed)
    expected = guided(changed, NAG(negative_prompt=RED), PROMPT, num_inference_steps=1)
    attach(pipe, NAG(negative_prompt=RED))
    before = sample(pipe, PROMPT, num_inference_steps=1)
    change(pipe)
    within = sample(pipe, PROMPT, num_inference_steps=1)
    assert (within == expected).all()
    assert not (before == within).all()


class Bare:
    """A bare transformer without a scheduler, with embeddings of a negative."""

    def __init__(self, family: str) -> None:
        tiny = BY_NAME[family]
        self.model, self.inputs = tiny.make(), tiny.inputs(1)
        text = self.inputs["encoder_hidden_states"]
        self.negative = torch.randn(text.shape, generator=torch.Generator().manual_seed(5)).to(text.dtype)

    def texts(self) -> dict[str, Any]:
        """Return the text inputs of the prompt."""
        names = ("encoder_attention_mask", "pooled_projections")
        return {name: self.inputs[name] for name in names if name in self.inputs}

    def fresh(self) -> Tensor:
        """Return the prediction of a new block."""
        with guide(self.model, NAG(negative_prompt_embeds=self.negative)):
            return self.model(**self.inputs)[0]


def scale_model(bare: Bare) -> None:
    for weight in bare.model.parameters():
        weight.mul_(1.1)


def scale_model_data(bare: Bare) -> None:
    for weight in bare.model.parameters():
        weight.data.mul_(1.1)


def scale_negative(bare: Bare) -> None:
    bare.negative.mul_(2)


def scale_prompt(bare: Bare) -> None:
    bare.inputs["encoder_hidden_states"].mul_(2)


def lengthen_video(bare: Bare) -> None:
    bare.inputs["hidden_states"] = bare.inputs["hidden_states"].repeat(
        2, *[1] * (bare.inputs["hidden_states"].ndim - 1)
    )
    bare.inputs["encoder_hidden_states"] = bare.inputs["encoder_hidden_states"].repeat(2, 1, 1)
    bare.inputs["timestep"] = bare.inputs["timestep"].repeat(2)


def add_lora_to_model(bare: Bare) -> None:
    bare.model.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))


@pytest.mark.parametrize(
    "change", [scale_model, scale_model_data, scale_negative, scale_prompt, lengthen_video, add_lora_to_model]
)
@pytest.mark.parametrize("family", ["WanTransformer3DModel", "CogVideoXTransformer3DModel"])
def test_keys_of_a_bare_transformer_are_made_once_until_something_changes(family: str, change: Any) -> None:
    bare = Bare(family)
    reused = "NAG: the negative's keys of an earlier call"
    with guide(bare.model, NAG(negative_prompt_embeds=bare.negative)) as run:
        first = bare.model(**bare.inputs)[0]
        assert reused not in run.trace.notes
        bare.inputs["hidden_states"] = 0.5 * bare.inputs["hidden_states"]
        bare.inputs["timestep"] = bare.inputs["timestep"] - 100
        second = bare.model(**bare.inputs)[0]
        assert reused in run.trace.notes
        change(bare)
        third = bare.model(**bare.inputs)[0]
        assert reused not in run.trace.notes
    assert torch.equal(third, bare.fresh())
    assert not torch.equal(first, second)


def test_embeddings_of_inference_mode_may_change_in_single_elements() -> None:
    with torch.inference_mode():
        bare = Bare("WanTransformer3DModel")
        bare.negative = bare.negative.clone()
        with guide(bare.model, NAG(negative_prompt_embeds=bare.negative)):
            bare.model(**bare.inputs)
            bare.negative.view(-1)[1:9].add_(3)
            within = bare.model(**bare.inputs)[0]
        assert torch.equal(within, bare.fresh())


def test_a_second_call_equals_that_of_a_new_block() -> None:
    bare = Bare("WanTransformer3DModel")
    with guide(bare.model, NAG(negative_prompt_embeds=bare.negative)):
        bare.model(**bare.inputs)
        bare.inputs["timestep"] = bare.inputs["timestep"] - 100
        within = bare.model(**bare.inputs)[0]
    assert torch.equal(within, bare.fresh())


def test_a_text_that_depends_on_the_timestep_is_processed_at_each_call() -> None:
    bare = Bare("HunyuanVideoTransformer3DModel")
    with guide(bare.model, NAG(negative_prompt_embeds={**bare.texts(), "encoder_hidden_states": bare.negative})):
        bare.model(**bare.inputs)
        bare.inputs["timestep"] = bare.inputs["timestep"] - 100
        within = bare.model(**bare.inputs)[0]
    with guide(bare.model, NAG(negative_prompt_embeds={**bare.texts(), "encoder_hidden_states": bare.negative})):
        expected = bare.model(**bare.inputs)[0]
    assert torch.equal(within, expected)


def test_the_state_of_a_module_is_equal_until_it_changes() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before = module_state(module)
    assert module_state(module) == before
    module(torch.randn(2, 3))
    assert module_state(module) == before
    module[1].running_mean.add_(1)  # type: ignore[operator]
    assert module_state(module) != before
    with torch.inference_mode():
        made = nn.Linear(3, 4)
    assert module_state(made) == module_state(made)
    assert module_state(made) != module_state(nn.Linear(3, 4))
