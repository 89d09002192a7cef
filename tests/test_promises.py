"""Every test that docs/promises.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_named_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "promises.md").read_text())
    assert len(named) > 25
    for file, test in named:
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_every_promise_names_a_test() -> None:
    lines = (ROOT / "docs" / "promises.md").read_text().splitlines()
    promises = [line for line in lines if line.startswith("|") and not line.startswith(("| promise", "|---"))]
    assert [line for line in promises if "`tests/" not in line] == []
