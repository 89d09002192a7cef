"""Runs drawn with fresh seeds: the plain formulas, and laws that hold for every guidance.

`pytest -m slow tests/guiding/test_fuzz.py` checks many. A failure names the command that reproduces the smallest run
that fails: see :mod:`tests.helpers.fuzz`.
"""

import random
from typing import Any

import pytest

from tests.helpers import fuzz, plain_guidance
from vidguide.functional.cfg import cfg_zero_star

DRAWS, NIGHTLY_DRAWS = 3, 250


def check(count: int) -> None:
    """Check runs of fresh seeds, and list all that fail."""
    seeds = [random.SystemRandom().randrange(2**31) for _ in range(count)]
    print("seeds:", *seeds)
    failures = [failure for seed in seeds if (failure := fuzz.report(fuzz.draw_case(seed)))]
    assert not failures, "\n\n".join(failures)


def test_drawn_runs() -> None:
    check(DRAWS)


@pytest.mark.slow
def test_many_drawn_runs() -> None:
    check(NIGHTLY_DRAWS)


def test_everything_is_drawn() -> None:
    cases = [fuzz.draw_case(seed) for seed in range(2000)]
    pairs = {(model, mode) for model, modes in fuzz.MODES.items() for mode in modes}
    assert {name for case in cases for name in case.guidances} == set(fuzz.KINDS)
    assert {(case.model, case.cfg) for case in cases} == pairs
    assert {(case.batch, case.scheduler) for case in cases} == {(n, one) for n in (1, 2, 3) for one in fuzz.SCHEDULERS}
    for name, kind in fuzz.KINDS.items():
        drawn = {setting for case in cases for setting in case.guidances.get(name, {})}
        assert drawn == {*kind.choices, *(("start", "stop") if kind.windowed else ())}
    plain = [case for case in cases if set(case.guidances) <= plain_guidance.ORACLES.get(case.model, set())]
    assert len(plain) > 500


def first_seed_with(*names: str) -> int:
    """Return a seed that draws these guidances for Wan, with others, in a batch."""
    for seed in range(100_000):
        case = fuzz.draw_case(seed)
        known = set(case.guidances) <= plain_guidance.ORACLES[fuzz.WAN] and "EMAG" not in case.guidances
        if case.model == fuzz.WAN and known and {*names} < {*case.guidances} and case.batch == 2:
            return seed
    raise AssertionError(f"no run with {names} is drawn")


def reversed_share(progress: float, full: float, none: float) -> float:
    return min(max((none - progress) / (none - full), 0.01), 0.99)


def test_a_failure_is_reduced_to_a_command_that_reproduces_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With CADS' schedule reversed, the smallest run that fails has no other guidance."""
    seed = first_seed_with("CADS")
    assert fuzz.main(["--seed", str(seed)]) == 0
    monkeypatch.setattr("vidguide.guidances.cads.cads_share", reversed_share)
    assert fuzz.main(["--seed", str(seed)]) == 1
    line = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert line.startswith(f"python -m tests.helpers.fuzz --seed {seed} --drop ")
    arguments = line.split()[3:]
    assert fuzz.main(arguments) == 1
    case = fuzz.draw_case(seed)
    for part in arguments[3:]:
        case = case.dropped(part)
    assert (case.guidances, case.batch, case.steps) == ({"CADS": {}}, 1, 2)
    monkeypatch.undo()
    assert fuzz.main(arguments) == 0


def failure_with(monkeypatch: pytest.MonkeyPatch, name: str, target: str, wrong: Any) -> str:
    """Return the failure of a run with a guidance, after a change to the code under test."""
    case = fuzz.draw_case(first_seed_with(name))
    assert not fuzz.failure_of(case)
    with monkeypatch.context() as change:
        change.setattr(target, wrong)
        return fuzz.failure_of(case).partition(": ")[0]


def test_the_checks_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    target = "vidguide.guidances.cfg_rules.cfg_zero_star.cfg_zero_star"

    def shifted(*args: Any) -> Any:
        return cfg_zero_star(*args).roll(1, 2)

    def by_batch(*args: Any) -> Any:
        return cfg_zero_star(*args) * len(args[0])

    assert failure_with(monkeypatch, "CFGZeroStar", target, shifted) == "formula"
    assert failure_with(monkeypatch, "CFGZeroStar", target, by_batch) == "singles"
    nothing = "vidguide.attention.sites.InterceptedProcessors.restore"
    assert failure_with(monkeypatch, "STG", nothing, lambda self: None) == "restored"
