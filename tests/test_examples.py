"""The examples run as the README shows them, on what the repository ships."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, folder: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / script)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def test_the_demo_names_the_files_it_made_and_what_the_oracle_saw(tmp_path: Path) -> None:
    told = run("demo.py", tmp_path)
    for name in ("without-NAG", "with-NAG"):
        for suffix in (".mp4", ".png", ".json"):
            assert (tmp_path / "out" / name).with_suffix(suffix).is_file()
            assert f"out/{name}{suffix}" in told
    assert "without NAG: the oracle sees size large, colour red" in told
    assert "with NAG: the oracle sees size large, colour red" not in told


def test_guiding_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    told = run("guide_a_pipeline.py", tmp_path)
    assert (tmp_path / "out" / "guided.mp4").is_file()
    assert told.startswith("step")


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_is_at_least_valid_and_mentioned_or_tested(script: str) -> None:
    source = (ROOT / "examples" / script).read_text()
    compile(source, script, "exec")
    assert len(source.splitlines()) <= 60
