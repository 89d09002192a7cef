"""The Triton kernels against their equations in float64, in Triton's interpreter if there is no GPU.

New memory is filled with NaN, so that elements that a kernel does not write fail the comparison.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.helpers.plain_nag import plain_nag
from tests.helpers.sampling import ALWAYS, sample
from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import EMAG, NAG, guide
from vidguide.kernels import dispatch as kernels

fused = pytest.importorskip("vidguide.kernels.triton_launch", reason="the kernels need Triton: pip install triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STRENGTH = (4.0, 1.5, 0.5)
ATOL = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
SHAPES = [(2, 5, 3, 32), (1, 7, 2, 80), (1, 3, 5, 128), (1, 2, 1, 256)]


@pytest.fixture(autouse=True)
def _fill_memory_with_nan() -> Iterator[None]:
    """Fill new memory with NaN, as torch does in deterministic mode."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def features(shape: tuple[int, ...], dtype: torch.dtype, contiguous: bool = True) -> Tensor:
    """Return random features; not contiguous: heads before tokens in memory, and every second token."""
    batch, length, heads, width = shape
    if contiguous:
        return torch.randn(shape, device=DEVICE).to(dtype)
    return torch.randn(batch, heads, 2 * length, width, device=DEVICE).to(dtype).transpose(1, 2)[:, ::2]


def random_lse(shape: tuple[int, ...]) -> Tensor:
    """Return log-sum-exps `(B, L, H, 1)` in the layout of attention kernels: heads first, padded."""
    batch, length, heads, _ = shape
    return torch.randn(batch, heads, length + 3, device=DEVICE)[..., :length].transpose(1, 2).unsqueeze(-1)


def plain_merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Return the average of two attentions, weighted by the exponentials of their log-sum-exps, in float64."""
    a, b = first[1].double().exp(), second[1].double().exp()
    return (a * first[0].double() + b * second[0].double()) / (a + b)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("shape", SHAPES)
def test_nag_equals_the_papers_equation(shape: tuple[int, ...], dtype: torch.dtype, contiguous: bool) -> None:
    positive, negative = features(shape, dtype, contiguous), features(shape, dtype)
    output, statistics = fused.nag(positive, negative, STRENGTH)
    expected = plain_nag(positive.double(), negative.double(), *STRENGTH)
    torch.testing.assert_close(output.double(), expected, atol=ATOL[dtype], rtol=0)
    assert output.dtype == dtype
    norm, change = positive.double().abs().sum((2, 3)), (expected - positive).abs().sum((2, 3))
    torch.testing.assert_close(statistics[1:].double(), torch.stack([change.mean(), norm.mean()]), rtol=1e-3, atol=0)


def test_nag_returns_the_share_of_clamped_tokens() -> None:
    positive = features((1, 8, 2, 32), torch.float32)
    # Two tokens are extrapolated to seven times their norm, the others not at all.
    negative = torch.cat([positive[:, :6], -positive[:, 6:]], 1)
    assert fused.nag(positive, negative, STRENGTH)[1][0].item() == 0.25


@pytest.mark.parametrize("dtype", ATOL)
def test_zero_features_stay_zero_and_equal_features_are_returned_bitwise(dtype: torch.dtype) -> None:
    positive = features((1, 4, 3, 48), dtype)
    assert torch.equal(fused.nag(positive, positive.clone(), STRENGTH)[0], positive)
    zero = torch.zeros_like(positive)
    assert torch.equal(fused.nag(zero, zero, STRENGTH)[0], zero)
    assert torch.equal(fused.nag(zero, positive, STRENGTH)[0], zero)
    assert torch.isfinite(fused.nag(positive, zero, STRENGTH)[0]).all()


@pytest.mark.parametrize("group", [3, 6, 12])
def test_nag_with_norms_of_token_groups_equals_the_equation(group: int) -> None:
    positive, negative = (
        features((2, 6, 3, 32), torch.float32, contiguous=False),
        features((2, 6, 3, 32), torch.float32),
    )
    grouped = (-1, 1, group * 3, 32)  # one row per group
    expected = plain_nag(positive.reshape(grouped).double(), negative.reshape(grouped).double(), *STRENGTH)
    output, _ = fused.nag(positive, negative, STRENGTH, group)
    torch.testing.assert_close(output.double(), expected.reshape(output.shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("shape", SHAPES)
def test_nag_of_merged_attentions_equals_the_equation(
    shape: tuple[int, ...], dtype: torch.dtype, contiguous: bool
) -> None:
    parts = [(features(shape, dtype, contiguous), random_lse(shape)) for _ in range(3)]
    video, positive, negative = parts
    expected = plain_nag(plain_merge(video, positive), plain_merge(video, negative), *STRENGTH)
    output, _ = fused.nag_merged(video, positive, negative, STRENGTH)
    torch.testing.assert_close(output.double(), expected, atol=ATOL[dtype], rtol=0)


def test_a_fully_masked_text_has_no_weight() -> None:
    shape = (1, 3, 2, 32)
    video, positive = ((features(shape, torch.float32), random_lse(shape)) for _ in range(2))
    masked = torch.full(shape, torch.nan, device=DEVICE), torch.full((*shape[:3], 1), -torch.inf, device=DEVICE)
    expected = plain_nag(plain_merge(video, positive), video[0].double(), *STRENGTH)
    output, _ = fused.nag_merged(video, positive, masked, STRENGTH)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize(
    ("shape", "heads"), [*((shape, 2) for shape in SHAPES), ((2, 3, 41, 41), 1), ((1, 2, 2, 5000), 1)]
)
def test_average_and_distance_equal_the_equations(
    shape: tuple[int, ...], heads: int, dtype: torch.dtype, contiguous: bool
) -> None:
    average, live = features(shape, torch.float32), features(shape, dtype, contiguous)
    expected = 0.9 * average.double() + 0.1 * live.double()
    distance = fused.average(average, live, 0.9, heads)
    torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        distance.double(), (expected - live).abs().movedim(heads, 1).flatten(2).mean(2), atol=1e-6, rtol=1e-5
    )


def test_the_distance_is_deterministic() -> None:
    average, live = (features((1, 40, 4, 64), torch.float32) for _ in range(2))
    distances = [fused.average(average.clone(), live, 0.9, 2) for _ in range(3)]
    assert torch.equal(distances[0], distances[1])
    assert torch.equal(distances[0], distances[2])


@pytest.fixture
def launched_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Enable the kernels on every device; return the list of launched kernels."""
    launched: list[str] = []
    monkeypatch.setattr(kernels, "DEVICES", ("cpu", "cuda"))
    for name in ("nag", "nag_merged", "average"):
        monkeypatch.setattr(fused, name, record_launches(name, getattr(fused, name), launched))
    return launched


def record_launches(name: str, launch: Any, launched: list[str]) -> Any:
    """Return the function that launches a kernel, so that it also appends the kernel's name."""

    def record(*args: Any) -> Any:
        launched.append(name)
        return launch(*args)

    return record


def small_calls(steps: int) -> list[dict[str, Any]]:
    calls = [wan_inputs(1, seed=step) for step in range(steps)]
    return [{**call, "hidden_states": call["hidden_states"][..., :2, :4]} for call in calls]


def test_a_guided_model_equals_the_eager_formulas(launched_kernels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    guidances = NAG(negative_prompt_embeds=negative_text()), EMAG(decay=0.5, select=(1,), **ALWAYS)
    result, run = sample(tiny_wan(), small_calls(2), *guidances)
    assert {"nag", "average"} == set(launched_kernels)
    monkeypatch.setenv("VIDGUIDE_KERNELS", "eager")
    launched_kernels.clear()
    expected, eager_run = sample(tiny_wan(), small_calls(2), *guidances)
    assert not launched_kernels
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(result, expected, strict=True))
    for fast, eager in zip(run.trace, eager_run.trace, strict=True):
        assert (fast.step, fast.layer, fast.clamped) == (eager.step, eager.layer, eager.clamped)
        assert fast.change == pytest.approx(eager.change, rel=1e-4)


@pytest.mark.parametrize("norm", ["token", "frame"])
def test_a_guided_model_of_joint_attention_equals_the_eager_formulas(
    launched_kernels: list[str], monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    tiny = BY_NAME["HunyuanVideoTransformer3DModel"]
    nag, results = NAG(negative_prompt_embeds=tiny.negative(), norm=norm), []
    for choice in ("auto", "eager"):
        monkeypatch.setenv("VIDGUIDE_KERNELS", choice)
        model = tiny.make()
        with guide(model, nag):
            results.append(model(**tiny.inputs(1))[0])
        assert set(launched_kernels) == {"nag_merged"}
        launched = len(launched_kernels)
    assert len(launched_kernels) == launched == 4
    torch.testing.assert_close(*results, atol=1e-5, rtol=0)


def test_compiled_models_trace_the_eager_formulas(launched_kernels: list[str]) -> None:
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    inputs, nag, counter = (
        small_calls(1)[0],
        NAG(negative_prompt_embeds=negative_text()),
        CompileCounterWithBackend("eager"),
    )
    model = tiny_wan(num_layers=1)
    with guide(model, nag):
        guided = model(**inputs)[0]
    assert launched_kernels
    launched_kernels.clear()
    compiled: Any = torch.compile(model, fullgraph=True, backend=counter)
    with guide(compiled, nag):
        torch.testing.assert_close(compiled(**inputs)[0], guided, atol=1e-5, rtol=0)
    assert counter.frame_count == 1
    assert not launched_kernels


def test_unsupported_tensors_use_the_eager_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", (DEVICE,))
    tensor = features((1, 2, 3, 32), torch.float32)
    assert kernels.supports(tensor, tensor.half())
    assert not kernels.supports(tensor, tensor.double())
    assert not kernels.supports(tensor, tensor.clone().requires_grad_())
    monkeypatch.setattr(kernels, "DEVICES", ("cuda",))
    assert not kernels.supports(tensor.cpu())


def test_invalid_values_of_the_environment_variable_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGUIDE_KERNELS", "fast")
    message = "VIDGUIDE_KERNELS='fast': must be one of auto, eager"
    with pytest.raises(ValueError, match=message), guide(tiny_wan(), NAG(negative_prompt_embeds=negative_text())):
        pass
    with pytest.raises(ValueError, match=message):
        kernels.in_use()


def test_every_kernel_compiles_for_a_gpu() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.helpers.build_kernels"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    build = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
    assert build.returncode == 0, build.stderr
