"""The rooms: who may lean on whom, that the build lists them all, and that the links show the installed shape."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("adapters", "pipelines", "eval")
# Modules of our own that each room may import; "vidguide" is the core and its public names.
ALLOWED = {
    "vidguide": {"vidguide"},
    "adapters": {"vidguide", "adapters"},
    "eval": {"vidguide", "eval"},
    "pipelines": {"vidguide", "adapters", "pipelines", "eval"},
}
HEAVY = ("diffusers", "transformers")  # load only when used: no room but pipelines needs them at import


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).glob("*.py"))


def runtime_imports(path: Path) -> list[str]:
    """Modules that a file imports, but for those that only type checkers see."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else parts[0]


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_lean_only_where_they_may(room: str) -> None:
    assert files(room)
    for path in files(room):
        for module in runtime_imports(path):
            assert module.split(".")[0] not in ROOMS, f"{path}: import it as vidguide.{module}"
            if module.split(".")[0] == "vidguide":
                assert room_of(module) in ALLOWED[room], f"{path} must not import {module}"


def test_evaluation_uses_only_public_names_of_the_core() -> None:
    for path in files("eval"):
        core = [m for m in runtime_imports(path) if m.split(".")[0] == "vidguide" and room_of(m) == "vidguide"]
        assert set(core) <= {"vidguide", "vidguide.clip"}, path


@pytest.mark.parametrize("room", ["vidguide", "adapters", "eval"])
def test_heavy_packages_are_not_imported_by_these_rooms(room: str) -> None:
    for path in files(room):
        tops = [
            alias
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        ]
        assert not {str(name).split(".")[0] for name in tops} & set(HEAVY), path


def test_importing_vidguide_is_quick() -> None:
    code = "import sys, vidguide; print(*(m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_build_lists_every_room_and_the_links_agree(room: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert f'"vidguide.{room}" = "{room}"' in project
    assert f'"vidguide.{room}"' in project.split("packages = [")[1].split("]")[0]
    assert (ROOT / "vidguide" / room).resolve() == ROOT / room
    assert not [path for path in (ROOT / room).rglob("__init__.py") if path.parent != ROOT / room], "keep rooms flat"
