"""The examples run on the shipped models as the documentation shows them."""

import json
import re
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
        ("lora_and_quantization.py", "out/small.mp4 4 steps, {'layerwise_casting': 'float8_e4m3fn'}"),
        ("new_family.py", "blocks.3.attn2 text spatiotemporal\nstep"),
        ("negative_of_the_call.py", "NAG: off, as the call has no negative_prompt"),
        ("tune.py", "vidguide generate PROMPT -m tiny-4step -n NEGATIVE -g nag:tau="),
        ("server.py", "out/request-1.mp4: {'steps': 4"),
    ],
)
def test_further_examples_print_what_they_did(script: str, printed: str, tmp_path: Path) -> None:
    assert printed in run(script, tmp_path)


DISPLAY = """
import sys, types
display = types.ModuleType("IPython.display")
display.Image = lambda path: print("image", path)
display.display = lambda *shown: print(*(type(value).__name__ for value in shown))
sys.modules["IPython"], sys.modules["IPython.display"] = types.ModuleType("IPython"), display
"""


def notebook_cells() -> list[str]:
    """Return the code cells of the notebook, without commands of the notebook itself."""
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if not source.startswith("%")]


def test_the_notebook_has_no_outputs_and_its_cells_compile() -> None:
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    for source in notebook_cells():
        compile(source, "notebook", "exec")


@pytest.mark.slow
def test_the_notebooks_cells_run_in_order(tmp_path: Path) -> None:
    script = "\n".join([DISPLAY, *notebook_cells()])
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=280).stdout
    assert "image without.gif" in output
    assert "\nPicture\n" in output
    shares = [int(share) for share in re.findall(r"(\d+)% show", output)]
    assert shares[0] > shares[1]


def test_the_gallery_lists_every_example_and_each_is_run() -> None:
    names = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert len([name for name in names if name.endswith(".py")]) <= 10
    gallery, tests = (ROOT / "docs" / "examples.md").read_text(), Path(__file__).read_text()
    assert all(f"(../examples/{name})" in gallery for name in names)
    assert all(f'"{name}"' in tests for name in names if name.endswith(".py"))


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_compiles_and_has_at_most_60_lines(script: str) -> None:
    source = (ROOT / "examples" / script).read_text()
    compile(source, script, "exec")
    assert len(source.splitlines()) <= 60
