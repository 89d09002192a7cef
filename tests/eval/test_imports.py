"""Modules of eval/ import each other without cycles, imports in functions and under TYPE_CHECKING included."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("vidguide", *parts)).removesuffix(".__init__")


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_eval_has_no_import_cycle() -> None:
    paths = {module_name(path): path for path in (ROOT / "eval").rglob("*.py")}
    packages = {module_name(path) for path in paths.values() if path.name == "__init__.py"}
    graph = {name: (set(imported_names(path)) & set(paths)) - packages - {name} for name, path in paths.items()}
    assert sum(map(len, graph.values())) > len(graph)
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)
