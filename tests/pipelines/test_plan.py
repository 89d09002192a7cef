"""plan(): its estimates against loaded weights, PyTorch's FLOP counter and the memory of the allocator."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from tests.helpers.small_checkpoints import cogvideox_image_folder, ltx_folder, wan_image_folder
from vidguide import NAG, STG, S2Guidance, Setup, generate, guide
from vidguide.edits import nag_combine
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.planning.blueprint import build, bytes_of, components_of, read_blueprint
from vidguide.pipelines.planning.cards import CARDS, seconds
from vidguide.pipelines.planning.counters import Counter, fake
from vidguide.pipelines.planning.plan import Plan, plan
from vidguide.pipelines.planning.repeats import Repeats

SIZES: dict[str, dict[str, Any]] = {
    "small": dict(width=64, height=64, frames=13),
    "middle": dict(width=160, height=128, frames=21),
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load("tiny", device="cpu", dtype="float32", progress=False)


@pytest.fixture(scope="module", params=["small", pytest.param("middle", marks=pytest.mark.slow)])
def planned(request: pytest.FixtureRequest) -> Plan:
    return plan("tiny", dtype="float32", **SIZES[request.param])


def calls(pipe: Any, planned: Plan) -> dict[str, Callable[[], Any]]:
    """Return each phase on real tensors."""
    size = planned.size
    frames, side = (size.frames - 1) // 2 + 1, (size.height // 4, size.width // 4)
    ids, mask = torch.zeros(1, planned.text, dtype=torch.long), torch.ones(1, planned.text, dtype=torch.long)
    return {
        "text": lambda: pipe.text_encoder(ids, mask),
        "step": lambda: pipe.transformer(**denoiser_inputs(planned), return_dict=False),
        "decode": lambda: pipe.vae.decode(torch.randn(1, 8, frames, *side), return_dict=False),
    }


def denoiser_inputs(planned: Plan) -> dict[str, torch.Tensor]:
    size = planned.size
    shape = (1, 8, (size.frames - 1) // 2 + 1, size.height // 4, size.width // 4)
    text = torch.randn(1, planned.text, 96)
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
    estimate = next(each for each in planned.phases if each.name == phase).intermediate
    assert estimate == pytest.approx(allocated, rel=0.15)


def test_convolutions_on_the_cpu_unfold_their_input(pipe: Any) -> None:
    """The allocator has the columns of `slow_conv3d` in addition, which is why a decode takes twice its tensors."""
    for layer in (torch.nn.Conv3d(4, 6, 3), torch.nn.Conv3d(4, 6, (3, 1, 1), stride=2, padding=1)):
        image = torch.randn(1, 4, 5, 9, 8)
        layer(image)
        with torch.no_grad(), Counter(columns=True) as counter:
            layer(image)
        assert counter.cost.peak == peak_memory(lambda layer=layer, image=image: layer(image))  # type: ignore[misc]


@pytest.mark.parametrize("tiling", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_repeated_calls_are_counted_as_if_they_were_run(tiling: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = dict(dtype="float32", width=32, height=32, frames=9, setup=Setup(vae_tiling=tiling))
    counted = plan("tiny", **small)
    monkeypatch.setattr(Repeats, "within", lambda *arguments: contextlib.nullcontext())
    for phase, expected in zip(counted.phases, plan("tiny", **small).phases, strict=True):
        assert (phase.cost.flops, phase.cost.moved) == (expected.cost.flops, expected.cost.moved)
        assert phase.intermediate == pytest.approx(expected.intermediate, rel=1e-3)


def test_equal_calls_of_a_function_in_chunks_are_counted_as_if_they_were_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of which one is run: figures are those of two runs, and the results have the same layout."""
    costs, runs = [], []
    combine: Any = nag_combine  # in which the function is replaced
    original = combine.nag_in_chunks

    def observed(*arguments: Any) -> Any:
        runs.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(nag_combine, "nag_in_chunks", observed)
    for once in (True, False):
        with fake(1), Counter() as counter:
            features = [torch.empty(1, 64, 4, 8, dtype=torch.bfloat16) for _ in range(2)]
            repeats = Repeats(counter)
            with repeats.of_function(nag_combine, "nag_in_chunks") if once else contextlib.nullcontext():
                for _ in range(2):
                    result = combine.nag_in_chunks(*features, (4.0, 2.5, 0.5), 128)
                    assert result.clamped.shape == ()
            costs.append((counter.cost, result.output.shape, result.output.dtype, result.factor.shape))
        assert len(runs) == (1 if once else 3)
    assert costs[0] == costs[1]


FAMILIES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "LTX": (ltx_folder, {"frames": 9}),
    "LTX condition": (lambda path: ltx_folder(path, "LTXConditionPipeline"), {"frames": 9}),
    "Wan from an image": (lambda path: wan_image_folder(path, encoder=True), {"frames": 5}),
    "CogVideoX from an image": (cogvideox_image_folder, {"frames": 9, "max_sequence_length": 16}),
}


@pytest.mark.sampled(len(FAMILIES))
@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_of_other_families_are_planned_by_their_own_code(family: str, tmp_path: Path) -> None:
    """FLOPs of a step and of the decode are those of a clip on real tensors."""
    write, size = FAMILIES[family]
    folder = write(tmp_path / "model")
    size = {**size, "height": 32, "width": 32, "steps": 2}
    planned = plan(folder, dtype="float32", device="cpu", **size)
    image = Image.new("RGB", (32, 32)) if planned.size.image else None
    loaded = load(folder, device="cpu", dtype="float32", image=image is not None, progress=False)
    expected = {"step": 0, "decode": 0}
    for name, module in (("step", loaded.transformer), ("decode", loaded.vae.decoder)):
        module.forward = counted(module.forward, expected, name)
    generate("a circle", pipe=loaded, image=image, guidance_scale=1.0, progress=False, **size)
    flops = {phase.name: phase.cost.flops for phase in planned.phases}
    assert flops["step"] == expected["step"] / 2 > 0
    assert flops["decode"] == pytest.approx(expected["decode"], rel=0.05)  # convolutions around the decoder


def counted(forward: Callable[..., Any], flops: dict[str, int], name: str) -> Callable[..., Any]:
    """Return a forward that adds its FLOPs to those of a name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = forward(*args, **kwargs)
        flops[name] += counter.get_total_flops()
        return result

    return call


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_those_of_the_loaded_pipeline(dtype: str) -> None:
    blueprint, loaded = read_blueprint(MODELS["tiny"]), load("tiny", device="cpu", dtype=dtype, progress=False)
    for name in components_of(blueprint.index):
        with torch.device("meta"):
            module = build(blueprint, name, getattr(torch, dtype))
        assert bytes_of(module) == bytes_of(getattr(loaded, name)), name
        dtypes = {key: value.dtype for key, value in getattr(loaded, name).named_parameters()}
        assert {key: value.dtype for key, value in module.named_parameters()} == dtypes


@pytest.mark.slow
def test_command_prints_the_plan() -> None:
    small = ["--size", "32x32", "--frames", "5", "-g", "stg"]
    result = CliRunner().invoke(app, ["plan", "--card", "rtx4090", "--json", *small])
    values = json.loads(result.output)
    assert values["tokens"] == 3 * 2 * 2
    assert values["fits"] is True
    assert values["peak"] == max(phase["peak"] for phase in values["phases"])
    assert values["guided"][0]["name"] == "STG"
    assert values["guided"][0]["flops"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(card="rtx1"), "card='rtx1'"),
        (dict(dtype="int4"), "dtype='int4'"),
        (dict(width=60), "width=60: must be a multiple of 16"),
        (dict(frames=12), "frames=12: must be 1"),
        (dict(setup=Setup(gguf="./a.gguf")), "gguf"),
        (dict(guidance=[S2Guidance()]), "S2Guidance: cannot be planned"),
        (dict(model="ltx-0.9.6-2b-distilled"), "cannot be planned"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**arguments)


@pytest.mark.slow
def test_planning_leaves_no_fake_tensor_behind(pipe: Any) -> None:
    small: dict[str, Any] = dict(width=32, height=32, frames=5)
    planned = plan("tiny", dtype="float32", guidance=(NAG(negative_prompt="red"),), **small)
    guidance = NAG(negative_prompt_embeds=torch.randn(1, 512, 96))
    with torch.no_grad(), guide(pipe.transformer, guidance, scheduler=pipe.scheduler):
        output = pipe.transformer(**denoiser_inputs(planned), return_dict=False)[0]
    assert type(output) is torch.Tensor
    assert bool(output.isfinite().all())


@pytest.mark.slow
def test_configurations_of_presets_have_the_published_numbers_of_parameters() -> None:
    published = {"wan2.1-1.3b-causvid": 1.42, "wan2.1-14b-lightx2v": 14.3, "fastwan2.2-5b": 5.0}  # of the model cards
    for name, billions in published.items():
        with torch.device("meta"):
            module = build(read_blueprint(MODELS[name]), "transformer", torch.bfloat16)
        assert sum(each.numel() for each in module.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_time_is_that_of_the_slower_of_arithmetic_and_memory_and_of_the_copies() -> None:
    card = CARDS["a100-80gb"]
    assert seconds(card, 0.4 * 312e12, 1) == pytest.approx(1)
    assert seconds(card, 1, 0.7 * 2039e9) == pytest.approx(1)
    assert seconds(card, 0.4 * 312e12, 1, copied=0.7 * 32e9) == pytest.approx(2)
    assert seconds(card, 0.4 * 312e12, 1, copied=0.7 * 32e9, overlapped=True) == pytest.approx(1)
