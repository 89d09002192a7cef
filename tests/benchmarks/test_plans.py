"""docs/plans.md: a row for each preset whose configurations are stored, as benchmarks/plans.py writes it."""

from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    import plans

    return plans


def test_the_page_has_every_preset_with_configurations(plans: Any) -> None:
    page = plans.PAGE.read_text()
    assert page.startswith(plans.HEAD)
    assert [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")] == [
        f"| `{name}`" for name in plans.NAMES
    ]


@pytest.mark.slow
def test_the_row_of_a_preset_is_that_of_its_plan(plans: Any) -> None:
    cells = plans.row("wan2.1-1.3b-causvid", plans.plan("wan2.1-1.3b-causvid", device="cuda"))
    assert " | ".join(cells) in plans.PAGE.read_text()
