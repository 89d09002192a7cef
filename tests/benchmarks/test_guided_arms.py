"""The study of self-guidance at a small size: sampling is resumed, and the report finds a planted effect."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vidguide.eval.world.scene import render

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
CLIPS = 16


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    import guided_arms

    return guided_arms


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, study: ModuleType) -> ModuleType:
    import guided_arms_report

    return guided_arms_report


def test_prompt_sets_omit_what_they_say(study: ModuleType) -> None:
    for index in range(40):
        one, motion, nothing, everything = (study.Case(index, prompts) for prompts in study.PROMPT_SETS)
        assert [name for name, value in vars(one.scene).items() if value is None] == [one.kind]
        assert [name for name, value in vars(motion.scene).items() if value is None] == ["motion"]
        assert nothing.prompt == ""
        assert everything.scene.complete
        assert getattr(everything.scene, everything.kind) != everything.unwanted


def test_every_arm_makes_guidances_and_every_set_has_the_reference(study: ModuleType) -> None:
    for stage in study.FIRST:
        for prompts in study.FIRST[stage]:
            arms = study.arms_of(stage, prompts, "tiny")
            assert next(iter(arms)) == study.NONE
            assert all(isinstance(arm(["red"]), tuple) for arm in arms.values())
    assert study.depth_of("tiny") == 5
    assert not set(study.FIRST["tuning"].values()) & set(study.FIRST["validation"].values())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_finished_batches_are_not_sampled_again(study: ModuleType, tmp_path: Path) -> None:
    pipe: Any = study.load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    arms = {name: study.arms_of("validation", "one unsaid", "tiny")[name] for name in (study.NONE, "SEG 0.5")}
    study.sample_set(pipe, "tiny", "one unsaid", arms, range(700_000, 700_002), tmp_path)
    none, seg = (study.load_clips(tmp_path, "tiny", "one unsaid", arm, range(700_000, 700_002)) for arm in arms)
    assert none.shape == seg.shape == (2, 13, 64, 64, 3)
    assert 0 < np.abs(none.astype(int) - seg).mean() < 40
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    study.sample_set(None, "tiny", "one unsaid", arms, range(700_000, 700_002), tmp_path)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}


@pytest.mark.slow
def test_the_report_finds_a_planted_effect(
    study: ModuleType, report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renderings of the prompts are the arm SEG 0.5; all others show the half of the object in one frame."""
    arms = study.arms_of("validation", "motion unsaid", "tiny")
    first = study.FIRST["validation"]["motion unsaid"]
    cases = [study.Case(first + index, "motion unsaid") for index in range(CLIPS)]
    random = np.random.default_rng(0)
    whole = np.stack([render(report.complete_scene(case.scene, random), random) for case in cases])
    broken = whole.copy()
    broken[:, 5, :, 32:] = broken[:, 5, :1, :1]
    for arm in arms:
        path = study.batch_path(tmp_path, "tiny", "motion unsaid", arm, first)
        path.parent.mkdir(parents=True)
        np.savez(path, frames=whole if arm == "SEG 0.5" else broken, seconds=2.0 if arm == "SEG 0.5" else 1.0)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "write", lambda name, text, data: (tmp_path / f"{name}.md").write_text(text))
    arguments = ["validation", "--prompts", "motion unsaid", "--clips", str(CLIPS), "--work", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["guided_arms_report.py", *arguments])
    report.main()
    rows = {line.split(" | ")[0][2:]: line.split(" | ") for line in primary_lines(tmp_path / "guided_arms_tiny.md")}
    assert rows["SEG 0.5"][1] == "2.00"
    assert rows["SEG 0.5"][2].startswith("100.0 [")
    assert rows["SEG 0.5"][2].endswith("*")
    assert rows["SEG 0.5"][-1] == f"+{CLIPS} -0 |"
    assert rows["EMAG"][2].startswith("0.0 [")
    assert "*" not in "".join(rows["EMAG"])
    values = np.load(tmp_path / "guided_arms_tiny.npz")
    assert values["motion unsaid/SEG 0.5/in world"].tolist() == [1.0] * CLIPS
    assert (tmp_path / "guided_arms_tiny.png").exists()


def test_a_reuse_report_compares_with_a_pass_at_each_step(report: ModuleType, study: ModuleType) -> None:
    random, none = np.random.default_rng(0), study.NONE
    arms = list(study.reuse_arms(5))
    scores = {arm: {name: random.random(12) for name in (*report.PRIMARY, *report.OTHERS)} for arm in arms}
    scores["STG 0.25, every 2"] = {name: values + 1.0 for name, values in scores["STG 0.25"].items()}
    costs = {arm: 1.0 if arm == none else 2.0 if study.EVERY not in arm else 1.5 for arm in arms}
    text = report.report_text("reuse", {"one unsaid": scores}, {"one unsaid": costs}, 12)
    table = text.split("## STG 0.25. Prompts: one unsaid\n\n")[1].split("\n\n")[0].splitlines()
    rows = {line.split(" | ")[0][2:]: line.split(" | ") for line in table[2:]}
    assert list(rows) == ["STG 0.25", "STG 0.25, every 2", "STG 0.25, every 3"]
    assert rows["STG 0.25, every 2"][1] == "0.75"
    assert rows["STG 0.25, every 2"][2].startswith("100.0 [100.0, 100.0]")
    assert text.count("## ") == 5


def primary_lines(path: Path) -> list[str]:
    """Return the rows of the first table of a report."""
    table = path.read_text().split("Primary metrics:\n\n")[1].split("\n\n")[0]
    return table.splitlines()[2:]
