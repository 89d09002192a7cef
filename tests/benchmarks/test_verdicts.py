"""Errors and power of the verdicts, and coverage of the intervals, by benchmarks/verdicts.py at a small size."""

from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import verdicts

    return verdicts


def test_verdicts_without_a_change_are_rarely_wrong(script: ModuleType) -> None:
    shares = script.verdict_shares(script.Scenario(), 12, 150)
    assert shares["no conclusion"] == pytest.approx(0.95, abs=0.045)
    assert shares["confounded"] <= 0.02


def test_power_of_every_verdict(script: ModuleType) -> None:
    better = script.Scenario(error=0.8, well_formed=(1.0, 1.0))
    assert script.verdict_shares(better, 100, 20)["better"] > 0.7
    assert script.verdict_shares(better, 20, 30)["better, guard undecided"] > 0.9  # 72 prompts show well-formed clips
    assert script.verdict_shares(script.Scenario(error=0.8, motion=0.8), 20, 30)["confounded"] > 0.8
    assert script.verdict_shares(script.Scenario(error=1.2), 20, 30)["worse"] > 0.9


def test_change_as_large_as_the_margin_is_rarely_decided(script: ModuleType) -> None:
    margin = script.Scenario(error=0.7, motion=0.95, well_formed=(1.0, 1.0))
    shares = script.verdict_shares(margin, 80, 100)
    assert shares["better"] <= 0.08
    assert shares["confounded"] <= 0.08
    assert shares["better, guard undecided"] >= 0.88


def test_false_findings_of_exploratory_metrics_are_controlled(script: ModuleType) -> None:
    shares = script.exploratory_share(10, 150)
    assert shares["corrected"] <= 0.1
    assert shares["uncorrected"] > 0.2


@pytest.mark.parametrize("prompts", [6, 8, 13, 20, 50])
@pytest.mark.parametrize("name", ["normal", "t with 3 degrees"])
def test_intervals_of_symmetric_differences_cover(name: str, prompts: int, script: ModuleType) -> None:
    covered, contradictions = script.coverage(*script.DIFFERENCES[name], prompts, 300)
    assert covered == pytest.approx(0.955, abs=0.04)
    assert contradictions == 0


def test_intervals_of_skewed_differences_cover_less(script: ModuleType) -> None:
    covered, contradictions = script.coverage(*script.DIFFERENCES["lognormal"], 12, 300)
    assert 0.8 < covered < 0.94
    assert contradictions == 0
    assert script.coverage(*script.DIFFERENCES["normal"], 5, 3) == (None, 0)


@pytest.mark.parametrize("prompts", [5, 20])
def test_intervals_of_shares_cover_at_least(prompts: int, script: ModuleType) -> None:
    for share in script.SHARES:
        assert script.share_coverage(share, prompts, 400) >= 0.93
    for gained, lost in script.CHANGES.values():
        covered, contradictions = script.paired_share_coverage(gained, lost, prompts, 200)
        assert covered >= 0.92
        assert contradictions == 0


def test_the_report_has_every_row(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, str] = {}
    monkeypatch.setattr("sys.argv", ["verdicts.py", "--comparisons", "1", "--samples", "2"])
    monkeypatch.setattr(script, "write", lambda name, text, data: written.update({name: text}))
    script.main()
    for name in (*script.SCENARIOS, *script.DIFFERENCES, *script.CHANGES, *script.VERDICTS):
        assert name in written["verdicts"]
