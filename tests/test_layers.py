"""The layers: which package and sub-package may import which, that the build lists them, and that the links agree."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.source_files import PACKAGES, ROOT, files

# What each package may import of ours; "vidguide" is the core and its public names.
ALLOWED = {
    "vidguide": {"vidguide"},
    "adapters": {"vidguide", "adapters"},
    "eval": {"vidguide", "eval"},
    "pipelines": {"vidguide", "adapters", "pipelines", "eval"},
}
# Sub-packages from the lowest layer to the highest: each may import itself and those before it.
LAYERS = {
    "vidguide": [
        *("functional", "kernels", "tracing", "transformer", "attention", "calls", "edits", "guidances", "guiding"),
    ],
    "eval": ["pool", "clips", "encoders", "world", "metrics", "scoring", "preference", "report"],
    "pipelines": ["models", "request", "loading", "planning", "calibration", "sweep", "tuning", "web", "cli"],
}
HEAVY = ("diffusers", "transformers")  # load only when used: only pipelines may need them at import
MAX_FILES = 20


def imports(path: Path) -> list[str]:
    """Return the modules that a file imports anywhere, in functions and under `TYPE_CHECKING` too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else parts[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_allowed_packages(package: str) -> None:
    assert files(package)
    for path in files(package):
        if path == ROOT / "vidguide" / "__init__.py":
            continue  # public names, loaded when first used
        for module in imports(path):
            assert module.split(".")[0] not in PACKAGES, f"{path}: import it as vidguide.{module}"
            if module.split(".")[0] == "vidguide":
                assert package_of(module) in ALLOWED[package], f"{path} must not import {module}"


@pytest.mark.parametrize(("package", "layer"), [(p, layer) for p, layers in LAYERS.items() for layer in layers])
def test_layers_import_only_lower_ones(package: str, layer: str) -> None:
    layers, prefix = LAYERS[package], "vidguide." if package == "vidguide" else f"vidguide.{package}."
    allowed = set(layers[: layers.index(layer) + 1])
    assert files(f"{package}/{layer}")
    for path in files(f"{package}/{layer}"):
        for module in imports(path):
            part = module.removeprefix(prefix).split(".")[0] if module.startswith(prefix) else ""
            assert part not in set(layers) - allowed, f"{path.relative_to(ROOT)} must not import {module}"


def module_of(path: Path) -> str:
    """Return the dotted name of a file of a package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return name if parts[0] == "vidguide" else f"vidguide.{name}"


def test_there_is_no_import_cycle_in_all_packages_with_public_names_and_type_checking_included() -> None:
    paths = {module_of(path): path for package in ALLOWED for path in files(package)}
    graph = {module: set(imports(path)) & paths.keys() - {module} for module, path in paths.items()}
    assert "vidguide.pipelines.generate" in graph["vidguide"]  # under TYPE_CHECKING
    assert len(list(TopologicalSorter(graph).static_order())) == len(paths)  # raises CycleError


def test_the_core_has_no_imports_for_type_checking_but_for_its_public_names() -> None:
    users = [path for path in files("vidguide") if "TYPE_CHECKING" in path.read_text()]
    assert users == [ROOT / "vidguide" / "__init__.py"]


def test_every_folder_of_a_package_is_a_layer_and_none_has_too_many_files() -> None:
    for package, layers in LAYERS.items():
        parents = {path.parent.relative_to(ROOT / package).parts for path in files(package)}
        folders = {parts[0] for parts in parents if parts}
        assert folders == set(layers)
    for package in ALLOWED:
        for folder in {path.parent for path in files(package)}:
            assert len(list(folder.glob("*.py"))) <= MAX_FILES, folder


def test_evaluation_uses_only_public_names_of_the_core() -> None:
    for path in files("eval"):
        core = {m for m in imports(path) if m.split(".")[0] == "vidguide" and package_of(m) == "vidguide"}
        assert all(name in ("vidguide", "vidguide.Clip") or name.startswith("vidguide.clip") for name in core), path


@pytest.mark.parametrize("package", ["vidguide", "adapters", "eval"])
def test_heavy_packages_are_not_imported_by_these_packages(package: str) -> None:
    for path in files(package):
        tops = [
            alias
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        ]
        assert not {str(name).split(".")[0] for name in tops} & set(HEAVY), path


def test_importing_vidguide_and_its_help_import_no_heavy_package() -> None:
    """Imports are what the time to start consists of: torch, diffusers and transformers take seconds."""
    code = "import sys, vidguide; before = set(sys.modules); from vidguide.pipelines.cli.app import app\n"
    for command in ("", "generate", "sweep", "tune", "evaluate", "calibrate", "models"):
        code += f"app({[command, '--help'] if command else ['--help']}, standalone_mode=False)\n"
    code += "import json; print(json.dumps([sorted(before), sorted(sys.modules)]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    imported, with_help = json.loads(done.stdout.splitlines()[-1])
    slow = {"torch", "numpy", "scipy", "diffusers", "transformers", "peft", "accelerate", "cv2", "av", "PIL", "einops"}
    assert not slow & {name.split(".")[0] for name in with_help}
    assert {name for name in imported if name.startswith("vidguide.")} == {"vidguide.version"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_build_lists_every_package_and_the_links_agree(package: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = project.split("packages = [")[1].split("]")[0]
    assert f'"vidguide.{package}" = "{package}"' in project
    assert (ROOT / "vidguide" / package).resolve() == ROOT / package
    for folder in {path.parent for path in files(package)}:
        assert f'"vidguide.{".".join(folder.relative_to(ROOT).parts)}"' in listed, folder


def test_the_build_lists_every_folder_of_the_core() -> None:
    listed = (ROOT / "pyproject.toml").read_text().split("packages = [")[1].split("]")[0]
    for folder in {path.parent for path in files("vidguide")}:
        assert f'"{".".join(folder.relative_to(ROOT).parts)}"' in listed, folder


def test_tests_mirror_the_tree_and_share_only_helpers() -> None:
    sources = {"adapters", "benchmarks", "eval", "pipelines", "training", "web", "helpers", *LAYERS["vidguide"]}
    assert {
        path.relative_to(ROOT / "tests").parts[0] for path in files("tests") if path.parent != ROOT / "tests"
    } <= sources
    for path in files("tests"):
        for module in imports(path):
            assert not re.match(r"tests\.(?!helpers)|conftest|test_", module), f"{path} must not import {module}"
