"""What the documents of this room promise is there."""

import re
from pathlib import Path

from vidguide.eval.cli import evaluate
from vidguide.eval.manifest import FIELDS
from vidguide.eval.metrics import METRICS, namespace

TEXT = (Path(__file__).parents[2] / "eval" / "README.md").read_text()


def test_flags_fields_and_names_in_the_readme_exist() -> None:
    flags = set(re.findall(r"evaluate [^\n]*", TEXT))
    named = {flag for line in flags for flag in re.findall(r"--([a-z]+)", line)} | {"fresh"}
    known = set(evaluate.__annotations__) | {"list"}
    assert named <= known, named - known
    example = re.search(r'\{"clip".*\}', TEXT)
    assert example
    assert set(re.findall(r'"(\w+)": ', example.group())) <= set(FIELDS)
    assert {namespace(name) for name in METRICS} <= set(re.findall(r"`(\w+)\.", TEXT))
