"""plan(): its estimates against loaded weights, PyTorch's FLOP counter and the memory of the allocator."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from vidguide import NAG, STG, Setup, guide
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.planning.blueprint import build, bytes_of, components_of, read_blueprint
from vidguide.pipelines.planning.cards import CARDS, seconds
from vidguide.pipelines.planning.plan import Plan, plan

SIZES = {"small": dict(width=64, height=64, frames=13), "middle": dict(width=160, height=128, frames=21)}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load("tiny", device="cpu", dtype="float32", progress=False)


@pytest.fixture(scope="module", params=SIZES)
def planned(request: pytest.FixtureRequest) -> Plan:
    return plan("tiny", dtype="float32", guidance=(NAG(negative_prompt="red"), STG()), **SIZES[request.param])


def calls(pipe: Any, planned: Plan) -> dict[str, Callable[[], Any]]:
    """Return each phase on real tensors."""
    size = planned.size
    frames, side = (size.frames - 1) // 2 + 1, (size.height // 4, size.width // 4)
    ids, mask = torch.zeros(1, size.text, dtype=torch.long), torch.ones(1, size.text, dtype=torch.long)
    return {
        "text": lambda: pipe.text_encoder(ids, mask),
        "step": lambda: pipe.transformer(**denoiser_inputs(planned), return_dict=False),
        "decode": lambda: pipe.vae.decode(torch.randn(1, 8, frames, *side), return_dict=False),
    }


def denoiser_inputs(planned: Plan) -> dict[str, torch.Tensor]:
    size = planned.size
    shape = (1, 8, (size.frames - 1) // 2 + 1, size.height // 4, size.width // 4)
    text = torch.randn(1, size.text, 96)
    return {"hidden_states": torch.randn(shape), "encoder_hidden_states": text, "timestep": torch.tensor([500.0])}


def count_flops(call: Callable[[], Any]) -> int:
    """Return the FLOPs that PyTorch counts, with attention as matrix products, which it counts on the CPU."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak_memory(call: Callable[[], Any]) -> int:
    """Return the largest memory that a call allocates, in bytes, from the events of PyTorch's allocator."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


@pytest.mark.parametrize("phase", ["text", "step", "decode"])
def test_flops_are_those_of_the_counter(pipe: Any, planned: Plan, phase: str) -> None:
    expected = count_flops(calls(pipe, planned)[phase])
    assert next(each for each in planned.phases if each.name == phase).cost.flops == expected > 0


@pytest.mark.parametrize("phase", ["text", "step", "decode"])
def test_memory_is_within_15_percent_of_what_is_allocated(pipe: Any, planned: Plan, phase: str) -> None:
    call = calls(pipe, planned)[phase]
    call()  # what is allocated once
    allocated = peak_memory(call)
    estimate = next(each for each in planned.phases if each.name == phase).cost.peak
    assert estimate == pytest.approx(allocated, rel=0.15)


def test_guidances_add_what_the_counter_says(pipe: Any) -> None:
    planned = plan("tiny", dtype="float32", guidance=(NAG(negative_prompt="red"), STG()))
    inputs = denoiser_inputs(planned)
    plain = count_flops(lambda: pipe.transformer(**inputs))
    pipe.scheduler.set_timesteps(2)
    for guidance, row in zip((NAG(negative_prompt_embeds=torch.randn(1, 512, 96)), STG()), planned.guided, strict=True):
        with guide(pipe.transformer, guidance, scheduler=pipe.scheduler):
            first = count_flops(lambda: pipe.transformer(**inputs))
            pipe.scheduler.step(torch.zeros(1), pipe.scheduler.timesteps[0], torch.zeros(1))
            later = count_flops(lambda: pipe.transformer(**inputs))
        pipe.scheduler.set_timesteps(2)
        assert row.flops == pytest.approx(100 * (later - plain) / plain)
        assert row.once == pytest.approx(100 * (first - later) / plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_those_of_the_loaded_pipeline(dtype: str) -> None:
    blueprint, loaded = read_blueprint(MODELS["tiny"]), load("tiny", device="cpu", dtype=dtype, progress=False)
    for name in components_of(blueprint.index):
        with torch.device("meta"):
            module = build(blueprint, name, getattr(torch, dtype))
        assert bytes_of(module) == bytes_of(getattr(loaded, name)), name
        dtypes = {key: value.dtype for key, value in getattr(loaded, name).named_parameters()}
        assert {key: value.dtype for key, value in module.named_parameters()} == dtypes
