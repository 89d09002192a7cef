"""The benchmarks of time: their arms compute what they say, and a comparison finds what is worse."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers.plain_nag import plain_nag

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def nag_cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import nag_cost as script

    return script


@pytest.fixture
def regressions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import regressions as script

    return script


def test_the_published_combination_is_the_papers_equation(nag_cost: ModuleType) -> None:
    positive, negative = torch.randn(2, 2, 9, 3, 4, dtype=torch.float64)
    expected = plain_nag(positive, negative, *nag_cost.STRENGTH)
    combined = nag_cost.published_combination(positive.flatten(2), negative.flatten(2))
    torch.testing.assert_close(combined, expected.flatten(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "text", "valid"), [("Wan", 24, 5), pytest.param("HunyuanVideo", 24, 5, marks=pytest.mark.slow)]
)
def test_arms_with_nag_agree(nag_cost: ModuleType, model: str, text: int, valid: int) -> None:
    outputs = {}
    case = nag_cost.Case(model, 64, text, valid, "float32")
    for arm in case.arms:
        with nag_cost.ExitStack() as stack, torch.no_grad():
            prepared, call = nag_cost.prepare_arm(case, arm, stack)
            with nag_cost.disable_merging(case, arm):
                outputs[arm] = prepared(**call)[0]
    for arm in case.arms[4:]:
        torch.testing.assert_close(outputs[arm], outputs["NAG"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["NAG"], outputs["published"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["doubled batch"][:1], outputs["unguided"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs["NAG"], outputs["unguided"], atol=1e-3)


def test_times_are_ratios_of_the_same_round(nag_cost: ModuleType) -> None:
    times = nag_cost.time_arms(nag_cost.Case("CogVideoX", 64, 24, 24, "bfloat16"), 2)
    assert set(times) == set(nag_cost.ARMS)
    assert all(0 < value.low <= value.median <= value.high for value in times.values())


def test_a_ratio_is_worse_beyond_both_ranges_only(regressions: ModuleType) -> None:
    ratio = regressions.Summary
    committed = {"case": {"NAG": ratio(1.10, 1.05, 1.20)}}
    values = {"worse": ratio(1.3, 1.15, 1.4), "equal": ratio(1.3, 1.09, 1.4), "new": ratio(1.3, 1.2, 1.4)}
    for verdict, value in values.items():
        measured = {"case" if verdict != "new" else "other": {"NAG": value}}
        assert [row["verdict"] for row in regressions.compare(measured, committed)] == [verdict]
    assert not regressions.is_worse(ratio(1.15, 1.12, 1.3), committed["case"]["NAG"])


def test_committed_ratios_cover_the_short_benchmarks(regressions: ModuleType, nag_cost: ModuleType) -> None:
    committed = regressions.read_ratios(regressions.RESULTS / "nag_cost.json")
    assert {case.name for case in nag_cost.cases([1024])} <= set(committed)
    for name in regressions.SCRIPTS:
        ratios = regressions.read_ratios(regressions.RESULTS / f"{name}.json")
        assert ratios
        assert all(value.low <= value.median <= value.high for arms in ratios.values() for value in arms.values())
