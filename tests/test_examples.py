"""The examples run on the shipped models as the documentation shows them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, folder: Path) -> str:
    """Run an example in a folder and return its output."""
    command = [sys.executable, str(ROOT / "examples" / script)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def test_the_demo_prints_its_files_and_the_oracles_reading(tmp_path: Path) -> None:
    output = run("demo.py", tmp_path)
    for name in ("without-NAG", "with-NAG"):
        for suffix in (".mp4", ".png", ".json"):
            assert (tmp_path / "out" / name).with_suffix(suffix).is_file()
            assert f"out/{name}{suffix}" in output
    assert "without NAG: the oracle sees size large, colour red" in output
    assert "with NAG: the oracle sees size large, colour red" not in output


def test_the_pipeline_example_writes_a_guided_clip(tmp_path: Path) -> None:
    output = run("guide_a_pipeline.py", tmp_path)
    assert (tmp_path / "out" / "guided.mp4").is_file()
    assert output.startswith("step")


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_compiles_and_has_at_most_60_lines(script: str) -> None:
    source = (ROOT / "examples" / script).read_text()
    compile(source, script, "exec")
    assert len(source.splitlines()) <= 60
