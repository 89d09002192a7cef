"""Files of the project: workflows run make targets that exist, hooks use the same ruff, installed files are small."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidguide.pipelines.cli.doctor import OPTIONAL
from vidguide.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MIB = 1 << 20


def commands(workflow: Path) -> list[str]:
    """Return the commands of all steps of a workflow."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: str(path.stem))
def test_workflows_run_make_targets_that_exist(workflow: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command.split()[1] for command in commands(workflow) if command.startswith("make ")}
    assert named
    assert named <= targets
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        assert job["timeout-minutes"] <= 360


def test_the_matrix_has_both_ends_of_python_and_diffusers() -> None:
    matrix: dict[str, Any] = yaml.safe_load(WORKFLOWS[-1].read_text())["jobs"]["test"]["strategy"]["matrix"]
    classifiers = re.findall(r"Python :: (3\.\d+)", PROJECT)
    assert matrix["python"] == [classifiers[0], classifiers[-1]]
    assert f"diffusers=={re.findall(r'diffusers>=([0-9.]+)', PROJECT)[0]}.0" == matrix["diffusers"][0]
    assert yaml.safe_load(WORKFLOWS[-1].read_text())["jobs"]["wheel"]["strategy"]["matrix"]["python"] == classifiers


def test_hooks_use_the_ruff_of_the_lint_target() -> None:
    used = set(re.findall(r"ruff==[\d.]+", PROJECT))
    assert set(re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())) == used
    assert len(used) == 1


def extras() -> dict[str, str]:
    """Return the requirements of each extra as text."""
    section = PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return dict(re.findall(r"^(\w+) = (\[.*\])", section, flags=re.MULTILINE))


def test_all_has_every_extra_but_those_that_need_one_torch_and_those_of_developers() -> None:
    listed = re.findall(r"vidguide\[([\w,]+)\]", extras()["all"])[0].split(",")
    assert set(listed) == set(extras()) - {"all", "dev", "docs", "xformers", "triton"}


def test_errors_name_extras_that_exist() -> None:
    sources = [path for room in ("vidguide", "pipelines", "eval") for path in (ROOT / room).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"'vidguide\[(\w+)\]'", path.read_text())}
    assert {"eval", "lora", "decord"} <= named <= set(extras())
    assert set(OPTIONAL.values()) <= set(extras())


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == __version__


def test_the_citation_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert f'license = "{citation["license"]}"' in PROJECT


def installed_bytes() -> dict[str, int]:
    """Return the sizes of the files that are installed, by path."""
    files = [path for room in ("vidguide", "adapters", "pipelines", "eval") for path in (ROOT / room).rglob("*")]
    found = {path.resolve() for path in files if path.is_file() and path.suffix != ".pyc"}
    return {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in found}


def test_each_shipped_model_and_the_rest_of_the_package_are_small() -> None:
    sizes = installed_bytes()
    models = {"/".join(path.split("/")[:3]) for path in sizes if path.startswith("pipelines/weights/")}
    of_models = {model: sum(size for path, size in sizes.items() if path.startswith(f"{model}/")) for model in models}
    assert len(of_models) >= 2
    assert max(of_models.values()) <= 13 * MIB
    assert sum(sizes.values()) - sum(of_models.values()) <= 3.5 * MIB


@pytest.mark.slow
def test_the_wheel_is_no_larger_than_its_files_and_has_the_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"vidguide-{__version__}-py3-none-any.whl"
    assert 20 * MIB < wheel.stat().st_size <= sum(installed_bytes().values())
