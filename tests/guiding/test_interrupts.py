"""An interrupt at any line of ours, also of the code that restores, leaves the model as it was."""

import gc
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import vidguide
from tests.helpers.snapshots import snapshot_of, snapshots_equal
from tests.helpers.tiny_families import BY_NAME, Tiny
from vidguide import CFG, EMAG, NAG, PAG, STG, guide, restoration
from vidguide.guidances.base import Guidance
from vidguide.restoration import holding
from vidguide.transformer.compile import _stance

CODE = str(Path(vidguide.__file__).parent)
FOLDERS = tuple(f"{CODE}/{folder}/" for folder in ("guiding", "attention", "transformer"))
Line = tuple[str, int]
Event = tuple[Line, int]  # a line, and which of its executions


class Lines:
    """Records the lines of ours that are executed, or raises KeyboardInterrupt before one of them."""

    def __init__(self, stop: Event | None = None, folders: tuple[str, ...] = FOLDERS) -> None:
        self.stop, self.folders, self.counts = stop, folders, dict[Line, int]()
        self.stopped = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.folders) or self.stopped:
            return None
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            self.counts[line] = self.counts.get(line, 0) + 1
            if (line, self.counts[line]) == self.stop:
                self.stopped = True
                raise KeyboardInterrupt
        return self

    def run(self, function: Callable[[], None]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function()
        finally:
            sys.settrace(before)

    @property
    def events(self) -> list[Event]:
        """The first and the last execution of every line."""
        return sorted({(line, n) for line, count in self.counts.items() for n in (1, count)})


class Subject:
    """A model of two blocks, and a guided call of it."""

    def __init__(self, tiny: Tiny, *guidances: Guidance) -> None:
        torch.manual_seed(0)
        self.model, self.inputs, self.guidances = tiny.make(), tiny.inputs(1), guidances
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self.before, self.classes = snapshot_of(self.model), self.kinds()

    def call(self) -> None:
        with torch.no_grad(), guide(self.model, *self.guidances, scheduler=self.scheduler):
            self.scheduler.set_timesteps(1)
            self.model(**self.inputs)

    def kinds(self) -> list[Any]:
        """Return what `guide` may change besides the modules' attributes."""
        stance = torch._dynamo.eval_frame._stance.stance
        modules = [(name, id(module)) for name, module in self.model.named_modules()]
        return [type(self.scheduler), sorted(vars(self.scheduler)), stance, modules, list(self.model.state_dict())]

    def check(self, event: Event) -> None:
        assert snapshots_equal(snapshot_of(self.model), self.before), event
        kinds = self.kinds()
        assert [kinds[0], *kinds[2:]] == [self.classes[0], *self.classes[2:]], event
        assert not [name for name in kinds[1] if "vidguide" in name], event
        assert is_free(_stance.lock), event


def is_free(lock: Any, seconds: float = 5) -> bool:
    """Return whether another thread can take a lock, and let it."""

    def take() -> bool:
        taken = lock.acquire(timeout=seconds)
        if taken:
            lock.release()
        return bool(taken)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result()


def test_a_lock_is_free_after_an_interrupt_before_any_line() -> None:
    lock = threading.RLock()

    def use() -> None:
        with holding(lock):
            with holding(lock):
                assert not is_free(lock, 0)
            assert not is_free(lock, 0)

    folders = (restoration.__file__, __file__)
    recorded = Lines(folders=folders)
    recorded.run(use)
    assert len(recorded.events) > 20
    for event in recorded.events:
        lines = Lines(event, folders)
        with pytest.raises(KeyboardInterrupt):
            lines.run(use)
        assert is_free(lock), event


def small(name: str, **config: int) -> Tiny:
    tiny = BY_NAME[name]
    return Tiny(tiny.name, {**tiny.config, **config}, tiny.video, tiny.text, tiny.length, tiny.extra)


def subjects() -> dict[str, Subject]:
    wan, joint = small("WanTransformer3DModel", num_layers=2), small("HunyuanVideoTransformer3DModel", num_layers=1)
    cog = small("CogVideoXTransformer3DModel/rotary", num_layers=2)
    return {
        "Wan": Subject(wan, NAG(negative_prompt_embeds=wan.negative()), PAG(layers=(1,))),
        "HunyuanVideo": Subject(joint, NAG(negative_prompt_embeds=joint.negative())),
        "CogVideoX": Subject(
            cog,
            CFG(negative_prompt_embeds=cog.negative()),
            STG(layers=(1,)),
            EMAG(select=(1,), start=0.0, stop=1.0),
        ),
    }


@pytest.mark.parametrize(
    "share", [pytest.param(0.08, id="drawn lines"), pytest.param(1.0, marks=pytest.mark.slow, id="every line")]
)
@pytest.mark.parametrize("name", ["Wan", "HunyuanVideo", "CogVideoX"])
def test_an_interrupt_before_any_line_leaves_the_model_restored(name: str, share: float) -> None:
    subject = subjects()[name]
    subject.call()  # classes are made, and processors compiled, once
    recorded = Lines()
    recorded.run(subject.call)
    assert len(recorded.events) > 400
    for event in random.sample(recorded.events, round(share * len(recorded.events))):
        lines = Lines(event)
        with pytest.raises(KeyboardInterrupt):
            lines.run(subject.call)
        assert lines.stopped
        subject.check(event)
    gc.collect()
    subject.call()


@pytest.mark.parametrize("name", ["Wan", "HunyuanVideo", "CogVideoX"])
def test_an_interrupted_call_changes_no_later_call_within_the_block(name: str) -> None:
    subject = subjects()[name]
    subject.call()
    with torch.no_grad(), guide(subject.model, *subject.guidances, scheduler=subject.scheduler):
        subject.scheduler.set_timesteps(1)

        def call() -> None:
            subject.model(**subject.inputs)

        expected, recorded = subject.model(**subject.inputs)[0], Lines()
        recorded.run(call)
        for event in random.sample(recorded.events, 40):
            subject.scheduler.set_timesteps(1)
            with pytest.raises(KeyboardInterrupt):
                Lines(event).run(call)
            assert torch.equal(subject.model(**subject.inputs)[0], expected), event
