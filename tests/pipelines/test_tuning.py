"""Tuning: a planted optimum, resumption with the same trials, racing, held-out clips, and errors before any model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.helpers.local_ray import local_ray
from tests.helpers.planted_tuning import KEPT, LIMIT, METRICS, OBJECTIVE, PlantedWorker, files_of, planted_tuning
from tests.helpers.source_files import ROOT
from vidguide.eval.metrics import registry
from vidguide.eval.pool.processes import Processes
from vidguide.eval.pool.ray_actors import RayCluster
from vidguide.eval.pool.status import Status
from vidguide.eval.scoring.results import Row
from vidguide.eval.scoring.score import ScoreTask, ScoreWorker
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.tuning import clips as tuning_clips
from vidguide.pipelines.tuning import study
from vidguide.pipelines.tuning.config import Tuning, make_tuning
from vidguide.pipelines.tuning.racing import Trial
from vidguide.pipelines.tuning.ranges import parse_space
from vidguide.pipelines.tuning.report import command as report_command
from vidguide.pipelines.tuning.report import recommended_rows, save, to_dict
from vidguide.pipelines.tuning.run import TuningRun, tune

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'vidguide[tune]'")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the worker by the planted one, and register its metrics."""
    for name, metric in METRICS.items():
        monkeypatch.setitem(registry.METRICS, name, metric)
    monkeypatch.setattr(tuning_clips, "ClipWorker", PlantedWorker)
    monkeypatch.setattr(PlantedWorker, "made", [])


class FailingScores(ScoreWorker):
    """Has no value of the kept metric in the first clip that it scores."""

    def __call__(self, task: ScoreTask) -> tuple[list[Row], bool]:
        rows, fresh = super().__call__(task)
        failed = {"status": "failed", "value": None, "reason": "no memory"}
        first, self.failed = not vars(self).get("failed"), True
        return [{**row, **failed} if first and row["metric"] == KEPT else row for row in rows], fresh


def comparable(run: TuningRun) -> str:
    return json.dumps(to_dict(run))


class Interrupter:
    """Interrupts a tuning when a number of clips is done."""

    def __init__(self, done: int) -> None:
        self.done = done

    def __call__(self, status: Status) -> None:
        if status.done >= self.done:
            raise KeyboardInterrupt


def test_the_planted_optimum_is_found_within_the_budget_and_bad_settings_are_given_up(tmp_path: Path) -> None:
    tuning = planted_tuning(budget=200)
    result = tune(tuning, tmp_path / "out")
    best = result.recommended["best"]
    held_out = result.held_out[best.number]
    assert held_out.improvement.mean is not None
    assert held_out.improvement.mean > 0.8 * 0.3
    assert all(held_out.side(guard) != "outside" for guard in tuning.guards)
    assert best.values["alpha"] < LIMIT + 0.06  # the margin is 0.05, of a mean over 12 clips
    ended = {outcome: [t for t in result.trials if t.outcome == outcome] for outcome in ("finished", "given up")}
    assert len(ended["finished"]) + len(ended["given up"]) == len(result.trials)
    assert {trial.clips for trial in ended["finished"]} == {12}
    assert {trial.clips for trial in ended["given up"]} == {8}
    assert all(trial.outcome == "given up" for trial in result.trials if trial.values["alpha"] > LIMIT + 0.1)
    assert any(trial.reason == f"less {KEPT}" for trial in ended["given up"])
    assert result.clips["all"] == len(files_of(tmp_path / "out")) == len(PlantedWorker.made) <= tuning.budget
    check_report(result, tmp_path / "out")


def check_report(result: TuningRun, folder: Path) -> None:
    """Check the files of a report, and that each recommended command has the settings of its trial."""
    files = save(result, folder)
    assert [path.name for path in files] == ["tuning.json", "report.html"]
    content = json.loads(files[0].read_text())
    page = files[1].read_text()
    for name, entry in content["recommended"].items():
        assert entry["command"].endswith(f" -g {result.recommended[name].spec}")
        assert entry["guidance"] in page
    assert content["clips"] == result.clips
    assert page.count("<circle") == len(result.trials)
    assert "<script" not in page
    assert (folder / "held_out" / "report.html").is_file()
    assert [row["setting"] for row in recommended_rows(result)] == list(result.recommended)


def test_the_held_out_pairs_choose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = planted_tuning(budget=100)
    assert not {prompt for prompt, _ in tuning.pairs} & {prompt for prompt, _ in tuning.held_out}
    assert not {seed for _, seed in tuning.pairs} & {seed for _, seed in tuning.held_out}
    first = tune(tuning, tmp_path / "first")
    monkeypatch.setattr(PlantedWorker, "inverted", True)
    second = tune(tuning, tmp_path / "second")
    chosen = [{name: trial.spec for name, trial in result.recommended.items()} for result in (first, second)]
    assert [trial.spec for trial in first.trials] == [trial.spec for trial in second.trials]
    assert chosen[0] == chosen[1]
    means = [result.held_out[result.recommended["best"].number].improvement.mean for result in (first, second)]
    assert means[0] is not None
    assert means[1] == pytest.approx(-means[0], abs=0.01)
    recommended = {f"trial-{trial.number:03d}" for trial in first.recommended.values()}
    held_out = {job.arm.name for job in PlantedWorker.made if job.pair in tuning.held_out}
    assert held_out == {"reference", *recommended}


def test_an_interrupted_tuning_continues_with_the_same_trials_and_makes_no_clip_twice(tmp_path: Path) -> None:
    tuning = planted_tuning(budget=130)
    whole = tune(tuning, tmp_path / "whole")
    PlantedWorker.made.clear()
    for done in (5, 33, 70, whole.clips["all"] - 2):
        with pytest.raises(KeyboardInterrupt):
            tune(tuning, tmp_path / "parts", on_status=Interrupter(done))
    parts = tune(tuning, tmp_path / "parts")
    assert comparable(parts) == comparable(whole)
    paths = [str(job.path) for job in PlantedWorker.made]
    assert sorted(paths) == sorted(set(paths))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.filterwarnings("default")  # of Ray's modules
@pytest.mark.parametrize("kind", ["processes", "Ray"])
def test_several_workers_have_the_trials_of_one(kind: str, tmp_path: Path) -> None:
    if kind == "Ray" and find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'vidguide[ray]'")
    tuning = planted_tuning(budget=130)
    serial = tune(tuning, tmp_path / "serial")
    with local_ray() if kind == "Ray" else nullcontext():
        backend = RayCluster("local", workers=2) if kind == "Ray" else Processes(2)
        parallel = tune(tuning, tmp_path / "parallel", backend=backend)
    assert comparable(parallel) == comparable(serial)
    assert files_of(tmp_path / "parallel") == files_of(tmp_path / "serial")


@pytest.mark.slow
def test_a_damaged_clip_is_made_again(tmp_path: Path) -> None:
    tuning = planted_tuning(budget=84)
    whole = tune(tuning, tmp_path / "out")
    (path, *_) = (tmp_path / "out" / "clips" / "reference").glob("*.mkv")
    path.write_bytes(path.read_bytes()[:100])
    again = tune(tuning, tmp_path / "out")
    assert list(again.remade) == [path]
    assert comparable(again) == comparable(whole)


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(planted_tuning(budget=84), tmp_path / "out", on_status=Interrupter(1))
    changes: dict[str, dict[str, Any]] = {
        "budget=84, not 90": {"budget": 90},
        r"over=\['tau=1:4', 'alpha=0.05:1'\], not \['tau=1:3', 'alpha=0.05:1'\]": {"over": ["tau=1:3", "alpha=0.05:1"]},
        "other prompts": {"negative_prompt": "blue"},
        "seed=0, not 3": {"seed": 3},
    }
    for message, change in changes.items():
        with pytest.raises(ValueError, match=f"has a tuning with {message}; choose another folder"):
            tune(planted_tuning(**{"budget": 84, **change}), tmp_path / "out")


@pytest.mark.slow
def test_a_tuning_ends_when_all_settings_were_tried(tmp_path: Path) -> None:
    result = tune(planted_tuning(over=["norm=[token,clip]"], budget=130), tmp_path / "out")
    assert sorted(trial.values["norm"] for trial in result.trials) == ["clip", "token"]


def test_every_setting_of_a_small_space_is_proposed_once(tmp_path: Path) -> None:
    proposals = study.Study(tmp_path, parse_space("nag", ["norm=[token,clip]", "tau=[1,2,3,4,5,6]"]), 0)
    tried = []
    while (proposal := proposals.ask()) is not None:
        tried.append(tuple(proposal.values.values()))
        proposals.record_result(proposal.number, (float(proposal.values["tau"]), 0.5))
    assert len(tried) == len(set(tried)) == 12


def test_prompts_of_one_text_are_on_one_side() -> None:
    entries = [{"prompt": f"a {n % 12}", "id": str(n), "negative_prompt": f"x {n}"} for n in range(36)]
    tuning = planted_tuning(prompts=entries, pairs=18, held_out=18)
    sides = [{int(id_) % 12 for id_, _ in pairs} for pairs in (tuning.pairs, tuning.held_out)]
    assert [len(side) for side in sides] == [6, 6]
    assert not sides[0] & sides[1]


def test_a_margin_relative_to_a_mean_of_0_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.helpers.planted_tuning.planted", lambda job: (0.5, 0.0))
    with pytest.raises(ValueError, match=rf"keep='{KEPT}:-5%': is a share of the mean, which is 0 in 12 clips"):
        tune(planted_tuning(keep=[f"{KEPT}:5%"]), tmp_path / "out")


def test_nothing_is_recommended_if_nothing_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.helpers.planted_tuning.planted", lambda job: (0.5 if job.arm.guidance == "none" else 0.7, 0.8)
    )
    result = tune(planted_tuning(budget=84), tmp_path / "out")
    assert (result.recommended, result.held_out, result.clips["held out"]) == ({}, {}, 0)
    assert f"No trial of all pairs improves {OBJECTIVE}" in save(result, tmp_path / "out")[1].read_text()


def test_trials_end_if_none_has_a_clip_and_go_on_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = planted_tuning(budget=130)
    with pytest.raises(KeyboardInterrupt):
        tune(tuning, tmp_path / "out", on_status=Interrupter(20))
    monkeypatch.setattr(PlantedWorker, "kind", "another")
    with pytest.raises(
        OSError, match=r"clips of the trials \d to \d could not be made: its group was begun on planted"
    ):
        tune(tuning, tmp_path / "out")
    monkeypatch.setattr(PlantedWorker, "kind", "planted")
    result = tune(tuning, tmp_path / "out")
    assert result.recommended
    assert {trial.outcome for trial in result.trials} == {"finished", "given up"}


def test_a_clip_that_cannot_be_scored_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = planted_tuning(budget=84)
    bad = tmp_path / "out" / "clips" / "reference"
    monkeypatch.setattr(tuning_clips, "ScoreWorker", FailingScores)
    result = tune(tuning, tmp_path / "out")
    assert [path.parent for path in result.failed] == [bad]
    assert list(result.failed.values()) == [f"{KEPT}: no memory"]


def test_the_command_of_a_setting_has_all_that_determines_a_clip() -> None:
    setup = Setup(loras=("o/a:0.5", "o/b"), vae_tiling=False, shift=3.0)
    settings = dict(steps=2, frames=9, width=64, height=32, guidance_scale=1.2345678)
    tuning = planted_tuning(placement=dict(dtype="bfloat16", setup=setup), settings=settings)
    words = report_command(tuning, Trial(number=0, values={}, spec="nag:tau=2,alpha=0.5"))
    assert words == (
        "vidguide generate PROMPT -m tiny-4step -n NEGATIVE --steps 2 --frames 9 --cfg 1.2345678 --size 64x32 "
        "--dtype bfloat16 --lora o/a:0.5 --lora o/b --shift 3.0 --no-vae-tiling "
        "-g nag:tau=2,alpha=0.5"
    )


def test_ranges_become_specs_and_distributions() -> None:
    space = parse_space("nag:norm=frame+cfg:3", ["nag.tau=1:4", "cfg.start=0:0.5", "nag.scale=2:30:log"])
    values = {"nag.tau": 1.25, "cfg.start": 0.1, "nag.scale": 1000.0}
    assert space.spec(values) == "nag:norm=frame,tau=1.25,scale=1000+cfg:3,start=0.1"
    assert str(space.ranges[2]) == "nag.scale=2:30:log"
    assert space.defaults() == {"nag.tau": 2.5, "cfg.start": 0.0, "nag.scale": 11.0}
    assert space.ranges[0].rounded(1.23456) == 1.23
    assert space.ranges[0].rounded(0.99999) == 1.0
    (narrow,) = parse_space("nag", ["scale=1000:1010"]).ranges
    assert narrow.rounded(1003.456) == 1003.5
    assert parse_space("nag", ["scale=[4,11]"]).defaults() == {"scale": "11"}
    chosen = parse_space("emag", ["select=[largest,all]"])
    assert chosen.spec({"select": "all"}) == "emag:select=all"
    with pytest.raises(ValueError, match="missing"):
        parse_space("nag", [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"over": ["speed=1:2"]}, r"over='speed=1:2': unknown nag parameter 'speed'.*must be one of"),
        ({"over": ["scale=0:4"]}, r"over='scale=0:4': NAG\(scale=0.0\): must be at least 1"),
        ({"over": ["tau=4:1"]}, "over='tau=4:1': is empty"),
        ({"over": ["tau=2"]}, "over='tau=2': must be NAME=LOW:HIGH"),
        ({"over": ["tau=a:b"]}, "over='tau=a:b': must be NAME=LOW:HIGH"),
        ({"over": ["tau=1:4", "tau=1:3"]}, "tau has a range already"),
        ({"over": ["tau=1:4", "nag.tau=1:3"]}, "nag.tau has a range already"),
        ({"over": ["norm=1:2"]}, r"over='norm=1:2': is no number; must be a list, such as norm=\[A,B\]"),
        ({"over": ["norm=[token,row]"]}, r"NAG\(norm='row'\): must be one of token, frame, clip"),
        ({"over": ["norm=[token]"]}, "must list at least two different values"),
        ({"over": ["alpha=0:1:log"]}, "the lower end must be above 0 for log"),
        ({"guidance": "nag:tau=2", "over": ["tau=1:4"]}, "guidance 'nag:tau=2' sets tau"),
        ({"guidance": "none"}, "guidance='none': has no parameters"),
        ({"guidance": "nagg"}, "unknown guidance 'nagg'.*did you mean 'nag'"),
        ({"objective": "world.nothing"}, "objective='world.nothing': unknown metric"),
        ({"objective": "guard.contrast"}, "has no better direction; use it in keep"),
        ({"objective": "clip.frame_cosine"}, "objective='clip.frame_cosine': needs --clip MODEL"),
        ({"objective": "world.negative_present"}, "is undefined for 'a large circle 0'.*not of the shipped world: 0"),
        ({"objective": "preference.human"}, "objective=.preference.human.: is not a value of each clip"),
        ({"keep": ["world.nothing"]}, "keep='world.nothing': unknown metric"),
        ({"keep": [f"{KEPT}:0"]}, "the margin must be a number above 0"),
        ({"keep": []}, f"keep: is missing, and {OBJECTIVE} has no guards"),
        ({"keep": [OBJECTIVE]}, "is the objective; name another metric"),
        ({"budget": 10}, "budget=10: must be at least 72: 12 clips without guidance, 12 of one trial, 4 x 12 held out"),
        ({"pairs": 2}, "pairs=2: must be at least 6"),
        ({"held_out": 0}, "held_out=0: must be at least 6"),
        ({"parallel": 0}, "parallel=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be from 0 to"),
        ({"prompts": [{"prompt": "a", "id": str(n)} for n in range(24)]}, "prompts: 1 different; must be at least 12"),
        ({"prompts": ["a", "b"]}, "prompts: 2 different; must be at least 12: 6 to choose by and 6 held out"),
        ({"negative_prompt": None}, "negative_prompt: is missing for 'a large circle 0', and"),
        ({"settings": {"steps": 0}}, "steps"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        planted_tuning(**changes)


def test_an_objective_without_room_or_value_is_refused_after_the_clips_without_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.helpers.planted_tuning.planted", lambda job: (0.0, 0.8))
    with pytest.raises(ValueError, match=f"objective='{OBJECTIVE}': is 0 in all 12 clips without guidance"):
        tune(planted_tuning(), tmp_path / "out")
    undefined = planted_tuning(
        prompts=world_prompts(),
        objective="world.negative_present",
        keep=[f"{KEPT}:0.05"],
        negative_prompt="blue",
    )
    with pytest.raises(ValueError, match=r"has no value in 12 clips without guidance: frames of 16x16"):
        tune(undefined, tmp_path / "undefined")


def world_prompts() -> list[str]:
    """Return twelve prompts of the shipped world."""
    return [
        f"a {size} {shape} moving {way}"
        for size in ("small", "large")
        for shape in ("circle", "square", "triangle")
        for way in ("left", "right")
    ]


def test_without_optuna_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"optuna: not installed; pip install 'vidguide\[tune\]'"):
        tune(planted_tuning(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def command(folder: Path, *options: str) -> list[str]:
    (folder / "prompts.txt").write_text("\n".join(world_prompts()))
    return [
        *("tune", "-m", "tiny-4step", "-g", "nag", "--over", "tau=1:4", "alpha=0.1:1", "--steps", "2"),
        *("--prompts", str(folder / "prompts.txt"), "-n", "blue", "--keep", "world.attributes:0.9", "--device", "cpu"),
        *("--objective", "world.worst_fit"),
        *("--pairs", "6", "--held-out", "6", "-o", str(folder / "out"), "--budget", "48", *options),
    ]


def test_the_command_reports_wrong_input_in_one_line(tmp_path: Path) -> None:
    for options, message in (
        (("--budget", "20"), "budget=20: must be at least 36"),
        (("--ray", "local", "--jobs", "2"), "jobs=2: is for one machine"),
        (("--workers", "2"), "workers=2: needs ray"),
        (("speed=1:2",), "unknown nag parameter 'speed'"),
        (("--jobs", "0"), "Invalid value for '--jobs'"),
        (("--workers", "0"), "Invalid value for '--workers'"),
        (("--workers", "-1"), "Invalid value for '--workers'"),
        (("--jobs", "two"), "Invalid value for '--jobs'"),
    ):
        done = CliRunner().invoke(app, command(tmp_path, *options))
        assert (done.exit_code, message in " ".join(done.stderr.split())) == (2, True), done.stderr
    done = CliRunner().invoke(app, ["tune", "-g", "nag", "--over", "tau=1:4"])
    assert (done.exit_code, "prompts: is missing" in done.stderr) == (2, True)


def test_every_keep_of_a_command_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("vidguide.pipelines.tuning.run.tune", lambda tuning, *rest, **options: made.append(tuning))
    CliRunner().invoke(app, command(tmp_path, "--keep", "world.well_formed:0.1,guard.motion:5%"))
    names = [guard.id for guard in made[0].guards]
    assert names == ["world.attributes", "world.well_formed", "guard.motion", "guard.motion"]


@pytest.mark.slow
def test_a_killed_command_continues_with_the_same_trials_on_the_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = [sys.executable, "-m", "vidguide.pipelines.cli.app"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = [*start, *command(tmp_path / "whole", "--json")]
    done = subprocess.run(whole, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    killed = [*start, *command(tmp_path / "killed", "--json")]
    kill_after(killed, environment, lambda: len(files_of(tmp_path / "killed" / "out")) >= 10)
    again = subprocess.run(killed, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    results = [json.loads(each.stdout) for each in (done, again)]
    for result in results:
        assert result.pop("files")
    assert results[0]["tuning"] == results[1]["tuning"]
    assert results[0]["trials"] == results[1]["trials"]
    assert results[0]["recommended"] == results[1]["recommended"]


def kill_after(arguments: list[str], environment: dict[str, str], ready: Callable[[], bool]) -> None:
    """Start a command, and kill it as soon as `ready` returns True."""
    process = subprocess.Popen(arguments, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while not ready() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)


def test_a_tuning_from_python_needs_no_file() -> None:
    tuning = make_tuning(
        "tiny-4step", "nag", ["tau=1:4"], world_prompts(), "world.negative_present", negative_prompt="blue"
    )
    assert isinstance(tuning, Tuning)
    assert [guard.id for guard in tuning.guards] == ["world.well_formed", "world.readable", "world.attributes"]
    assert len(tuning.pairs) == len(tuning.held_out) == 12
