"""The tables of families in README.md and of their lines in CONTRIBUTING.md, made from the declarations.

    python benchmarks/families.py [--check]

Writes both between their markers; with `--check`, only says whether they are up to date. The tests hold that too.
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
    """Lines of each family's declaration: its `Family(...)`, and what its file defines that it refers to."""
    found = {}
    for module in adapters():
        body = ast.parse(Path(str(module.__file__)).read_text()).body
        calls = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Call) and called(node)]
        for family in getattr(module, "FAMILIES", ()):
            call = next((one for one in calls if named(one) == family.name), None)
            call = call or next(one for one in calls if named(one) is None)
            found[family.name] = sum(length(node) for node in [call, *referred(call, body)])
    return found


def called(node: ast.Call) -> bool:
    """Whether a call declares a family."""
    return isinstance(node.func, ast.Name) and node.func.id == "Family"


def named(node: ast.Call) -> object:
    """The family's name that a declaration says; None in a loop over several."""
    name = next(argument.value for argument in node.keywords if argument.arg == "name")
    return name.value if isinstance(name, ast.Constant) else None


def referred(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    """Functions and constants of a file that a declaration refers to, directly or through others."""
    seen: list[ast.stmt] = []
    left: list[ast.AST] = [node]
    while left:
        names = {name.id for name in ast.walk(left.pop()) if isinstance(name, ast.Name)}
        for statement in body:
            if statement not in seen and names & defined(statement) and "FAMILIES" not in defined(statement):
                seen.append(statement)
                left.append(statement)
    return seen


def defined(statement: ast.stmt) -> set[str]:
    """Names that a statement of a file defines."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else ()
    return {target.id for target in targets if isinstance(target, ast.Name)}


def length(node: ast.AST) -> int:
    """Physical lines of a piece of source."""
    return (getattr(node, "end_lineno", 0) or 0) - getattr(node, "lineno", 0) + 1


def family_table() -> str:
    """Families, guidances, and the releases of diffusers that have them."""
    return table([{name: value for name, value in row.items() if name != "here"} for row in listing()])


def line_table() -> str:
    """Lines per family here, beside those of the published implementations."""
    lines = declaration_lines()
    rows = [{"implementation": "vidguide, every guidance", "source": "`adapters/`", "lines a family": ""}]
    spread = f"{min(lines.values())} to {max(lines.values())}, median {statistics.median(lines.values()):.0f}"
    rows[0]["lines a family"] = f"{spread} ({len(lines)} families)"
    rows += [{"implementation": what, "source": source, "lines a family": str(n)} for what, source, n in PUBLISHED]
    return table(rows)


def with_block(text: str, name: str, block: str) -> str:
    """A page with what stands between its markers `<!-- name -->` and `<!-- /name -->` replaced."""
    head, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"no markers <!-- {name} --> and <!-- /{name} -->")
    return f"{head}{begin}{block}{end}{tail}"


PAGES = {"README.md": ("families", family_table), "CONTRIBUTING.md": ("lines", line_table)}


def outdated() -> list[str]:
    """The pages whose tables are not as the declarations say."""
    texts = {page: (ROOT / page).read_text() for page in PAGES}
    return [page for page, (name, make) in PAGES.items() if with_block(texts[page], name, make()) != texts[page]]


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(f"outdated: {', '.join(outdated())}" if outdated() else 0)
    for page in outdated():
        name, make = PAGES[page]
        (ROOT / page).write_text(with_block((ROOT / page).read_text(), name, make()))
    print(f"{len(families())} transformers", declaration_lines())


if __name__ == "__main__":
    main()
