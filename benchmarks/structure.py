"""Count files, folders, import edges and function lengths of each package, as a Markdown table.

    python benchmarks/structure.py FOLDER

FOLDER is a checkout. An import edge is a pair of folders of which a file in one imports a module in the other. The
lines of a function are those of its source, with docstring and nested functions.
"""

import ast
import math
import statistics
import sys
from pathlib import Path

from vidguide.eval.report.markdown_table import markdown_table

PACKAGES = ("vidguide", "adapters", "pipelines", "eval", "tests", "benchmarks")


def files(root: Path, package: str) -> list[Path]:
    """Return the Python files of a package, without those behind links."""
    paths = (root / package).rglob("*.py")
    return sorted(path for path in paths if not any(parent.is_symlink() for parent in path.parents))


def module_folder(root: Path, module: str) -> Path | None:
    """Return the folder of a module of the checkout, None for other modules and for names in modules."""
    path = (root / module.replace(".", "/")).resolve()
    if path.with_suffix(".py").is_file():
        return path.parent
    return path if (path / "__init__.py").is_file() else None


def imported_folders(root: Path, path: Path) -> set[Path]:
    """Return the folders of the checkout from which a file imports modules."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {folder for module in modules if (folder := module_folder(root, module)) is not None}


def function_lines(path: Path) -> list[int]:
    """Return the number of lines of each function in a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes]


def row(root: Path, package: str) -> list[str]:
    """Return a package's row of the table."""
    paths = files(root, package)
    folders = {path.parent for path in paths}
    largest = max(sum(path.parent == folder for path in paths) for folder in folders)
    edges = {(path.parent, other) for path in paths for other in imported_folders(root, path) - {path.parent}}
    lines = sorted(count for path in paths for count in function_lines(path))
    p90 = lines[math.ceil(0.9 * len(lines)) - 1]  # nearest rank
    counts = len(paths), len(folders), largest, len(edges), len(lines), statistics.median(lines), p90, lines[-1]
    name = "`vidguide` (core)" if package == "vidguide" else f"`{package}`"
    return [name, *(f"{count:g}" for count in counts)]


HEADER = (
    *("package", "files", "folders", "files in the largest", "import edges between folders"),
    *("functions", "median lines", "p90", "max"),
)


def main() -> None:
    """Print the table of a checkout."""
    root = Path(sys.argv[1]).resolve()
    print(markdown_table(HEADER, [row(root, package) for package in PACKAGES]))


if __name__ == "__main__":
    main()
