import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidguide.clip import Clip
from vidguide.eval.clips.entries import Entry, entries
from vidguide.eval.clips.errors import ResultsError, UndefinedError
from vidguide.eval.clips.read import read
from vidguide.eval.metrics.base import Metric, Value
from vidguide.eval.metrics.registry import select_metrics
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring import results
from vidguide.eval.scoring import score as scoring
from vidguide.eval.scoring.score import Settings, exit_code, score
from vidguide.eval.world.scene import Scene, caption, render

SCENE = Scene(size="small", colour="green", shape="circle", motion="up", background="black")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an intact clip, its texts, and a truncated clip."""
    frames = render(SCENE, np.random.default_rng(0))
    clip = Clip(frames=frames, fps=8, provenance={"prompt": caption(SCENE), "seed": 1, "negative_prompt": "red"})
    (tmp_path / "arm").mkdir()
    data = clip.save(tmp_path / "arm" / "good.mkv").read_bytes()
    (tmp_path / "arm" / "short.mkv").write_bytes(data[: len(data) // 2])
    return tmp_path


def test_every_clip_and_metric_has_a_row(folder: Path) -> None:
    metrics = select_metrics(None)
    rows = score(entries([folder]), metrics, Settings())
    assert len(rows) == 2 * len(metrics)
    good = {row["metric"]: row for row in rows if row["clip"].endswith("good.mkv")}
    assert good["world.attributes"]["value"] == 1
    assert good["world.negative_present"]["value"] == 0
    assert good["temporal.warp_error"]["status"] == "ok"
    assert len(good["temporal.warp_error"]["per_frame"]) == 12
    short = [row for row in rows if row["clip"].endswith("short.mkv")]
    assert {row["status"] for row in short} == {"failed"}
    assert "TruncatedError" in short[0]["reason"]
    assert exit_code(rows) == 2
    assert exit_code(short) == 3
    assert exit_code(list(good.values())) == 0


def test_rows_are_complete_and_survive_a_round_trip(folder: Path) -> None:
    rows = score(entries([folder / "arm" / "good.mkv"]), select_metrics(["temporal"]), Settings())
    row = rows[0]
    assert row["versions"]["opencv"]
    assert (row["reader"].split()[0], row["codec"], row["frames"], row["fps"]) == ("av", "ffv1", 13, 8)
    assert len(row["file_sha256"]) == len(row["clip_sha256"]) == 64
    assert row["version"]
    assert row["unit"]
    assert results.load(results.finish(folder, rows)) == rows
    results.write_csv(folder / "results.csv", rows)
    assert (folder / "results.csv").read_text().splitlines()[0].startswith("arm,clip,prompt_id")


def test_interrupted_run_resumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, metrics = entries([folder]), select_metrics(["guard"])
    first = score(clips, metrics, Settings(), folder=folder)
    with (folder / results.PART).open("a") as part:
        part.write('{"schema": 1, "cl')  # the power fails here
    earlier = results.load_existing(folder)
    assert earlier == first
    read_files: list[str] = []

    def recorded(path: Path, **settings: Any) -> Clip:
        read_files.append(path.name)
        return read(path, **settings)

    monkeypatch.setattr(scoring, "read", recorded)
    assert score(clips, metrics, Settings(), folder=folder, earlier=earlier) == first
    assert read_files == ["short.mkv"]  # what failed is tried again
    score(clips, metrics, Settings(fps=4), earlier=earlier)
    assert read_files[1:] == ["good.mkv", "short.mkv"]  # another setting is another measurement
    results.finish(folder, first)
    assert not (folder / results.PART).exists()
    assert results.load_existing(folder) == first


def test_error_in_one_metric_does_not_affect_others() -> None:
    def out_of_range(sample: Sample) -> Value:
        return Value(value=323.0)

    def crash(sample: Sample) -> Value:
        raise RuntimeError("no memory")

    def undefined(sample: Sample) -> Value:
        raise UndefinedError("not for this clip")

    sample = Sample(Clip(frames=np.zeros((2, 8, 8, 3), np.uint8), fps=8))
    common: dict[str, Any] = {"version": "1", "unit": "", "low": 0.0, "high": 1.0}
    metrics = [Metric(id="x", better="", measure=m, **common) for m in (out_of_range, crash, undefined)]
    outcomes = [scoring.measure(metric, sample) for metric in metrics]
    assert [outcome["status"] for outcome in outcomes] == ["failed", "failed", "undefined"]
    assert all(outcome["value"] is None for outcome in outcomes)
    assert "x=323.0: must be in 0..1" in outcomes[0]["reason"]


def test_frames_that_differ_from_their_json_file_have_a_warning(folder: Path) -> None:
    path = folder / "arm" / "good.mkv"
    metrics = select_metrics(["guard.sharpness"])
    assert score(entries([path]), metrics, Settings())[0]["marks"] == []
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**sidecar, "sha256": "0" * 64}))
    assert "differ from those described by the JSON" in score(entries([path]), metrics, Settings())[0]["marks"][0]


def test_missing_clip_has_a_failed_row(tmp_path: Path) -> None:
    (row,) = score(
        [Entry(clip=tmp_path / "gone.mkv", arm="a", prompt_id="p")], select_metrics(["guard.sharpness"]), Settings()
    )
    assert (row["status"], row["file_sha256"]) == ("failed", None)
    assert "MissingError" in row["reason"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: "{", "not JSON"),
        (lambda row: "[]", "must be an object"),
        (lambda row: json.dumps({k: v for k, v in row.items() if k != "arm"}), "lacks 'arm'"),
        (lambda row: json.dumps({**row, "schema": 99}), "schema=99"),
        (lambda row: json.dumps({**row, "value": None}), "value=None contradicts status='ok'"),
    ],
)
def test_invalid_results_raise_with_their_line(change: object, words: str, folder: Path) -> None:
    assert callable(change)
    rows = score(entries([folder / "arm" / "good.mkv"]), select_metrics(["guard.sharpness"]), Settings())
    (folder / "results.jsonl").write_text(change(rows[0]))
    with pytest.raises(ResultsError, match=words):
        results.load(folder)
