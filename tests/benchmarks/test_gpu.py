"""benchmarks/gpu.py at toy sizes on a CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    import gpu

    monkeypatch.setattr("sys.argv", ["gpu.py", *arguments])
    gpu.main()


@pytest.mark.slow
def test_the_report_has_every_model_kernel_and_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {path: path.stat().st_mtime_ns for path in (SCRIPTS / "results").iterdir()}
    run(monkeypatch, "--tiny", "--device", "cpu", "--models", "LTX", "Hunyuan", "--output", str(tmp_path))
    assert results == {path: path.stat().st_mtime_ns for path in (SCRIPTS / "results").iterdir()}
    report = json.loads((tmp_path / "gpu_tiny.json").read_text())
    arms = {"unguided", "CFG", "NAG", "CFG + EMAG", "CFG + EMAG before its window"}
    assert [model["tokens"] for model in report["models"]] == [24, 24]
    for model in report["models"]:
        timed = {name for name, arm in model["arms"].items() if min(arm["ms"]) > 0}
        assert timed == arms | {"NAG as published", "CFG + EMAG as published"}
    assert {row["name"] for row in report["kernels"]} == {"NAG", "merge and NAG", "average and D"}
    assert all({"eager", "compiled"} <= set(row["ms"]) for row in report["kernels"])
    assert {row["source"] for row in report["sources"]} == {"aten CPU"}
    assert "as published" in (tmp_path / "gpu_tiny.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cpu"), "the real sizes need a GPU; add --tiny"),
        (("--device", "cpu", "--tiny", "--models", "sora"), "--models sora: none of Wan 2.1 1.3B"),
    ],
)
def test_invalid_arguments_exit_with_a_message(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, *arguments)
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def gpu_kernels() -> Any:
    pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")
    import gpu_kernels

    return gpu_kernels


@pytest.mark.parametrize("damage", [0.9, float("nan")])
def test_an_inexact_kernel_exits_with_a_message(
    damage: float, gpu_kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert len(gpu_kernels.check(device, [(1, 2, 2, 32)])) == 9

    def wrong(parts: Any, nag: Any = gpu_kernels.FUSED["NAG"]) -> Any:
        (output,) = nag(parts)
        output[0, -1, -1, -1] *= damage
        return [output]

    monkeypatch.setitem(gpu_kernels.FUSED, "NAG", wrong)
    with pytest.raises(SystemExit, match=r"NAG, 1x9x2x32, float32: off by"):
        gpu_kernels.check(device, [(1, 9, 2, 32)])
