"""What happens around a guided call: other pipelines, threads, callbacks, interrupts, errors, changes between calls."""

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
from tests.helpers.pipeline_features import lora_added, lora_for
from tests.helpers.snapshots import same
from tests.helpers.tiny_wan import negative_text, tiny_wan
from vidguide import CFG, NAG, guide
from vidguide.attention.sites import supports_perturbed_pass
from vidguide.transformer.family import family_of

FAMILIES = list(SUBJECTS)
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


def methods_for(subject: Subject, pipe: Any) -> list[Any]:
    """Guidances of every kind that the family takes."""
    weak = supports_perturbed_pass(family_of(pipe.transformer))
    return [make(subject.negative()) for name, make in METHODS.items() if name == "NAG" or weak]


def together(subject: Subject, pipe: Any) -> Any:
    """As many guidances at once as the family takes."""
    return guide(pipe, *methods_for(subject, pipe)[-1])


@each_family
def test_two_pipelines_are_guided_crosswise(name: str) -> None:
    subject, other = SUBJECTS[name], SUBJECTS["Wan" if name != "Wan" else "LTX"]
    pipes = subject.pipe(), other.pipe()
    plain = subject.sample(pipes[0]), other.sample(pipes[1])
    with together(subject, pipes[0]):
        guided = subject.sample(pipes[0])
    one, two = together(subject, pipes[0]), together(other, pipes[1])
    one.__enter__()
    two.__enter__()
    assert torch.equal(subject.sample(pipes[0]), guided)
    within = other.sample(pipes[1])
    one.__exit__(None, None, None)
    assert torch.equal(subject.sample(pipes[0]), plain[0])
    assert torch.equal(other.sample(pipes[1]), within)
    two.__exit__(None, None, None)
    assert torch.equal(other.sample(pipes[1]), plain[1])


@each_family
def test_two_threads_with_a_pipeline_each(name: str) -> None:
    subject = SUBJECTS[name]
    pipes = [subject.pipe() for _ in range(2)]
    expected = []
    for seed, pipe in enumerate(pipes):
        with together(subject, pipe):
            expected.append(subject.sample(pipe, seed=seed))
    results: dict[int, list[Tensor]] = {}

    def work(seed: int) -> None:
        with torch.no_grad(), together(subject, pipes[seed]):
            results[seed] = [subject.sample(pipes[seed], seed=seed) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, expected[seed]) for seed in range(2) for result in results[seed])


@each_family
def test_callbacks_and_interrupts(name: str) -> None:
    """A callback may change the latents and stop the pipeline; the next call knows nothing of it."""
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    steps = []

    def stop(pipe: Any, step: int, timestep: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = step == 1
        return {"latents": 0.5 * values["latents"]}

    with together(subject, pipe) as run:
        expected = subject.sample(pipe)
        subject.sample(pipe, callback_on_step_end=stop)
        assert run.step == 2
        assert {record.step for record in run.trace} <= {0, 1}
        assert torch.equal(subject.sample(pipe), expected)
    assert steps == [0, 1]


class StopError(Exception):
    pass


@contextmanager
def failing(pipe: Any, calls: int, error: type[BaseException], where: str) -> Iterator[None]:
    """Raise at the n-th time that a place is reached."""
    left = iter(range(calls))

    def count(*args: Any) -> None:
        if next(left, None) is None:
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


@each_family
@pytest.mark.parametrize("where", ["the attention", "the output"])
@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_an_error_at_any_call_leaves_the_model_bitwise(
    name: str, where: str, error: type[BaseException], snapshot: Callable[..., Any]
) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    plain = subject.sample(pipe)
    before = [snapshot(model) for model in transformers_of(pipe)]
    scheduler = type(pipe.scheduler), sorted(vars(pipe.scheduler))
    reached = 0
    for calls in (*range(4), 5, 8, 13):  # in the first captures, in clean and in weak passes, of early and late steps
        try:
            with failing(pipe, calls, error, where), together(subject, pipe):
                subject.sample(pipe)
        except error:
            reached += 1
        assert all(same(snapshot(model), one) for model, one in zip(transformers_of(pipe), before, strict=True))
        assert (type(pipe.scheduler), sorted(vars(pipe.scheduler))) == scheduler
    assert reached > 3
    assert torch.equal(subject.sample(pipe), plain)


@each_family
def test_an_error_in_a_callback_leaves_the_next_call_as_it_was(name: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()

    def fail(pipe: Any, step: int, timestep: Any, values: Any) -> Any:
        raise StopError

    with together(subject, pipe):
        expected = subject.sample(pipe)
        with pytest.raises(StopError):
            subject.sample(pipe, callback_on_step_end=fail)
        assert torch.equal(subject.sample(pipe), expected)


@each_family
def test_a_lora_through_its_life_between_calls(name: str) -> None:
    """Loaded, scaled, fused and unloaded within one guide: what was kept of the negative is made anew each time."""
    subject = SUBJECTS[name]
    pipe, by_hand = subject.pipe(), subject.pipe()
    lora_added(by_hand)
    plain, changed = (guided_alone(subject, one) for one in (subject.pipe(), by_hand))
    assert (plain - changed).abs().max() > 1e-2
    with together(subject, pipe):
        close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-3)
        close(subject.sample(pipe), plain)
        pipe.load_lora_weights(lora_for(pipe), adapter_name="style")
        pipe.set_adapters("style", 0.0)
        close(subject.sample(pipe), plain)
        pipe.set_adapters("style", 0.5)
        close(subject.sample(pipe), changed)
        pipe.fuse_lora()
        close(subject.sample(pipe), changed)
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        close(subject.sample(pipe), plain)


def guided_alone(subject: Subject, pipe: Any) -> Tensor:
    with together(subject, pipe):
        return subject.sample(pipe)


@pytest.mark.parametrize("name", ["Wan", "LTX", "CogVideoX", "HunyuanVideo"])
def test_projections_fused_within_guide_leave_no_processor_of_ours(name: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    kinds = {type(module.processor) for module in pipe.transformer.modules() if hasattr(module, "processor")}
    with together(subject, pipe):
        expected = subject.sample(pipe)
        pipe.transformer.fuse_qkv_projections()
        torch.testing.assert_close(subject.sample(pipe), expected, atol=2e-5, rtol=1e-3)
    pipe.transformer.unfuse_qkv_projections()
    assert {type(module.processor) for module in pipe.transformer.modules() if hasattr(module, "processor")} == kinds


def test_a_scheduler_counts_for_one_guide_at_a_time() -> None:
    scheduler, nag = FlowMatchEulerDiscreteScheduler(), NAG(negative_prompt_embeds=negative_text())
    with guide(tiny_wan(), nag, scheduler=scheduler) as run:
        scheduler.set_timesteps(3)
        with pytest.raises(ValueError, match="a scheduler of its own"), guide(tiny_wan(), nag, scheduler=scheduler):
            pass
        scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
        assert run.step == 1
        with guide(tiny_wan(), nag, scheduler=copy.deepcopy(scheduler)):
            pass


def test_a_shared_transformer_is_refused_and_stays_guided() -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe()
    twin = type(pipe)(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler()})
    with together(subject, pipe):
        expected = subject.sample(pipe)
        with pytest.raises(ValueError, match="guided already"), together(subject, twin):
            pass
        assert torch.equal(subject.sample(pipe), expected)


@pytest.mark.parametrize(
    ("negative", "message"),
    [
        ({"negative_prompt_embeds": torch.zeros(1, 9, 5)}, "16 wide"),
        ({"negative_prompt_embeds": torch.zeros(3, 9, 16)}, "3 negative prompts for a batch of 2"),
        ({"negative_prompt": "blurry"}, "has no text_encoder"),
        ({"negative_prompt": ["a", "b"]}, "has no text_encoder"),
    ],
)
@pytest.mark.parametrize("kind", [NAG, CFG])
def test_what_does_not_fit_is_refused_before_the_first_step_though_it_acts_later(
    kind: Any, negative: dict[str, Any], message: str, told: Any
) -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe(cfg=False)
    steps = []
    pipe.transformer.blocks[0].register_forward_hook(lambda *args: steps.append(1))
    with pytest.raises(ValueError, match=message) as caught, guide(pipe, kind(start=0.5, **negative)):
        subject.sample(pipe, cfg=False, batch=2)
    told(caught)
    assert not steps


def test_a_negative_longer_than_the_text_is_refused(told: Any) -> None:
    from vidguide.pipelines.loading.load import load

    tiny = load("tiny", device="cpu")
    settings = dict(num_inference_steps=STEPS, height=16, width=16, num_frames=5, guidance_scale=1.0)
    message = r"must have at most 8 tokens, the text length of this call, not 16;.*max_sequence_length"
    nag = NAG(negative_prompt="a red circle moving left " * 3)
    with pytest.raises(ValueError, match=message) as caught, guide(tiny, nag):
        tiny("a circle", max_sequence_length=8, output_type="latent", **settings)
    told(caught)


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
def test_bad_input_is_named(arguments: dict[str, Any], error: type[Exception], message: str, told: Any) -> None:
    scheduler = arguments.pop("scheduler", None)
    with pytest.raises(error, match=message) as caught:
        guide(
            tiny_wan(), NAG(**{"negative_prompt_embeds": negative_text(), **arguments}), scheduler=scheduler
        ).__enter__()
    told(caught)
