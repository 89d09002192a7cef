"""guide() in programs: several pipelines, threads, callbacks, interrupts, errors, changes between calls."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.helpers.common_pipelines import METHODS, STEPS, SUBJECTS, Subject, transformers_of
from tests.helpers.pipeline_features import add_lora_to_weights, random_lora
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_wan import negative_text, tiny_wan
from vidguide import CFG, NAG, guide
from vidguide.attention.sites import fixed_self_attention
from vidguide.transformer.family import family_of

FAMILIES = list(SUBJECTS)
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


def methods_for(subject: Subject, pipe: Any) -> list[Any]:
    """Return guidances of every kind that the family supports."""
    perturbed_pass = not fixed_self_attention(family_of(pipe.transformer))
    return [make(subject.negative()) for name, make in METHODS.items() if name == "NAG" or perturbed_pass]


def guide_all(subject: Subject, pipe: Any) -> Any:
    """Guide the pipeline with as many guidances as the family supports."""
    return guide(pipe, *methods_for(subject, pipe)[-1])


@each_family
def test_guides_of_two_pipelines_can_overlap(name: str) -> None:
    subject, second_subject = SUBJECTS[name], SUBJECTS["Wan" if name != "Wan" else "LTX"]
    pipes = subject.pipe(), second_subject.pipe()
    unguided = subject.sample(pipes[0]), second_subject.sample(pipes[1])
    with guide_all(subject, pipes[0]):
        guided = subject.sample(pipes[0])
    first, second = guide_all(subject, pipes[0]), guide_all(second_subject, pipes[1])
    first.__enter__()
    second.__enter__()
    assert torch.equal(subject.sample(pipes[0]), guided)
    second_guided = second_subject.sample(pipes[1])
    first.__exit__(None, None, None)
    assert torch.equal(subject.sample(pipes[0]), unguided[0])
    assert torch.equal(second_subject.sample(pipes[1]), second_guided)
    second.__exit__(None, None, None)
    assert torch.equal(second_subject.sample(pipes[1]), unguided[1])


@each_family
def test_two_threads_guide_a_pipeline_each(name: str) -> None:
    subject = SUBJECTS[name]
    pipes = [subject.pipe() for _ in range(2)]
    expected = []
    for seed, pipe in enumerate(pipes):
        with guide_all(subject, pipe):
            expected.append(subject.sample(pipe, seed=seed))
    results: dict[int, list[Tensor]] = {}

    def work(seed: int) -> None:
        with torch.no_grad(), guide_all(subject, pipes[seed]):
            results[seed] = [subject.sample(pipes[seed], seed=seed) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, expected[seed]) for seed in range(2) for result in results[seed])


@each_family
def test_callbacks_can_change_latents_and_interrupt_the_pipeline(name: str) -> None:
    """The callback changes the latents and stops the pipeline; the next call is not affected."""
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    steps = []

    def stop(pipe: Any, step: int, timestep: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = step == 1
        return {"latents": 0.5 * values["latents"]}

    with guide_all(subject, pipe) as run:
        expected = subject.sample(pipe)
        subject.sample(pipe, callback_on_step_end=stop)
        assert run.step == 2
        assert {record.step for record in run.trace} <= {0, 1}
        assert torch.equal(subject.sample(pipe), expected)
    assert steps == [0, 1]


class StopError(Exception):
    pass


@contextmanager
def raise_after_calls(pipe: Any, calls: int, error: type[BaseException], where: str) -> Iterator[None]:
    """Raise an error after a number of calls of a module."""
    remaining = iter(range(calls))

    def count(*args: Any) -> None:
        if next(remaining, None) is None:
            raise error

    blocks = [list(model.children())[-1] for model in transformers_of(pipe)]
    attentions = [[m for m in model.modules() if hasattr(m, "processor")][-1] for model in transformers_of(pipe)]
    modules = {"the attention": attentions, "the output": blocks}[where]
    handles = [module.register_forward_hook(count) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.sampled(2)
@each_family
@pytest.mark.parametrize("where", ["the attention", "the output"])
@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_an_error_at_any_call_restores_the_model_bitwise(
    name: str, where: str, error: type[BaseException], snapshot: Callable[..., Any]
) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    unguided = subject.sample(pipe)
    before = [snapshot(model) for model in transformers_of(pipe)]
    scheduler = type(pipe.scheduler), sorted(vars(pipe.scheduler))
    reached = 0
    for calls in (*range(4), 5, 8, 13):  # in unperturbed and perturbed passes, of early and late steps
        try:
            with raise_after_calls(pipe, calls, error, where), guide_all(subject, pipe):
                subject.sample(pipe)
        except error:
            reached += 1
        assert all(
            snapshots_equal(snapshot(model), expected)
            for model, expected in zip(transformers_of(pipe), before, strict=True)
        )
        assert (type(pipe.scheduler), sorted(vars(pipe.scheduler))) == scheduler
    assert reached > 3
    assert torch.equal(subject.sample(pipe), unguided)


@each_family
def test_an_error_in_a_callback_does_not_change_the_next_call(name: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()

    def fail(pipe: Any, step: int, timestep: Any, values: Any) -> Any:
        raise StopError

    with guide_all(subject, pipe):
        expected = subject.sample(pipe)
        with pytest.raises(StopError):
            subject.sample(pipe, callback_on_step_end=fail)
        assert torch.equal(subject.sample(pipe), expected)


@pytest.mark.sampled(2)
@each_family
def test_a_lora_is_loaded_scaled_fused_and_unloaded_between_calls(name: str) -> None:
    """All within one guide; the run cache of the negative prompt must be invalidated each time."""
    subject = SUBJECTS[name]
    pipe, merged = subject.pipe(), subject.pipe()
    add_lora_to_weights(merged)
    without_lora, with_lora = (sample_guided(subject, pipeline) for pipeline in (subject.pipe(), merged))
    assert (without_lora - with_lora).abs().max() > 1e-2
    with guide_all(subject, pipe):
        assert_close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-3)
        assert_close(subject.sample(pipe), without_lora)
        pipe.load_lora_weights(random_lora(pipe), adapter_name="style")
        pipe.set_adapters("style", 0.0)
        assert_close(subject.sample(pipe), without_lora)
        pipe.set_adapters("style", 0.5)
        assert_close(subject.sample(pipe), with_lora)
        pipe.fuse_lora()
        assert_close(subject.sample(pipe), with_lora)
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        assert_close(subject.sample(pipe), without_lora)


def sample_guided(subject: Subject, pipe: Any) -> Tensor:
    with guide_all(subject, pipe):
        return subject.sample(pipe)


@pytest.mark.parametrize("name", ["Wan", "LTX", "CogVideoX", "HunyuanVideo"])
def test_fusing_projections_inside_guide_leaves_no_intercepted_processor(name: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    kinds = {type(module.processor) for module in pipe.transformer.modules() if hasattr(module, "processor")}
    with guide_all(subject, pipe):
        expected = subject.sample(pipe)
        pipe.transformer.fuse_qkv_projections()
        torch.testing.assert_close(subject.sample(pipe), expected, atol=2e-5, rtol=1e-3)
    pipe.transformer.unfuse_qkv_projections()
    assert {type(module.processor) for module in pipe.transformer.modules() if hasattr(module, "processor")} == kinds


def test_a_scheduler_serves_one_guide_at_a_time() -> None:
    scheduler, nag = FlowMatchEulerDiscreteScheduler(), NAG(negative_prompt_embeds=negative_text())
    with guide(tiny_wan(), nag, scheduler=scheduler) as run:
        scheduler.set_timesteps(3)
        with pytest.raises(ValueError, match="a scheduler of its own"), guide(tiny_wan(), nag, scheduler=scheduler):
            pass
        scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
        assert run.step == 1
        with guide(tiny_wan(), nag, scheduler=copy.deepcopy(scheduler)):
            pass


def test_guiding_a_shared_transformer_twice_raises_and_keeps_the_first_guide() -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe()
    twin = type(pipe)(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler()})
    with guide_all(subject, pipe):
        expected = subject.sample(pipe)
        with pytest.raises(ValueError, match="guided already"), guide_all(subject, twin):
            pass
        assert torch.equal(subject.sample(pipe), expected)


@pytest.mark.parametrize(
    ("negative", "message"),
    [
        ({"negative_prompt_embeds": torch.zeros(1, 9, 5)}, "16 wide"),
        ({"negative_prompt_embeds": torch.zeros(3, 9, 16)}, "3 negative prompts for 2 prompts"),
        ({"negative_prompt": "blurry"}, "has no text_encoder"),
        ({"negative_prompt": ["a", "b"]}, "has no text_encoder"),
    ],
)
@pytest.mark.parametrize("kind", [NAG, CFG])
def test_a_wrong_negative_raises_before_the_first_step_even_with_a_later_start(
    kind: Any, negative: dict[str, Any], message: str, record_refusal: Any
) -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe(cfg=False)
    steps = []
    pipe.transformer.blocks[0].register_forward_hook(lambda *args: steps.append(1))
    with pytest.raises(ValueError, match=message) as caught, guide(pipe, kind(start=0.5, **negative)):
        subject.sample(pipe, cfg=False, batch=2)
    record_refusal(caught)
    assert not steps


def test_a_negative_prompt_longer_than_the_text_length_raises(record_refusal: Any) -> None:
    from vidguide.pipelines.loading.load import load

    tiny = load("tiny", device="cpu")
    settings = dict(num_inference_steps=STEPS, height=16, width=16, num_frames=5, guidance_scale=1.0)
    message = r"must have at most 8 tokens, the text length of this call, not 16;.*max_sequence_length"
    nag = NAG(negative_prompt="a red circle moving left " * 3)
    with pytest.raises(ValueError, match=message) as caught, guide(tiny, nag):
        tiny("a circle", max_sequence_length=8, output_type="latent", **settings)
    record_refusal(caught)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(scheduler="euler"), TypeError, "scheduler='euler': give a scheduler of diffusers"),
        (dict(layers=()), ValueError, r"NAG\(layers=\(\)\): name a block"),
        (dict(layers=(-1,)), ValueError, "blocks are 0 to 2"),
        (dict(negative_prompt_embeds=torch.full((1, 9, 16), torch.nan)), ValueError, "not finite"),
        (dict(start=-0.1), ValueError, r"start=-0.1"),
        (dict(stop=float("nan")), ValueError, r"stop=nan"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(
    arguments: dict[str, Any], error: type[Exception], message: str, record_refusal: Any
) -> None:
    scheduler = arguments.pop("scheduler", None)
    with pytest.raises(error, match=message) as caught:
        guide(
            tiny_wan(), NAG(**{"negative_prompt_embeds": negative_text(), **arguments}), scheduler=scheduler
        ).__enter__()
    record_refusal(caught)
