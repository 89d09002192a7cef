"""The Triton kernels, in Triton's interpreter where there is no GPU: each against its equation in float64.

Outputs are poisoned: what a kernel leaves unwritten is NaN.
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
from tests.helpers.sampling import ALWAYS, sampled
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
def _poisoned() -> Iterator[None]:
    """Where torch must be deterministic, it fills new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def features(shape: tuple[int, ...], dtype: torch.dtype, contiguous: bool = True) -> Tensor:
    """Fresh ones; otherwise heads before tokens in memory, as attention kernels return them, and every second token."""
    batch, length, heads, width = shape
    if contiguous:
        return torch.randn(shape, device=DEVICE).to(dtype)
    return torch.randn(batch, heads, 2 * length, width, device=DEVICE).to(dtype).transpose(1, 2)[:, ::2]


def sums(shape: tuple[int, ...]) -> Tensor:
    """Log-sum-exps `(B, L, H, 1)`, laid out as attention kernels return them: heads first, and padded."""
    batch, length, heads, _ = shape
    return torch.randn(batch, heads, length + 3, device=DEVICE)[..., :length].transpose(1, 2).unsqueeze(-1)


def plain_merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """The average of two attentions, weighted by the sums of their exponentials, in float64."""
    one, two = first[1].double().exp(), second[1].double().exp()
    return (one * first[0].double() + two * second[0].double()) / (one + two)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("shape", SHAPES)
def test_nag_is_the_papers_equation(shape: tuple[int, ...], dtype: torch.dtype, contiguous: bool) -> None:
    positive, negative = features(shape, dtype, contiguous), features(shape, dtype)
    output, told = fused.nag(positive, negative, STRENGTH)
    expected = plain_nag(positive.double(), negative.double(), *STRENGTH)
    torch.testing.assert_close(output.double(), expected, atol=ATOL[dtype], rtol=0)
    assert output.dtype == dtype
    norm, change = positive.double().abs().sum((2, 3)), (expected - positive).abs().sum((2, 3))
    torch.testing.assert_close(told[1:].double(), torch.stack([change.mean(), norm.mean()]), rtol=1e-3, atol=0)


def test_the_share_that_tau_held_is_told() -> None:
    positive = features((1, 8, 2, 32), torch.float32)
    negative = torch.cat([positive[:, :6], -positive[:, 6:]], 1)  # two tokens grow sevenfold, the others not at all
    assert fused.nag(positive, negative, STRENGTH)[1][0].item() == 0.25


@pytest.mark.parametrize("dtype", ATOL)
def test_nothing_becomes_of_nothing_and_equal_features_stay_as_they_are(dtype: torch.dtype) -> None:
    positive = features((1, 4, 3, 48), dtype)
    assert torch.equal(fused.nag(positive, positive.clone(), STRENGTH)[0], positive)
    nothing = torch.zeros_like(positive)
    assert torch.equal(fused.nag(nothing, nothing, STRENGTH)[0], nothing)
    assert torch.equal(fused.nag(nothing, positive, STRENGTH)[0], nothing)
    assert torch.isfinite(fused.nag(positive, nothing, STRENGTH)[0]).all()


@pytest.mark.parametrize("group", [3, 6, 12])
def test_norms_of_groups_of_tokens(group: int) -> None:
    positive, negative = (
        features((2, 6, 3, 32), torch.float32, contiguous=False),
        features((2, 6, 3, 32), torch.float32),
    )
    whole = (-1, 1, group * 3, 32)  # a group as one token
    expected = plain_nag(positive.reshape(whole).double(), negative.reshape(whole).double(), *STRENGTH)
    output, _ = fused.nag(positive, negative, STRENGTH, group)
    torch.testing.assert_close(output.double(), expected.reshape(output.shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("shape", SHAPES)
def test_merged_attentions_are_combined(shape: tuple[int, ...], dtype: torch.dtype, contiguous: bool) -> None:
    parts = [(features(shape, dtype, contiguous), sums(shape)) for _ in range(3)]
    video, positive, negative = parts
    expected = plain_nag(plain_merge(video, positive), plain_merge(video, negative), *STRENGTH)
    output, _ = fused.nag_merged(video, positive, negative, STRENGTH)
    torch.testing.assert_close(output.double(), expected, atol=ATOL[dtype], rtol=0)


def test_a_text_that_is_masked_altogether_has_no_share() -> None:
    shape = (1, 3, 2, 32)
    video, positive = ((features(shape, torch.float32), sums(shape)) for _ in range(2))
    shut = torch.full(shape, torch.nan, device=DEVICE), torch.full((*shape[:3], 1), -torch.inf, device=DEVICE)
    expected = plain_nag(plain_merge(video, positive), video[0].double(), *STRENGTH)
    output, _ = fused.nag_merged(video, positive, shut, STRENGTH)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize(
    ("shape", "heads"), [*((shape, 2) for shape in SHAPES), ((2, 3, 41, 41), 1), ((1, 2, 2, 5000), 1)]
)
def test_the_average_and_its_distance(shape: tuple[int, ...], heads: int, dtype: torch.dtype, contiguous: bool) -> None:
    average, live = features(shape, torch.float32), features(shape, dtype, contiguous)
    expected = 0.9 * average.double() + 0.1 * live.double()
    distance = fused.average(average, live, 0.9, heads)
    torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        distance.double(), (expected - live).abs().movedim(heads, 0).flatten(1).mean(1), atol=1e-6, rtol=1e-5
    )


def test_the_distance_is_the_same_every_time() -> None:
    average, live = (features((1, 40, 4, 64), torch.float32) for _ in range(2))
    told = [fused.average(average.clone(), live, 0.9, 2) for _ in range(3)]
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], told[2])


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels on every device; which of them were launched."""
    launched: list[str] = []
    monkeypatch.setattr(kernels, "DEVICES", ("cpu", "cuda"))
    for name in ("nag", "nag_merged", "average"):
        monkeypatch.setattr(fused, name, recorded(name, getattr(fused, name), launched))
    return launched


def recorded(name: str, launch: Any, launched: list[str]) -> Any:
    """Return the function that launches a kernel, so that it also appends the kernel's name."""

    def record(*args: Any) -> Any:
        launched.append(name)
        return launch(*args)

    return record


def small_calls(steps: int) -> list[dict[str, Any]]:
    calls = [wan_inputs(1, seed=step) for step in range(steps)]
    return [{**call, "hidden_states": call["hidden_states"][..., :2, :4]} for call in calls]


def test_a_guided_model_comes_out_the_same(everywhere: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    guidances = NAG(negative_prompt_embeds=negative_text()), EMAG(decay=0.5, select=(1,), **ALWAYS)
    result, run = sampled(tiny_wan(), small_calls(2), *guidances)
    assert {"nag", "average"} == set(everywhere)
    monkeypatch.setenv("VIDGUIDE_KERNELS", "eager")
    everywhere.clear()
    expected, other = sampled(tiny_wan(), small_calls(2), *guidances)
    assert not everywhere
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(result, expected, strict=True))
    for one, two in zip(run.trace, other.trace, strict=True):
        assert (one.step, one.layer, one.clamped) == (two.step, two.layer, two.clamped)
        assert one.change == pytest.approx(two.change, rel=1e-4)


@pytest.mark.parametrize("norm", ["token", "frame"])
def test_a_guided_model_of_joint_attention_comes_out_the_same(
    everywhere: list[str], monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    tiny = BY_NAME["HunyuanVideoTransformer3DModel"]
    nag, results = NAG(negative_prompt_embeds=tiny.negative(), norm=norm), []
    for choice in ("auto", "eager"):
        monkeypatch.setenv("VIDGUIDE_KERNELS", choice)
        model = tiny.make()
        with guide(model, nag):
            results.append(model(**tiny.inputs(1))[0])
        assert set(everywhere) == {"nag_merged"}
        launched = len(everywhere)
    assert len(everywhere) == launched == 4
    torch.testing.assert_close(*results, atol=1e-5, rtol=0)


def test_compiled_the_eager_formulas_are_traced(everywhere: list[str]) -> None:
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
    assert everywhere
    everywhere.clear()
    compiled: Any = torch.compile(model, fullgraph=True, backend=counter)
    with guide(compiled, nag):
        torch.testing.assert_close(compiled(**inputs)[0], guided, atol=1e-5, rtol=0)
    assert counter.frame_count == 1
    assert not everywhere


def test_what_does_not_fit_is_left_to_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", (DEVICE,))
    tensor = features((1, 2, 3, 32), torch.float32)
    assert kernels.supports(tensor, tensor.half())
    assert not kernels.supports(tensor, tensor.double())
    assert not kernels.supports(tensor, tensor.clone().requires_grad_())
    monkeypatch.setattr(kernels, "DEVICES", ("cuda",))
    assert not kernels.supports(tensor.cpu())


def test_other_values_of_the_variable_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGUIDE_KERNELS", "fast")
    message = "VIDGUIDE_KERNELS='fast': must be one of auto, eager"
    with pytest.raises(ValueError, match=message), guide(tiny_wan(), NAG(negative_prompt_embeds=negative_text())):
        pass
    with pytest.raises(ValueError, match=message):
        kernels.in_use()


def test_they_can_be_built_for_a_gpu() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.helpers.build_kernels"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr
