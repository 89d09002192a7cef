"""Echo: a modular pipeline without a scheduler, whose loop of blocks counts the steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers.modular_pipelines.echo")  # since 0.42

from diffusers.modular_pipelines.echo.denoise import EchoDenoiseLoopStep
from diffusers.modular_pipelines.echo.modular_blocks_echo import EchoTextConditioningStep

from tests.helpers.modular_pipelines import ECHO_STEPS, echo, echo_loop, sample_echo
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_families import BY_NAME
from vidguide import EMAG, NAG, attach, attached, detach, guide
from vidguide.calls.run_cache import RunCache
from vidguide.guidances.base import Guidance

TRANSFORMERS = ("LTX2VideoTransformer3DModel", "LTX2VideoTransformer3DModel/modulated")
NEGATIVE = BY_NAME[TRANSFORMERS[0]].text(1, 16, 5)


def nag(**parameters: Any) -> NAG:
    return NAG(negative_prompt_embeds=NEGATIVE, **{"scale": 20, "tau": 10, "alpha": 1, **parameters})


def sample(pipe: Any, *guidances: Guidance, **call: Any) -> Tensor:
    with guide(pipe, *guidances):
        return sample_echo(pipe, **call)


def test_the_loop_counts_the_steps_of_each_call() -> None:
    pipe = echo()
    with guide(pipe, nag(stop=0.5)) as run:
        first = sample_echo(pipe)
        sample_echo(pipe, sigmas=[1.0, 0.9, 0.5, 0.0])
        assert torch.equal(sample_echo(pipe), first)
    assert [trace.steps for trace in run.traces] == [ECHO_STEPS, 3, ECHO_STEPS]
    assert [{record.step for record in trace} for trace in run.traces] == [{0, 1, 2, 3}, {0, 1}, {0, 1, 2, 3}]


def test_a_window_of_steps_is_between_none_and_all() -> None:
    pipe = echo()
    outputs = [sample(pipe, *guidances) for guidances in ((), (nag(stop=0.5),), (nag(),), (nag(start=0.5),))]
    for i, output in enumerate(outputs):
        assert not any(torch.equal(output, other) for other in outputs[:i])


@pytest.mark.parametrize("tiny", TRANSFORMERS)
def test_cached_keys_and_values_equal_those_of_each_step(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the text is modulated by the noise level, the negative's keys and values depend on the step."""
    pipe = echo(tiny)
    cached = sample(pipe, nag())
    monkeypatch.setattr(RunCache, "get", lambda self, owner, key, factory: factory())
    assert torch.equal(sample(pipe, nag()), cached)
    assert not torch.equal(sample(pipe), cached)


def test_emags_weak_passes() -> None:
    pipe = echo()
    with guide(pipe, EMAG(start=0.25, stop=0.75)) as run:
        sample_echo(pipe)
    assert [choice.step for choice in run.trace.choices] == [2, 3, 4, 5]


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a call")


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(fails: bool, snapshot: Any) -> None:
    pipe = echo()
    plain, before, blocks, loop = sample_echo(pipe), snapshot(pipe.transformer), pipe._blocks, echo_loop(pipe)
    with guide(pipe, nag()):
        assert "_vidguide_run" in vars(echo_loop(pipe))
        if fails:
            handle = pipe.transformer.proj_out.register_forward_hook(fail)
            with pytest.raises(ZeroDivisionError):
                sample_echo(pipe)
            handle.remove()
        guided = sample_echo(pipe)
    assert pipe._blocks is blocks
    assert echo_loop(pipe) is loop
    assert type(loop) is EchoDenoiseLoopStep
    assert "_vidguide_run" not in vars(loop)
    assert snapshots_equal(snapshot(pipe.transformer), before)
    assert torch.equal(sample_echo(pipe), plain)
    assert torch.equal(guided, sample(pipe, nag()))


def test_attached_guidances_equal_those_of_guide() -> None:
    pipe = echo()
    expected = sample(pipe, nag(stop=0.5))
    attach(pipe, nag(stop=0.5))
    assert torch.equal(sample_echo(pipe), expected)
    assert type(echo_loop(pipe)) is EchoDenoiseLoopStep
    assert attached(pipe).trace.steps == ECHO_STEPS
    detach(pipe)


class SilentLoop(EchoDenoiseLoopStep):
    """Loop without a progress bar."""

    def __call__(self, components: Any, state: Any) -> Any:
        values = self.get_block_state(state)
        for i, sigma in enumerate(values.sigmas[:-1]):
            components, values = self.loop_step(components, values, i=i, sigma=sigma)
        self.set_block_state(state, values)
        return components, state


def test_a_loop_that_does_not_tell_its_steps_is_refused_if_they_are_needed() -> None:
    pipe = echo(loop=SilentLoop())
    with pytest.raises(ValueError, match=r"NAG\(start=0.0, stop=0.5\).*no loop of this EchoModularPipeline counts"):
        sample(pipe, nag(stop=0.5))
    assert torch.equal(sample(pipe, nag()), sample(echo(), nag()))


def test_without_a_scheduler_or_a_loop_windows_are_refused() -> None:
    pipe = EchoTextConditioningStep().init_pipeline()
    pipe.transformer = echo().transformer
    with pytest.raises(ValueError, match="no scheduler and no loop of this EchoModularPipeline"), guide(pipe, EMAG()):
        pass
    with guide(pipe, nag()):
        pass


def test_pipelines_that_share_their_blocks_are_counted_by_themselves() -> None:
    first, second = echo(), echo()
    assert echo_loop(first) is echo_loop(second)
    plain, expected = sample_echo(second), sample(first, nag(stop=0.5))
    with guide(first, nag(stop=0.5)) as run, guide(second, EMAG()) as other:
        assert torch.equal(sample_echo(first), expected)
        sample_echo(second, sigmas=[1.0, 0.5, 0.0])
    assert (run.number, run.trace.steps, other.number, other.trace.steps) == (1, ECHO_STEPS, 1, 2)
    with guide(first, nag(stop=0.5)) as run:
        assert torch.equal(sample_echo(second), plain)
    assert run.number == 0
