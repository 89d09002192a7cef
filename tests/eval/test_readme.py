"""The commands, options, fields and metrics that eval/README.md names exist."""

import re
from pathlib import Path

from vidguide.eval.cli import app, compare, run
from vidguide.eval.metrics.registry import METRICS, namespace
from vidguide.eval.schemas import ManifestEntry

TEXT = (Path(__file__).parents[2] / "eval" / "README.md").read_text()


def test_readme_names_only_existing_options_fields_and_metrics() -> None:
    lines = re.findall(r"vidguide evaluate ([^\n]*)", TEXT)
    named = {flag for line in lines for flag in re.findall(r"--([a-z]+)", line)} | {"fresh"}
    known = set(run.__annotations__) | set(compare.__annotations__) | {"exported"}
    assert named <= known, named - known
    functions = {command.callback.__name__ for command in app.registered_commands if command.callback}
    commands = {name.replace("_", "-").replace("list-metrics", "list") for name in functions}
    assert commands <= set(" ".join(lines).split()) | {"run"}
    example = re.search(r'\{"clip".*\}', TEXT)
    assert example
    assert set(re.findall(r'"(\w+)": ', example.group())) <= set(ManifestEntry.model_fields)
    assert {namespace(name) for name in METRICS} <= set(re.findall(r"`(\w+)\.", TEXT))
