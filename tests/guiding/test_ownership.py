"""Whose calls of a shared transformer are guided: the owner's, whole; those of other threads and tasks are plain."""

import asyncio
import contextvars
import copy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from tests.helpers.sampling import cogvideox
from tests.helpers.shipped_calls import PROMPT, RED, guided, load_tiny, sample
from tests.helpers.snapshots import snapshot_of, snapshots_equal
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import NAG, PAG, SEG, attach, attached, guide

WAIT = 20.0  # seconds until a test fails that would block
CLIPS = 12


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


class Shared:
    """A transformer, a call of it, and its plain and guided predictions.

    Attributes:
        at_work, go_on: set in the middle of each call of thread `held`, and what that call waits for then.
    """

    def __init__(self) -> None:
        self.model: Any = tiny_wan()
        self.guidances = NAG(negative_prompt_embeds=negative_text()), PAG(layers=(1,))
        self.plain = self.predict()
        with guide(self.model, *self.guidances):
            self.guided = self.predict()
        assert not torch.equal(self.plain, self.guided)
        self.at_work, self.go_on, self.held = threading.Event(), threading.Event(), 0
        self.model.blocks[1].register_forward_hook(self._hold)

    def predict(self) -> torch.Tensor:
        with torch.no_grad():
            prediction: torch.Tensor = self.model(**wan_inputs())[0]
        return prediction

    def _hold(self, *_: Any) -> None:
        if threading.get_ident() == self.held:
            self.at_work.set()
            assert self.go_on.wait(WAIT)

    def predict_held(self) -> torch.Tensor:
        """Predict, and stop in the middle until `go_on` is set."""
        self.held = threading.get_ident()
        try:
            return self.predict()
        finally:
            self.held = 0


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads that have started, and do not inherit a context."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("of_a_pipeline", [False, True])
def test_a_bare_thread_is_foreign_and_passes_unguided(
    shared: Shared, pool: ThreadPoolExecutor, of_a_pipeline: bool
) -> None:
    class Pipe:
        transformer = shared.model
        scheduler = None

    guidances = shared.guidances if not of_a_pipeline else shared.guidances[:1]
    with guide(Pipe() if of_a_pipeline else shared.model, *guidances) as run:
        ours, state = shared.predict(), (run.step, run.number)
        assert torch.equal(pool.submit(shared.predict).result(WAIT), shared.plain)
        assert (run.step, run.number) == state
        assert run.foreign_calls == 1
        assert torch.equal(shared.predict(), ours)
    assert not torch.equal(ours, shared.plain)
    assert run.foreign_calls == 1


def test_a_foreign_call_waits_while_a_guided_one_is_at_work(shared: Shared, pool: ThreadPoolExecutor) -> None:
    with guide(shared.model, *shared.guidances):
        foreign = pool.submit(lambda: (shared.at_work.wait(WAIT), shared.predict())[1])
        threading.Timer(0.3, shared.go_on.set).start()
        assert torch.equal(shared.predict_held(), shared.guided)
        assert torch.equal(foreign.result(WAIT), shared.plain)


def test_a_guided_call_waits_while_a_foreign_one_is_at_work(shared: Shared, pool: ThreadPoolExecutor) -> None:
    with guide(shared.model, *shared.guidances):
        foreign = pool.submit(shared.predict_held)
        assert shared.at_work.wait(WAIT)
        threading.Timer(0.3, shared.go_on.set).start()
        assert torch.equal(shared.predict(), shared.guided)
        assert shared.go_on.is_set()
        assert torch.equal(foreign.result(WAIT), shared.plain)


def test_guide_waits_for_a_call_that_began_before_it(shared: Shared, pool: ThreadPoolExecutor) -> None:
    foreign = pool.submit(shared.predict_held)
    assert shared.at_work.wait(WAIT)
    threading.Timer(0.3, shared.go_on.set).start()
    with guide(shared.model, *shared.guidances):
        assert shared.go_on.is_set()
        assert torch.equal(shared.predict(), shared.guided)
    assert torch.equal(foreign.result(WAIT), shared.plain)


def test_the_end_of_the_block_waits_for_a_foreign_call(shared: Shared, pool: ThreadPoolExecutor) -> None:
    before = snapshot_of(shared.model)
    with guide(shared.model, *shared.guidances):
        foreign = pool.submit(shared.predict_held)
        assert shared.at_work.wait(WAIT)
        threading.Timer(0.3, shared.go_on.set).start()
    assert shared.go_on.is_set()
    assert torch.equal(foreign.result(WAIT), shared.plain)
    assert snapshots_equal(snapshot_of(shared.model), before)


def test_a_copied_context_is_an_owner(shared: Shared, pool: ThreadPoolExecutor) -> None:
    with guide(shared.model, *shared.guidances):
        context = contextvars.copy_context()
        assert torch.equal(pool.submit(context.run, shared.predict).result(WAIT), shared.guided)
    assert torch.equal(pool.submit(context.run, shared.predict).result(WAIT), shared.plain)
    other = NAG(negative_prompt_embeds=negative_text(seed=8))
    with guide(shared.model, other):  # another block, which that context does not own
        assert torch.equal(pool.submit(context.run, shared.predict).result(WAIT), shared.plain)


def test_tasks_of_asyncio(shared: Shared) -> None:
    async def main() -> None:
        opened, called = asyncio.Event(), asyncio.Event()

        async def foreign() -> list[torch.Tensor]:
            await opened.wait()
            predictions = [shared.predict() for _ in range(CLIPS // 2)]
            predictions += [await asyncio.to_thread(shared.predict) for _ in range(CLIPS // 2)]
            called.set()
            return predictions

        async def child() -> torch.Tensor:
            return shared.predict()

        stranger = asyncio.create_task(foreign())  # before the block
        with guide(shared.model, *shared.guidances) as run:
            opened.set()
            while not called.is_set():
                assert torch.equal(shared.predict(), shared.guided)
                assert torch.equal(await asyncio.to_thread(shared.predict), shared.guided)
                assert torch.equal(await asyncio.create_task(child()), shared.guided)
            assert run.foreign_calls == CLIPS
        assert all(torch.equal(prediction, shared.plain) for prediction in await stranger)

    asyncio.run(main())


def neighbour(pipe: Any) -> Any:
    """Return another pipeline with the same transformer, and a scheduler of its own."""
    other = WanPipeline(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("stays", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["guide", "attach"])
def test_twelve_unguided_clips_of_other_pipelines_are_plain(stays: bool) -> None:
    """The guided and the foreign pipelines take each of their steps at the same time.

    Up to the latents: Wan's VAE stores features between its calls, so that threads cannot share it.
    """
    pipe, latent = load_tiny(), {"output_type": "latent"}
    others = [neighbour(pipe) for _ in range(3)]
    plain, expected = sample(pipe, PROMPT, **latent), guided(pipe, NAG(negative_prompt=RED), PROMPT, **latent)
    barrier = threading.Barrier(len(others) + 1, timeout=WAIT)

    def clips(one: Any) -> list[np.ndarray]:
        def in_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            barrier.wait()
            return values

        with torch.no_grad():
            return [sample(one, PROMPT, **latent, callback_on_step_end=in_step) for _ in range(CLIPS // len(others))]

    with ThreadPoolExecutor(len(others)) as threads:
        if stays:
            attach(pipe, NAG(negative_prompt=RED))
            foreign = [threads.submit(clips, one) for one in others]
            ours = clips(pipe)
            assert len(attached(pipe).traces) == 1
        else:
            with guide(pipe, NAG(negative_prompt=RED)) as run:
                foreign = [threads.submit(clips, one) for one in others]
                ours = clips(pipe)
                unguided = [clip for future in foreign for clip in future.result(WAIT)]
            assert run.foreign_calls == CLIPS * 3
        unguided = [clip for future in foreign for clip in future.result(WAIT)]
    assert len(unguided) == CLIPS
    assert all(np.array_equal(clip, plain) for clip in unguided)
    assert all(np.array_equal(clip, expected) for clip in ours)


def test_a_call_of_the_guided_pipeline_is_guided_in_any_thread(pool: ThreadPoolExecutor) -> None:
    pipe = load_tiny()
    expected = guided(pipe, NAG(negative_prompt=RED), PROMPT)

    def clip() -> np.ndarray:
        with torch.no_grad():
            return sample(pipe, PROMPT)

    with guide(pipe, NAG(negative_prompt=RED)) as run:
        assert np.array_equal(pool.submit(clip).result(WAIT), expected)
        assert run.trace.steps == 3
        assert np.array_equal(clip(), expected)
        assert np.array_equal(pool.submit(clip).result(WAIT), expected)
    assert run.foreign_calls == 0


def test_a_second_call_at_the_same_time_is_refused(pool: ThreadPoolExecutor) -> None:
    pipe = load_tiny()
    expected, errors = guided(pipe, NAG(negative_prompt=RED), PROMPT), list[Any]()
    calls: list[Callable[[], Any]] = [lambda: pool.submit(sample, pipe, PROMPT)]
    calls.append(lambda: pool.submit(contextvars.copy_context().run, pipe.transformer))

    def in_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        errors.extend(call().exception(WAIT) for call in calls)
        return values

    with guide(pipe, NAG(negative_prompt=RED)):
        assert np.array_equal(sample(pipe, PROMPT, callback_on_step_end=in_step), expected)
    assert len(errors) == 6
    for error in errors:
        assert isinstance(error, RuntimeError)
        assert "in use by a guided pipeline that samples in another thread" in str(error)


def test_the_end_of_the_block_is_reported_to_a_pipeline_that_samples(pool: ThreadPoolExecutor) -> None:
    pipe, began, ended = load_tiny(), threading.Event(), threading.Event()

    def in_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        began.set()
        assert ended.wait(WAIT)
        return values

    with guide(pipe, NAG(negative_prompt=RED)):
        call = pool.submit(sample, pipe, PROMPT, callback_on_step_end=in_step)
        assert began.wait(WAIT)
    ended.set()
    with pytest.raises(RuntimeError, match=r"guide\(...\) ended while this WanPipeline was sampling"):
        call.result(WAIT)


def test_a_guide_in_another_thread_is_refused_and_changes_nothing(shared: Shared, pool: ThreadPoolExecutor) -> None:
    before = snapshot_of(shared.model)

    def second() -> None:
        with guide(shared.model, NAG(negative_prompt_embeds=negative_text(seed=8))):
            pytest.fail("two guides at once")

    with guide(shared.model, *shared.guidances):
        assert isinstance(pool.submit(second).exception(WAIT), ValueError)
        assert torch.equal(shared.predict(), shared.guided)
    assert snapshots_equal(snapshot_of(shared.model), before)


def test_of_many_guides_that_open_at_once_none_is_mixed_with_another(shared: Shared) -> None:
    """Each prediction is whole: under the guidances of its block, or refused."""
    before, threads = snapshot_of(shared.model), 4
    barrier = threading.Barrier(threads, timeout=WAIT)

    def run() -> int:
        count = 0
        for _ in range(6):
            barrier.wait()
            try:
                with guide(shared.model, *shared.guidances):
                    assert torch.equal(shared.predict(), shared.guided)
                    count += 1
            except ValueError as error:
                assert "is guided already" in str(error)  # noqa: PT017
                assert torch.equal(shared.predict(), shared.plain)
        return count

    with ThreadPoolExecutor(threads) as pool:
        counts = [future.result(WAIT) for future in [pool.submit(run) for _ in range(threads)]]
    assert sum(counts) >= 6
    assert snapshots_equal(snapshot_of(shared.model), before)


def test_errors_release_the_transformer(shared: Shared, pool: ThreadPoolExecutor) -> None:
    before = snapshot_of(shared.model)

    def fail() -> None:
        shared.model(**{**wan_inputs(), "hidden_states": torch.zeros(2, 5, 2, 8, 8)})  # of five channels

    with guide(shared.model, *shared.guidances):
        assert isinstance(pool.submit(fail).exception(WAIT), RuntimeError)
        assert torch.equal(shared.predict(), shared.guided)
        with pytest.raises(RuntimeError):
            fail()
        assert torch.equal(pool.submit(shared.predict).result(WAIT), shared.plain)
        assert torch.equal(shared.predict(), shared.guided)
    with pytest.raises(KeyError), guide(shared.model, *shared.guidances):
        raise KeyError
    assert torch.equal(pool.submit(shared.predict).result(WAIT), shared.plain)
    assert snapshots_equal(snapshot_of(shared.model), before)


def test_foreign_calls_during_backward_that_computes_blocks_again_are_plain(pool: ThreadPoolExecutor) -> None:
    model: Any = tiny_wan().requires_grad_(True)
    model.enable_gradient_checkpointing()
    guidances = NAG(negative_prompt_embeds=negative_text()), PAG(layers=(1,))
    futures, stop = list[Any](), threading.Event()

    def foreign() -> list[torch.Tensor]:
        predictions = []
        while not stop.is_set():
            with torch.no_grad():
                predictions.append(model(**wan_inputs())[0])
        return predictions

    def gradients(change: Callable[[], None]) -> list[Any]:
        model.zero_grad()
        with torch.enable_grad(), guide(model, *guidances):
            prediction = model(**wan_inputs())[0]
            change()
            prediction.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain, expected = model(**wan_inputs())[0], gradients(lambda: None)
    ours = gradients(lambda: futures.append(pool.submit(foreign)))
    stop.set()
    predictions = futures[0].result(WAIT)
    assert predictions
    assert all(torch.equal(prediction, plain) for prediction in predictions)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_a_foreign_cache_context_is_no_branch_of_the_owner(pool: ThreadPoolExecutor) -> None:
    model, tiny = cogvideox(), BY_NAME["CogVideoXTransformer3DModel/rotary"]
    inputs, open_now, done = tiny.inputs(2), threading.Event(), threading.Event()

    def predict() -> torch.Tensor:
        prediction: torch.Tensor = model(**inputs)[0]
        return prediction

    def foreign() -> torch.Tensor:
        with torch.no_grad(), model.cache_context("uncond"):
            open_now.set()
            assert done.wait(WAIT)
            return predict()

    plain = predict()
    with guide(model, SEG(layers=(0,)), PAG(layers=(1,))):
        expected = predict()
        future = pool.submit(foreign)
        assert open_now.wait(WAIT)
        assert torch.equal(predict(), expected)
        done.set()
        assert torch.equal(future.result(WAIT), plain)
    assert not torch.equal(expected, plain)


@pytest.mark.slow
def test_a_compiled_transformer_is_the_owners_too(pool: ThreadPoolExecutor) -> None:
    model: Any = torch.compile(tiny_wan(), backend="eager")

    def predict() -> torch.Tensor:
        with torch.no_grad():
            prediction: torch.Tensor = model(**wan_inputs())[0]
        return prediction

    plain = predict()
    with guide(model, NAG(negative_prompt_embeds=negative_text())):
        ours = predict()
        assert torch.equal(pool.submit(predict).result(WAIT), plain)
        assert torch.equal(predict(), ours)
    assert not torch.equal(ours, plain)


def test_a_scheduler_that_a_foreign_pipeline_replaces_is_its_own(pool: ThreadPoolExecutor) -> None:
    pipe = load_tiny()
    other = neighbour(pipe)
    other.scheduler = UniPCMultistepScheduler.from_config(other.scheduler.config)
    plain = sample(other, PROMPT)

    def clip() -> np.ndarray:
        with torch.no_grad():
            return sample(other, PROMPT)

    with guide(pipe, NAG(negative_prompt=RED, stop=0.5)) as run:
        sample(pipe, PROMPT)
        assert np.array_equal(pool.submit(clip).result(WAIT), plain)
        assert {record.step for record in run.trace} == {0, 1}


STRESS = """
import gc, sys, threading, time
from torch import nn
from vidguide.guiding.ownership import wait_for_calls

class Finalized:
    def __del__(self):
        for _ in range(3):  # runs Python, so that another thread may go on
            pass

class Busy(nn.Module):
    def forward(self):
        cycle = Finalized()
        cycle.itself = cycle
        return self.inner()
    def inner(self):
        return [Finalized() for _ in range(3)]

def call_for_ever():
    while True:
        busy()

busy, other = Busy(), Busy()
sys.setswitchinterval(1e-6)
for _ in range(3):
    threading.Thread(target=call_for_ever, daemon=True).start()
gc.set_threshold(5)
end = time.monotonic() + 4
while time.monotonic() < end:
    wait_for_calls([other])
print(gc.isenabled(), flush=True)
import os
os._exit(0)  # the threads never end
"""


def test_waiting_for_calls_of_busy_threads_does_not_crash_the_interpreter() -> None:
    run = subprocess.run([sys.executable, "-c", STRESS], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr
