"""Names in the code are nouns for what things are or verbs for what functions do: docs/glossary.md."""

import ast
from collections.abc import Iterator

import pytest

from tests.helpers.source_files import PACKAGES, ROOT, files

# Words that are no name of a thing or an action: participles without a noun, prepositions, pronouns, and metaphors.
REFUSED = {
    *("told", "found", "kept", "asked", "bought", "stood", "stands", "seen", "got", "gone", "having"),
    *("beside", "aside", "instead", "since", "here", "there"),
    *("own", "ours", "theirs", "mine"),
    *("house", "room", "seam", "listen", "listener", "watcher", "whiteboard"),
    *("ragged", "weak", "wide", "tell", "tells"),
}
EXCEPTIONS: set[tuple[str, str]] = set()  # file and name


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module defines: functions, classes, arguments, and assigned variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name


def words(name: str) -> set[str]:
    """Return the words of a name in snake_case or CamelCase, in lower case."""
    separated = "".join(f"_{c}" if c.isupper() and not name.isupper() else c for c in name)
    return set(separated.lower().split("_"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("_own_vector", {"", "own", "vector"}), ("TextStream", {"", "text", "stream"}), ("MOST_FILES", {"most", "files"})],
)
def test_names_are_split_into_words(name: str, expected: set[str]) -> None:
    assert words(name) == expected


def test_all_kinds_of_names_are_checked() -> None:
    code = "class A:\n def b(self, c):\n  self.d = e = [f for f in c]\n  import g as h\n  for i, *j in c: pass\n"
    assert set(names(ast.parse(code))) == {"A", "b", "self", "c", "d", "e", "f", "h", "i", "j"}


@pytest.mark.parametrize("package", ["vidguide", *PACKAGES])
def test_names_have_no_word_that_names_neither_a_thing_nor_an_action(package: str) -> None:
    for path in files(package):
        file = path.relative_to(ROOT).as_posix()
        bad = {name for name in names(ast.parse(path.read_text())) if words(name) & REFUSED}
        assert not {name for name in bad if (file, name) not in EXCEPTIONS}, f"{file}: see docs/glossary.md"
