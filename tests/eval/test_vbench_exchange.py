"""Clips to VBench and its scores back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.helpers.known_clips import translation
from vidguide.clip import Clip
from vidguide.eval.cli import app
from vidguide.eval.clips.errors import ResultsError
from vidguide.eval.clips.read import read
from vidguide.eval.evaluate import evaluate
from vidguide.eval.scoring import results
from vidguide.eval.vbench_exchange import bring, export

RUN = CliRunner()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Two arms of two clips, exported."""
    for arm in ("none", "nag"):
        for seed in range(2):
            provenance = {"prompt": "a long prompt of a/b", "seed": seed, "eval_prompt": "short a/b"}
            path = tmp_path / arm / f"{seed}.mkv"
            path.parent.mkdir(exist_ok=True)
            Clip(frames=translation(frames=4, side=48).frames, fps=8, provenance=provenance).save(path)
    written = export([tmp_path / "none", tmp_path / "nag"], None, tmp_path / "vbench")
    assert list(written.values()) == [2, 2]
    return tmp_path / "vbench"


def vbench_file(folder: Path, arm: str, values: dict[str, Any]) -> Path:
    """What VBench 0.1.5 writes: {dimension: [score of all, [one entry per clip]]}."""
    clips = sorted(str(path) for path in (folder / arm).glob("*.mp4"))
    content = {
        name: [
            float(np.mean(scores)),
            [{"video_path": c, "video_results": v} for c, v in zip(clips, scores, strict=True)],
        ]
        for name, scores in values.items()
    }
    path = folder / f"{arm}_eval_results.json"
    path.write_text(json.dumps(content))
    return path


def test_names_and_prompts_are_those_that_vbench_reads(exported: Path) -> None:
    names = sorted(path.name for path in (exported / "nag").iterdir())
    assert names == ["prompts.json", "short a b-0.mp4", "short a b-1.mp4"]
    prompts = json.loads((exported / "nag" / "prompts.json").read_text())
    assert prompts == dict.fromkeys(names[1:], "short a/b")
    assert read(exported / "nag" / names[1]).provenance["codec"] == "h264"


def test_scores_come_back_as_rows_that_can_be_compared(exported: Path, tmp_path: Path) -> None:
    for arm, values in (("none", [60.0, 70.0]), ("nag", [50.0, 60.0])):
        given = {"imaging_quality": values, "dynamic_degree": [True, False]}
        bring([vbench_file(exported, arm, given)], exported, tmp_path / "results" / arm)
    row = results.load(tmp_path / "results" / "nag")[0]
    assert (row["metric"], row["value"], row["seed"]) == ("external.imaging_quality", 0.5, 0)
    assert row["clip"].endswith("nag/0.mkv")
    arms = (str(tmp_path / "results" / "none"), str(tmp_path / "results" / "nag"))
    found = evaluate([], arms=arms, output=tmp_path / "out").comparisons[0]
    line = next(line for line in found.lines if line.metric == "external.imaging_quality")
    assert line.paired.difference.mean == pytest.approx(-0.1)
    bring([vbench_file(exported, "nag", {"imaging_quality": [80.0, 80.0]})], exported, tmp_path / "results" / "nag")
    again = results.load(tmp_path / "results" / "nag")
    assert [row["value"] for row in again if row["metric"] == "external.imaging_quality"] == [0.8, 0.8]
    assert len(again) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"scene": 0.5}', "not a pair"),
        ('{"scene": [0.5, [{"video_path": "x"}]]}', "without video_path"),
        ('{"scene": [0.5, [{"video_path": "nag/other.mp4", "video_results": 1}]]}', "not among the exported"),
        ('{"scene": [0.5, [{"video_path": "nag/short a b-0.mp4", "video_results": NaN}]]}', "no number"),
        ('{"flavour": [0.5, [{"video_path": "nag/short a b-0.mp4", "video_results": 1}]]}', "no dimension of VBench"),
        ("{}", "no score"),
    ],
)
def test_foreign_results_are_refused_by_name(content: str, words: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ResultsError, match=words):
        bring([tmp_path / "x.json"], exported, tmp_path / "out")


def test_the_commands_do_the_same(exported: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["export-vbench", str(tmp_path / "nag"), "-o", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    file = vbench_file(exported, "nag", {"scene": [0.5, 0.25]})
    given = ["import-vbench", str(file), "--exported", str(exported), "-o", str(tmp_path / "out")]
    assert RUN.invoke(app, given).exit_code == 0
    assert len(results.load(tmp_path / "out")) == 2
    assert RUN.invoke(app, ["import-vbench", "gone.json", "--exported", str(exported)]).exit_code == 1
    Clip(frames=translation(frames=2, side=48).frames, fps=8).save(tmp_path / "bare" / "x.mkv")
    nameless = RUN.invoke(app, ["export-vbench", str(tmp_path / "bare"), "-o", str(tmp_path / "o")])
    assert nameless.exit_code == 1
    assert "has no prompt" in nameless.stderr
    assert RUN.invoke(app, ["export-vbench"]).exit_code == 1
