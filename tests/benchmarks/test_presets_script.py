"""benchmarks/presets.py on the shipped models."""

import json
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidguide import Clip
from vidguide.pipelines.models.presets import PRESETS

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    import presets

    return presets


def run(presets: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["presets.py", "--device", "cpu", *arguments])
    presets.main()


def record_of(folder: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / name / "record.json").read_text())
    return record


@pytest.mark.slow
def test_a_run_records_clips_faults_and_versions_in_one_file(
    presets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    run(presets, monkeypatch, "--only", "tiny", "tiny-4step", "--output", str(output))
    for name in ("tiny", "tiny-4step"):
        record = record_of(output, name)
        assert (record["status"], record["faults"]) == ("done", [])
        assert record["changed by NAG"] > 0.1
        assert record["none"]["guidance"] == []
        assert record["nag"]["guidance"][0]["name"] == "NAG"
        assert record["none"]["seed"] == record["nag"]["seed"]
        assert record["nag"]["versions"]["torch"] == record["machine"]["torch"]
        assert min(record[arm]["seconds"] for arm in ("none", "nag")) > 0
        assert record["plan"]["step"] > 0
    with zipfile.ZipFile(output.with_name("run.zip")) as archive:
        assert {"presets.md", "tiny/record.json", "tiny/sheet.png", "tiny-4step/sheet.png"} <= set(archive.namelist())
        assert archive.read("presets.md").decode().count("| done |") == 2


def options(tmp_path: Path, **changes: Any) -> Namespace:
    values = dict(output=tmp_path, device="cpu", memory=None, offload=None, seed=0, again=False, only=[])
    return Namespace(**{**values, **changes})


def test_a_failure_is_recorded_and_not_repeated_unless_asked(presets: Any, tmp_path: Path) -> None:
    calls = []

    def fail(name: str, *rest: Any) -> dict[str, Any]:
        calls.append(name)
        raise FloatingPointError("frames: have NaN")

    presets.attempt("tiny", options(tmp_path), fail)
    presets.attempt("tiny", options(tmp_path), fail)
    record = record_of(tmp_path, "tiny")
    assert (record["status"], record["error"]) == ("failed", "FloatingPointError: frames: have NaN")
    assert calls == ["tiny"]
    presets.attempt("tiny", options(tmp_path, again=True), fail)
    assert calls == ["tiny", "tiny"]
    with zipfile.ZipFile(presets.pack(tmp_path)) as archive:
        assert b"have NaN" in archive.read("presets.md")


def test_errors_have_no_local_folders(presets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "home" / "alice" / "hub"
    monkeypatch.setattr(presets.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(presets.Path, "home", lambda: tmp_path / "home" / "alice")

    def fail(*arguments: Any) -> dict[str, Any]:
        raise OSError(f"no file {cache / 'a.json'} nor {tmp_path / 'home' / 'alice' / 'b'}")

    presets.attempt("tiny", options(tmp_path), fail)
    assert record_of(tmp_path, "tiny")["error"] == "OSError: no file CACHE/a.json nor ~/b"


def test_the_current_folder_can_be_packed(presets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    presets.attempt("tiny", options(Path()), lambda *arguments: {"status": "done"})
    assert presets.pack(Path()) == tmp_path / "run.zip"


def test_what_did_not_fit_is_tried_again_and_an_ended_process_is_recorded(presets: Any, tmp_path: Path) -> None:
    def too_small(*arguments: Any) -> dict[str, Any]:
        raise presets.DoesNotFitError("needs 80.0 GiB")

    presets.attempt("tiny", options(tmp_path), too_small)
    assert record_of(tmp_path, "tiny")["status"] == "skipped"
    presets.attempt("tiny", options(tmp_path), lambda *arguments: {"status": "done"})
    assert record_of(tmp_path, "tiny")["status"] == "done"
    presets.write_record(tmp_path / "tiny" / "record.json", {"preset": "tiny", "status": "running"})
    presets.attempt("tiny", options(tmp_path), too_small)
    record = record_of(tmp_path, "tiny")
    assert (record["status"], record["error"][:17]) == ("failed", "its process ended")


def test_an_interrupt_leaves_the_preset_open(presets: Any, tmp_path: Path) -> None:
    def interrupt(*arguments: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        presets.attempt("tiny", options(tmp_path), interrupt)
    assert presets.is_open(tmp_path / "tiny" / "record.json", again=False)


def clip(frames: np.ndarray) -> Clip:
    return Clip(frames=frames.astype(np.uint8), fps=8)


def test_faults_are_frames_of_one_colour_and_clips_that_stand_still(presets: Any) -> None:
    noise = np.random.default_rng().integers(0, 256, (5, 16, 16, 3))
    assert presets.faults_of(clip(noise)) == []
    assert presets.faults_of(clip(np.where(np.arange(5)[:, None, None, None] == 3, 0, noise))) == [
        "frames of one colour: 1 of 5, first 3"
    ]
    still = np.broadcast_to(noise[:1], noise.shape)
    assert presets.faults_of(clip(still)) == ["no frame differs from the first"]


def test_each_preset_that_needs_an_image_gets_one_of_its_size(presets: Any) -> None:
    for name, model in PRESETS.items():
        texts = presets.texts_of(name, model)
        assert ("image" in texts) == (model.image == "must")
        if "image" in texts:
            assert isinstance(texts["image"], Image.Image)
            assert texts["image"].size == (model.width or 832, model.height or 480)


def test_commits_are_those_in_the_cache(presets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets.constants, "HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--lightx2v--Wan2.1-Distill-Loras" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text("0" * 40)
    model = PRESETS["wan2.1-14b-lightx2v"]
    (tmp_path / "models--Wan-AI--Wan2.1-T2V-14B-Diffusers" / "snapshots" / str(model.revision)).mkdir(parents=True)
    assert presets.commits_of(model) == {model.source: model.revision, model.loras[0].source: "0" * 40}


def planned(fits: bool, advice: dict[str, Any] | None) -> Any:
    phases = [SimpleNamespace(name="step", peak=80 << 30)]
    return lambda *arguments, **options: SimpleNamespace(
        phases=phases, peak=80 << 30, fits=fits, advice=advice, setup=options["setup"]
    )


def test_the_setup_is_that_of_the_plan_and_what_does_not_fit_is_left_out(
    presets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = presets.CARDS["rtx4090"]
    for fits, advice, setup in (
        (True, None, presets.Setup()),
        (False, {"offload": "model"}, presets.Setup(offload="model")),
    ):
        monkeypatch.setattr(presets, "plan", planned(fits, advice))
        assert presets.setup_for("tiny", card, None, False) == (setup, {"plan": {"step": 80.0}})
    monkeypatch.setattr(presets, "plan", planned(False, None))
    with pytest.raises(presets.DoesNotFitError, match=r"needs 80\.0 GiB with offload='auto'"):
        presets.setup_for("tiny", card, None, False)
    assert presets.setup_for("tiny", card, None, True)[0] == presets.Setup()


def test_a_preset_that_cannot_be_planned_is_run_only_by_name(presets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> None:
        raise ValueError("cannot be planned")

    monkeypatch.setattr(presets, "plan", unknown)
    with pytest.raises(presets.DoesNotFitError, match="--only"):
        presets.setup_for("tiny", presets.CARDS["h100"], "model", False)
    chosen = presets.setup_for("tiny", presets.CARDS["h100"], "model", True)
    assert chosen == (presets.Setup(offload="model"), {"plan": "none: cannot be planned"})
