"""Generate the tables of families in docs/models.md and CONTRIBUTING.md from the declarations.

    python benchmarks/families.py [--check]

Writes both tables between their markers; with `--check`, reports outdated tables and exits with 1. A test runs the
check.
"""

import argparse
import ast
import statistics
import sys
from pathlib import Path

from reporting import table

from vidguide.guiding.locate import listing
from vidguide.transformer.family import adapters, families

ROOT = Path(__file__).parents[1]
# Physical lines of the published implementations, counted in their repositories in 2026.
PUBLISHED = (
    ("NAG, Flux: pipeline, transformer, attention, normalization", "ChenDarYen/Normalized-Attention-Guidance", 878),
    ("NAG, HunyuanVideo: `hunyuan_video/model.py`", "ChenDarYen/ComfyUI-NAG", 759),
    ("NAG, Wan: `wan/model.py`", "ChenDarYen/ComfyUI-NAG", 720),
    ("NAG, Wan: `WanVideoNAG`", "kijai/ComfyUI-KJNodes", 176),
    ("STG, CogVideoX: `pipeline_stg_cogvideox.py`", "junhahyung/STGuidance", 865),
    ("STG, HunyuanVideo: `pipeline_stg_hunyuan_video.py`", "junhahyung/STGuidance", 790),
    ("STG, LTX-Video: `pipeline_stg_ltx.py`", "junhahyung/STGuidance", 873),
    ("STG, Mochi: `pipeline_stg_mochi.py`", "junhahyung/STGuidance", 827),
)


def declaration_lines() -> dict[str, int]:
    """Return the number of lines of each family's declaration: its `Family(...)` call and the statements of its file
    that the call refers to."""
    lines = {}
    for module in adapters():
        body = ast.parse(Path(str(module.__file__)).read_text()).body
        calls = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Call) and is_declaration(node)]
        for family in getattr(module, "FAMILIES", ()):
            call = next((node for node in calls if declared_name(node) == family.name), None)
            call = call or next(node for node in calls if declared_name(node) is None)
            lines[family.name] = sum(count_lines(node) for node in [call, *referenced_statements(call, body)])
    return lines


def is_declaration(node: ast.Call) -> bool:
    """Return whether a call declares a family."""
    return isinstance(node.func, ast.Name) and node.func.id == "Family"


def declared_name(node: ast.Call) -> object:
    """Return the family name in a declaration; None if it is set by a loop."""
    name = next(argument.value for argument in node.keywords if argument.arg == "name")
    return name.value if isinstance(name, ast.Constant) else None


def referenced_statements(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the functions and constants of a file that a declaration refers to, directly or indirectly."""
    references: list[ast.stmt] = []
    pending: list[ast.AST] = [node]
    while pending:
        names = {name.id for name in ast.walk(pending.pop()) if isinstance(name, ast.Name)}
        for statement in body:
            if (
                statement not in references
                and names & defined_names(statement)
                and "FAMILIES" not in defined_names(statement)
            ):
                references.append(statement)
                pending.append(statement)
    return references


def defined_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else ()
    return {target.id for target in targets if isinstance(target, ast.Name)}


def count_lines(node: ast.AST) -> int:
    """Return the number of physical lines of a node."""
    return (getattr(node, "end_lineno", 0) or 0) - getattr(node, "lineno", 0) + 1


def family_table() -> str:
    """Return the table of families, guidances and diffusers releases."""
    return table([{name: value for name, value in row.items() if name != "here"} for row in listing()])


def line_table() -> str:
    """Return the table of lines per family, here and in published implementations."""
    lines = declaration_lines()
    rows = [{"implementation": "vidguide, every guidance", "source": "`adapters/`", "lines a family": ""}]
    spread = f"{min(lines.values())} to {max(lines.values())}, median {statistics.median(lines.values()):.0f}"
    rows[0]["lines a family"] = f"{spread} ({len(lines)} families)"
    rows += [{"implementation": what, "source": source, "lines a family": str(n)} for what, source, n in PUBLISHED]
    return table(rows)


def replace_block(text: str, name: str, block: str) -> str:
    """Replace the text between the markers `<!-- name -->` and `<!-- /name -->`."""
    head, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"no markers <!-- {name} --> and <!-- /{name} -->")
    return f"{head}{begin}{block}{end}{tail}"


PAGES = {"docs/models.md": ("families", family_table), "CONTRIBUTING.md": ("lines", line_table)}


def outdated_pages() -> list[str]:
    """Return the pages whose tables do not match the declarations."""
    texts = {page: (ROOT / page).read_text() for page in PAGES}
    return [page for page, (name, make) in PAGES.items() if replace_block(texts[page], name, make()) != texts[page]]


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(f"outdated: {', '.join(outdated_pages())}" if outdated_pages() else 0)
    for page in outdated_pages():
        name, make = PAGES[page]
        (ROOT / page).write_text(replace_block((ROOT / page).read_text(), name, make()))
    print(f"{len(families())} transformers", declaration_lines())


if __name__ == "__main__":
    main()
