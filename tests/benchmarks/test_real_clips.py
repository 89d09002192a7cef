"""Outcomes of manipulations by benchmarks/real_clips.py, on clips made here."""

from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import known_clips

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import real_clips

    monkeypatch.setattr(real_clips, "MANIPULATIONS", ("noise, sigma 16", "frozen"))
    monkeypatch.setattr(real_clips, "MAX_SIDE", 64)
    return real_clips


def test_outcomes_name_the_violated_guards_and_are_compared_by_size(script: ModuleType) -> None:
    clips = {
        name: known_clips.noisy(4, known_clips.translation(side=side)) for name, side in (("small", 64), ("large", 96))
    }
    rows = script.measure(clips)
    assert [(row["clip"], row["size"]) for row in rows] == [("small", "bounded")] * 3 + [
        ("large", "bounded"),
        ("large", "full"),
    ] * 3
    cells = script.outcomes(rows, "bounded", set(clips))
    assert script.kind(cells["noise, sigma 16"]["temporal.warp_error"]) == "worse"
    assert "less motion" in cells["frozen"]["temporal.warp_error"]
    text, sizes = script.agreement(rows)
    assert sizes["clips"] == ["large"]
    assert f"of {2 * len(script.attacks.TEMPORAL)} outcomes agree" in text
    assert "less motion" in script.kind(sizes["full"]["frozen"]["temporal.warp_error"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [("-0.20", "worse"), ("+0.04", "same"), ("-0.04", "same"), ("undefined", "undefined"), ("+0.30: less x", "less x")],
)
def test_kind_of_an_outcome_has_no_number(script: ModuleType, text: str, kind: str) -> None:
    assert script.kind(text) == kind
