"""What the documents of this room promise is there."""

import re
from pathlib import Path

from vidguide.eval.cli import app, compare, run
from vidguide.eval.clips.manifest import FIELDS
from vidguide.eval.metrics.registry import METRICS, namespace

TEXT = (Path(__file__).parents[2] / "eval" / "README.md").read_text()


def test_flags_fields_and_names_in_the_readme_exist() -> None:
    lines = re.findall(r"vidguide evaluate ([^\n]*)", TEXT)
    named = {flag for line in lines for flag in re.findall(r"--([a-z]+)", line)} | {"fresh"}
    known = set(run.__annotations__) | set(compare.__annotations__) | {"exported"}
    assert named <= known, named - known
    functions = {command.callback.__name__ for command in app.registered_commands if command.callback}
    commands = {name.replace("_", "-").replace("listed", "list") for name in functions}
    assert commands <= set(" ".join(lines).split()) | {"run"}
    example = re.search(r'\{"clip".*\}', TEXT)
    assert example
    assert set(re.findall(r'"(\w+)": ', example.group())) <= set(FIELDS)
    assert {namespace(name) for name in METRICS} <= set(re.findall(r"`(\w+)\.", TEXT))
