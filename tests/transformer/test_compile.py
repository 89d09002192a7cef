"""torch.compile: a compiled guided model equals the eager guided one, and differs from the unguided one.

The second part is needed because Dynamo silently ignores a processor that is replaced by name only.
"""

import functools
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch._dynamo.testing import CompileCounterWithBackend

from tests.helpers.compilation import compile_blocks, compile_in_place, compile_whole
from tests.helpers.sampling import clips, cogvideox, sample, videos
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import EMAG, NAG, STG, guide
from vidguide.guidances.base import Guidance
from vidguide.transformer.compile import force_eager


def slow(compile_model: Callable[..., Any]) -> Any:
    """Return a parameter of a test that is slow with it."""
    return pytest.param(compile_model, marks=pytest.mark.slow)


@pytest.mark.parametrize("compile_model", [*map(slow, (compile_whole, compile_in_place)), compile_blocks])
def test_compiled_guidance_equals_eager_guidance(compile_model: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    inputs, nag = wan_inputs(), NAG(negative_prompt_embeds=negative_text())
    eager = tiny_wan()
    unguided = eager(**inputs)[0]
    with guide(eager, nag):
        guided = eager(**inputs)[0]
    counter = CompileCounterWithBackend("aot_eager")
    model = compile_model(tiny_wan(), counter)
    for _ in range(3):  # the graph of the first block is reused by the others and by the next `guide`
        with guide(model, nag) as run:
            result = model(**inputs)[0]
            assert len(run.trace) == 3
        assert torch.allclose(result, guided, atol=1e-5)
        assert not torch.allclose(result, unguided, atol=1e-3)
    assert counter.frame_count == 1
    assert torch.allclose(model(**inputs)[0], unguided, atol=1e-5)
    assert counter.frame_count == 2


@pytest.mark.parametrize("compile_model", [*map(slow, (compile_whole, compile_in_place)), compile_blocks])
def test_compiled_perturbed_passes_equal_eager_ones(compile_model: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    emag, calls = EMAG(decay=0.5, select=(1,), start=0.25, stop=1.0), videos(4)
    eager, _ = sample(tiny_wan(num_layers=2), calls, emag)
    counter = CompileCounterWithBackend("eager")
    model = compile_model(tiny_wan(num_layers=2), counter)
    result, _ = sample(model, calls, emag)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(result, eager, strict=True))
    assert not torch.allclose(result[-1], tiny_wan(num_layers=2)(**calls[-1])[0], atol=1e-4)
    # First average, later averages, perturbed pass; with compiled blocks, one more graph of a block.
    assert counter.frame_count <= 4


MAKERS: dict[str, Callable[[], tuple[Guidance, ...]]] = {
    "NAG": lambda: (NAG(negative_prompt_embeds=negative_text()),),
    "STG": lambda: (STG(mode="attention", layers=(1,)),),
    "EMAG": lambda: (EMAG(decay=0.5, select=(1,)),),
}
# Largest number of graphs of the model, and of a block, which all blocks share. STG: unperturbed and perturbed pass.
# EMAG: unguided; first and later averaging passes, with and without storing the output of a block; perturbed pass, one
# for each perturbed layer.
MAX_GRAPHS: dict[Any, dict[str, int]] = {
    compile_whole: {"NAG": 1, "STG": 2, "EMAG": 5},
    compile_blocks: {"NAG": 1, "STG": 2, "EMAG": 4},
}


@pytest.mark.parametrize("compile_model", [slow(compile_whole), compile_blocks])
@pytest.mark.parametrize("kind", MAKERS)
def test_later_runs_do_not_recompile(kind: str, compile_model: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    counter, guidances = CompileCounterWithBackend("eager"), MAKERS[kind]()
    model = compile_model(tiny_wan(num_layers=2), counter)
    counts = []
    with torch.no_grad():
        for steps in (6, 6, 9):
            sample(model, videos(steps), *guidances)
            counts.append(counter.frame_count)
    assert 1 <= counts[0] <= MAX_GRAPHS[compile_model][kind]
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize(
    ("compile_model", "most"), [pytest.param(compile_whole, 7, marks=pytest.mark.slow), (compile_blocks, 6)]
)
def test_samples_that_choose_different_layers_take_few_graphs(compile_model: Callable[..., Any], most: int) -> None:
    """The whole model: four, and one for each first layer that is perturbed, though sets of three layers are seven."""
    torch._dynamo.reset()
    calls = [
        {**inputs, "hidden_states": inputs["hidden_states"] * torch.tensor([0.3, 1.0, 3.0, 9.0]).view(4, 1, 1, 1, 1)}
        for inputs in (wan_inputs(4, seed=step) for step in range(10))
    ]
    emag = EMAG(decay=0.5, measure="relative", start=0.2, stop=1.0)
    eager, run = sample(tiny_wan(), calls, emag)
    assert len({choice.layers for choice in run.trace.choices}) > 1
    assert any(len(choice.layers) > 1 for choice in run.trace.choices)
    counter = CompileCounterWithBackend("eager")
    with torch.no_grad():
        result, compiled_run = sample(compile_model(tiny_wan(), counter), calls, emag)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(result, eager, strict=True))
    samples = [[[one.layers for one in choice.samples] for choice in r.trace.choices] for r in (run, compiled_run)]
    assert samples[0] == samples[1]
    assert counter.frame_count <= most


@pytest.mark.parametrize(
    ("compile_model", "parameters", "warned"),
    [
        (compile_whole, {}, True),  # five candidates of forty blocks
        (compile_in_place, {}, True),
        (compile_whole, {"layers": (10, 11)}, False),
        (compile_whole, {"select": (10, 11, 12, 13, 14)}, False),  # all at once
        (compile_whole, {"scale": 1.0}, False),
        (compile_blocks, {}, False),
    ],
)
def test_emag_warns_if_it_may_exceed_the_recompile_limit(
    compile_model: Callable[..., Any], parameters: dict[str, Any], warned: bool
) -> None:
    model = compile_model(tiny_wan(num_layers=40), "eager")
    limit = mock.patch.object(torch._dynamo.config, "recompile_limit", 8)
    with limit, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with guide(model, EMAG(**parameters), scheduler=FlowMatchEulerDiscreteScheduler()):
            pass
    assert any("40 blocks" in str(w.message) and "recompile_limit is 8" in str(w.message) for w in caught) == warned


@pytest.mark.slow
def test_compiled_perturbed_passes_of_joint_attention_equal_eager_ones() -> None:
    torch._dynamo.reset()
    emag, calls = EMAG(decay=0.5, select=(1,), start=0.25, stop=1.0), clips(4)
    eager, _ = sample(cogvideox(), calls, emag)
    model = compile_whole(cogvideox(), "eager")
    result, _ = sample(model, calls, emag)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(result, eager, strict=True))
    assert not torch.allclose(result[-1], cogvideox()(**calls[-1])[0], atol=1e-4)


@pytest.mark.slow
def test_the_default_backend_compiles_a_guided_model_to_one_graph() -> None:
    torch._dynamo.reset()
    inputs, nag = wan_inputs(), NAG(negative_prompt_embeds=negative_text())
    model = tiny_wan(num_layers=1)
    with guide(model, nag):
        guided = model(**inputs)[0]
    compiled: Any = torch.compile(model, fullgraph=True)
    with guide(compiled, nag):
        assert torch.allclose(compiled(**inputs)[0], guided, atol=1e-5)


def test_overlapping_force_eager_contexts_restore_the_stance() -> None:
    """Each `set_stance` restores the stance that it replaced; nested naively, the last one would leave all models
    eager."""
    first, second = force_eager(), force_eager()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiling_a_guided_transformer_raises_with_the_cure(fullgraph: bool) -> None:
    """A model compiled before `guide` works; compiled inside it, torch would trace the guidance itself."""
    compile_model: Any = functools.partial(torch.compile, backend="eager", fullgraph=fullgraph)
    model, nag = tiny_wan(), NAG(negative_prompt_embeds=negative_text())
    with guide(model, nag), pytest.raises(RuntimeError, match=r"compile it before guide"):
        compile_model(model)(**wan_inputs())
    pipe = SimpleNamespace(transformer=tiny_wan(), do_classifier_free_guidance=False)
    with guide(pipe, nag):
        inside = compile_model(pipe.transformer)
        with pytest.raises(RuntimeError, match=r"pipe\.transformer = torch\.compile"):
            inside(**wan_inputs())
    before = compile_model(tiny_wan())
    with guide(before, nag):
        guided = before(**wan_inputs())[0]
    with guide(model, nag):
        assert torch.allclose(model(**wan_inputs())[0], guided, atol=1e-6)
