"""attach(): guidances that stay on a pipeline, and what users do with such a pipeline."""

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanVideoToVideoPipeline

from tests.helpers.pipeline_features import add_lora_to_weights
from tests.helpers.shipped_calls import PROMPT, RED, guided, load_tiny, sample
from tests.helpers.tiny_wan import tiny_wan
from vidguide import EMAG, NAG, STG, attach, attached, detach, guide


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def pipe() -> Any:
    return load_tiny()


@pytest.fixture
def expected(pipe: Any) -> np.ndarray:
    return guided(pipe, NAG(negative_prompt=RED), PROMPT)


def test_every_call_is_guided_until_detach(pipe: Any, expected: np.ndarray) -> None:
    plain, kind, attributes = sample(pipe, PROMPT), type(pipe), set(vars(pipe))
    attach(pipe, NAG())
    assert isinstance(pipe, WanPipeline)
    for _ in range(2):
        assert np.array_equal(sample(pipe, PROMPT, negative_prompt=RED), expected)
        assert attached(pipe).trace.steps == 3
        assert len(attached(pipe).trace)
    assert len(attached(pipe).traces) == 1  # of the latest call
    assert np.array_equal(sample(pipe, PROMPT), plain)
    detach(pipe)
    assert np.array_equal(sample(pipe, PROMPT, negative_prompt=RED), plain)
    assert type(pipe) is kind
    assert set(vars(pipe)) == attributes


def test_attaching_again_replaces(pipe: Any, expected: np.ndarray) -> None:
    attach(pipe, STG(layers=(1,)))
    attach(pipe, NAG(negative_prompt=RED))
    assert np.array_equal(sample(pipe, PROMPT), expected)
    detach(pipe)
    assert type(pipe) is WanPipeline


def test_between_calls_transformer_and_scheduler_are_unchanged(pipe: Any, expected: np.ndarray) -> None:
    transformer, scheduler = type(pipe.transformer), type(pipe.scheduler)
    attach(pipe, NAG(), EMAG())
    sample(pipe, PROMPT, negative_prompt=RED)
    assert type(pipe.transformer) is transformer
    assert type(pipe.scheduler) is scheduler


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_a_copy_is_attached_too(pipe: Any, expected: np.ndarray, copied: Any) -> None:
    attach(pipe, NAG())
    other = copied(pipe)
    assert np.array_equal(sample(other, PROMPT, negative_prompt=RED), expected)
    if copied is not copy.copy:
        assert other.transformer is not pipe.transformer
        assert len(attached(pipe).traces) == 0
    detach(other)
    assert type(other) is WanPipeline
    assert np.array_equal(sample(pipe, PROMPT, negative_prompt=RED), expected)


def test_the_transformer_can_be_copied_and_pickled(pipe: Any) -> None:
    attach(pipe, NAG())
    sample(pipe, PROMPT, negative_prompt=RED)
    for other in (copy.deepcopy(pipe.transformer), pickle.loads(pickle.dumps(pipe.transformer))):
        assert type(other) is type(pipe.transformer)


def test_from_pipe_and_a_second_pipeline_on_the_same_transformer(pipe: Any, expected: np.ndarray) -> None:
    plain = sample(pipe, PROMPT)
    attach(pipe, NAG(negative_prompt=RED))
    assert WanVideoToVideoPipeline.from_pipe(pipe).transformer is pipe.transformer
    second = WanPipeline(**pipe.components)
    second.set_progress_bar_config(disable=True)
    assert np.array_equal(sample(second, PROMPT), plain)
    attach(second, NAG(negative_prompt=RED))
    assert np.array_equal(sample(second, PROMPT), expected)


def test_a_replaced_scheduler_and_transformer_are_used(pipe: Any) -> None:
    nag = NAG(negative_prompt=RED, stop=0.5)
    attach(pipe, nag)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.transformer = copy.deepcopy(pipe.transformer)
    add_lora_to_weights(pipe)
    within = sample(pipe, PROMPT, num_inference_steps=4)
    assert {record.step for record in attached(pipe).trace} == {0, 1}
    detach(pipe)
    assert np.array_equal(within, guided(pipe, nag, PROMPT, num_inference_steps=4))


@pytest.mark.slow
def test_a_compiled_transformer_is_guided(pipe: Any, expected: np.ndarray) -> None:
    attach(pipe, NAG())
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    assert np.allclose(sample(pipe, PROMPT, negative_prompt=RED), expected, atol=1e-4)
    assert len(attached(pipe).trace)


@pytest.mark.slow
def test_attached_calls_do_not_compile_again(pipe: Any) -> None:
    graphs: list[None] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(None)
        return graph.forward

    torch.compiler.reset()
    attach(pipe, NAG())
    pipe.transformer.compile(backend=backend)
    counts = []
    for negative in (RED, "blue", "green"):
        sample(pipe, PROMPT, negative_prompt=negative)
        counts.append(len(graphs))
    torch.compiler.reset()
    assert counts[0] > 0
    assert counts == counts[:1] * 3


def test_the_pipeline_can_be_saved_and_loaded(pipe: Any, tmp_path: Path) -> None:
    attach(pipe, NAG())
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert np.allclose(sample(loaded, PROMPT, negative_prompt=RED), sample(pipe, PROMPT), atol=1e-3)  # not attached
    with pytest.raises(ValueError, match="nothing is attached"):
        attached(loaded)
    attach(loaded, NAG())
    assert isinstance(loaded, WanPipeline)


def test_a_deleted_pipeline_is_freed(pipe: Any) -> None:
    other = copy.deepcopy(pipe)
    attach(other, NAG())
    sample(other, PROMPT, negative_prompt=RED)
    alive = weakref.ref(other), weakref.ref(other.transformer)
    del other
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_an_exception_leaves_it_attached(pipe: Any, expected: np.ndarray) -> None:
    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    attach(pipe, NAG())
    with pytest.raises(KeyboardInterrupt):
        sample(pipe, PROMPT, negative_prompt=RED, callback_on_step_end=fail)
    assert type(pipe.transformer).__name__ == "WanTransformer3DModel"
    assert not [name for name in vars(pipe.transformer) if "vidguide" in name]
    assert np.array_equal(sample(pipe, PROMPT, negative_prompt=RED), expected)


def test_a_second_thread_is_refused(pipe: Any, expected: np.ndarray) -> None:
    errors: list[BaseException] = []

    def second() -> None:
        try:
            sample(pipe, PROMPT, negative_prompt=RED)
        except RuntimeError as error:
            errors.append(error)

    def in_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
            with pytest.raises(RuntimeError, match="is sampling"):
                detach(pipe)
        return values

    attach(pipe, NAG())
    output = sample(pipe, PROMPT, negative_prompt=RED, callback_on_step_end=in_step)
    assert np.array_equal(output, expected)
    assert "is sampling with attached guidances" in str(errors[0])


def test_texts_are_encoded_once(pipe: Any) -> None:
    encoded: list[int] = []
    pipe.text_encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    attach(pipe, NAG())
    counts = []
    for negative in (RED, "blue", RED):
        encoded.clear()
        sample(pipe, PROMPT, negative_prompt=negative)
        counts.append(sum(encoded))
    assert counts[0] >= 2
    assert counts[1] >= 1
    assert counts[2] == 0


def test_another_text_encoder_encodes_anew(pipe: Any, expected: np.ndarray) -> None:
    attach(pipe, NAG())
    sample(pipe, PROMPT, negative_prompt=RED)
    encoder = copy.deepcopy(pipe.text_encoder)
    for parameter in encoder.parameters():
        parameter.mul_(1.1)
    pipe.text_encoder = encoder
    within = sample(pipe, PROMPT, negative_prompt=RED)
    detach(pipe)
    assert np.array_equal(within, guided(pipe, NAG(negative_prompt=RED), PROMPT))
    assert not np.array_equal(within, expected)


def test_guide_on_an_attached_pipeline_is_refused(pipe: Any) -> None:
    attach(pipe, NAG())
    with pytest.raises(ValueError, match="has guidances attached"), guide(pipe, STG(layers=(1,))):
        pass


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda pipe: attach(pipe), ValueError, "at least one guidance"),
        (lambda pipe: attach(tiny_wan(), NAG()), TypeError, "give a pipeline"),
        (lambda pipe: attach(pipe, NAG(layers=(99,))), ValueError, "blocks are 0 to"),
        (lambda pipe: attach(pipe, cast(Any, "nag")), TypeError, "not a guidance"),
        (lambda pipe: detach(pipe), ValueError, "nothing is attached"),
        (lambda pipe: attached(pipe), ValueError, "nothing is attached"),
    ],
)
def test_wrong_uses_are_refused_and_change_nothing(pipe: Any, act: Any, error: Any, message: str) -> None:
    attributes = set(vars(pipe))
    with pytest.raises(error, match=message):
        act(pipe)
    assert type(pipe) is WanPipeline
    assert set(vars(pipe)) == attributes
