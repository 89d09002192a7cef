"""README and docs: short enough, links lead to files, commands parse, and code imports what exists or runs."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from vidguide.pipelines.cli.app import app

ROOT = Path(__file__).parents[1]
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
PAGES = [ROOT / name for name in LISTED.splitlines()]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PLACEHOLDERS = {"MODEL", "COMMAND", "FILE"}


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return [code for kind, code in FENCE.findall(page.read_text()) if kind == language]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 1200


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", FENCE.sub("", page.read_text())):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{named(page)}: {target}"
        assert not anchor or anchor in anchors(path), f"{named(page)}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_python_in_pages_parses_and_imports_what_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{named(page)}: {node.module} has no {missing}"


def commands(page: Path) -> list[list[str]]:
    """Return the words of the `vidguide` commands in a page's shell blocks and in its text."""
    text = page.read_text()
    lines = [line.strip() for code in blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    lines += [code for code in re.findall(r"`(vidguide [^`]*)`", FENCE.sub("", text)) if "..." not in code]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("vidguide ")]
    return [command[1:] for command in words if not set(command) & PLACEHOLDERS]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_commands_in_pages_parse(page: Path) -> None:
    root: Any = typer.main.get_command(app)
    for words in commands(page):
        if words[0].startswith("--"):
            assert words[0] in {name for parameter in root.params for name in parameter.opts} | {
                "--install-completion",
                "--show-completion",
            }
            continue
        command, *rest = words
        assert command in root.commands, f"{named(page)}: vidguide {command}"
        if rest:
            root.commands[command].make_context(command, rest, resilient_parsing=rest[0].startswith("-"))


def assert_similar(actual: str, expected: str) -> None:
    """Compare two texts: words are equal, and numbers differ by at most 0.05, percentages by 5."""
    number = re.compile(r"\d+\.\d+|\d+(?=%)")
    assert number.sub("N", actual).split() == number.sub("N", expected).split()
    for a, b in zip(number.findall(actual), number.findall(expected), strict=True):
        assert abs(float(a) - float(b)) <= (0.05 if "." in a else 5), (a, b)


@pytest.mark.slow
def test_the_page_on_negative_prompts_prints_what_it_says() -> None:
    pieces = FENCE.findall((ROOT / "docs" / "no_effect.md").read_text())
    namespace: dict[str, Any] = {}
    for (kind, code), (following, output) in zip(pieces, [*pieces[1:], ("", "")], strict=True):
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "docs/no_effect.md", "exec"), namespace)
            assert_similar(printed.getvalue(), output if following == "text" else "")
    assert len(pieces) == 15


def test_texts_are_compared_by_words_and_numbers() -> None:
    assert_similar("step 85%  0.45\n", "step 83% 0.43")
    for other in ("step 60% 0.45", "step 85% 0.30", "row 85% 0.45"):
        with pytest.raises(AssertionError):
            assert_similar("step 85% 0.45", other)
