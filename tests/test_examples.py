"""The examples run on the shipped models as the documentation shows them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, folder: Path) -> str:
    """Run an example in a folder and return its output."""
    command = [sys.executable, str(ROOT / "examples" / script)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, timeout=280).stdout


def test_the_demo_prints_its_files_and_the_oracles_reading(tmp_path: Path) -> None:
    output = run("demo.py", tmp_path)
    for name in ("without-NAG", "with-NAG"):
        for suffix in (".mp4", ".png", ".json"):
            assert (tmp_path / "out" / name).with_suffix(suffix).is_file()
            assert f"out/{name}{suffix}" in output
    assert "without NAG: the oracle sees size large, colour red" in output
    assert "with NAG: the oracle sees size large, colour red" not in output


@pytest.mark.slow
def test_the_pipeline_example_writes_a_guided_clip(tmp_path: Path) -> None:
    output = run("guide_a_pipeline.py", tmp_path)
    assert (tmp_path / "out" / "guided.mp4").is_file()
    assert output.startswith("step")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("custom_guidance.py", "out/uniform-0.5.mp4 {'weak_passes': 10"),
        ("evaluate_folders.py", "nag against none"),
        ("few_steps.py", "out/few-steps.mp4\n{'steps': 4"),
        ("lora.py", "LoRA at 0.5\nstep"),
        ("negative_of_the_call.py", "NAG: off, as the call has no negative_prompt"),
        ("tune.py", "vidguide generate PROMPT -m tiny-4step -n NEGATIVE -g nag:tau="),
        ("server.py", "out/request-1.mp4: {'steps': 4"),
    ],
)
def test_further_examples_print_what_they_did(script: str, printed: str, tmp_path: Path) -> None:
    assert printed in run(script, tmp_path)


def test_the_gallery_lists_every_example_and_each_is_run() -> None:
    names = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert len(names) <= 10
    gallery, tests = (ROOT / "docs" / "examples.md").read_text(), Path(__file__).read_text()
    assert all(f"(../examples/{name})" in gallery for name in names)
    assert all(f'"{name}"' in tests for name in names if name.endswith(".py"))


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_compiles_and_has_at_most_60_lines(script: str) -> None:
    source = (ROOT / "examples" / script).read_text()
    compile(source, script, "exec")
    assert len(source.splitlines()) <= 60
