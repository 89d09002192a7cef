"""Export of clips to VBench, and import of its scores."""

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
from vidguide.eval.metrics.vbench_external import CUSTOM_DIMENSIONS_2, DIMENSIONS, DIMENSIONS_2
from vidguide.eval.scoring import results
from vidguide.eval.vbench_exchange import export_clips, import_scores

RUN = CliRunner()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Export two arms of two clips."""
    for arm in ("none", "nag"):
        for seed in range(2):
            provenance = {"prompt": "a long prompt of a/b", "seed": seed, "eval_prompt": "short a/b"}
            path = tmp_path / arm / f"{seed}.mkv"
            path.parent.mkdir(exist_ok=True)
            Clip(frames=translation(frames=4, side=48).frames, fps=8, provenance=provenance).save(path)
    written = export_clips([tmp_path / "none", tmp_path / "nag"], None, tmp_path / "vbench")
    assert list(written.values()) == [2, 2]
    return tmp_path / "vbench"


def vbench_file(folder: Path, arm: str, values: dict[str, Any]) -> Path:
    """Write a file as VBench 0.1.5 does: {dimension: [mean score, [one entry per clip]]}."""
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


def scored(dimension: str, *values: str) -> str:
    """Return a file with values (JSON) of the first clip of the arm nag."""
    entries = [f'{{"video_path": "nag/short a b-0.mp4", "video_results": {value}}}' for value in values]
    return f'{{"{dimension}": [0.5, [{", ".join(entries)}]]}}'


def test_exported_names_and_prompts_are_those_that_vbench_reads(exported: Path) -> None:
    names = sorted(path.name for path in (exported / "nag").iterdir())
    assert names == ["prompts.json", "short a b-0.mp4", "short a b-1.mp4"]
    prompts = json.loads((exported / "nag" / "prompts.json").read_text())
    assert prompts == dict.fromkeys(names[1:], "short a/b")
    assert read(exported / "nag" / names[1]).provenance["codec"] == "h264"


def test_imported_scores_can_be_compared(exported: Path, tmp_path: Path) -> None:
    for arm, values in (("none", [60.0, 70.0]), ("nag", [50.0, 60.0])):
        arguments = {"imaging_quality": values, "dynamic_degree": [True, False]}
        import_scores([vbench_file(exported, arm, arguments)], exported, tmp_path / "results" / arm)
    row = results.load(tmp_path / "results" / "nag")[0]
    assert (row["metric"], row["value"], row["seed"]) == ("external.imaging_quality", 0.5, 0)
    assert row["clip"].endswith("nag/0.mkv")
    arms = (str(tmp_path / "results" / "none"), str(tmp_path / "results" / "nag"))
    comparison = evaluate([], arms=arms, output=tmp_path / "out").comparisons[0]
    line = next(line for line in comparison.lines if line.metric == "external.imaging_quality")
    assert line.paired.difference.mean == pytest.approx(-0.1)
    import_scores(
        [vbench_file(exported, "nag", {"imaging_quality": [80.0, 80.0]})], exported, tmp_path / "results" / "nag"
    )
    again = results.load(tmp_path / "results" / "nag")
    assert [row["value"] for row in again if row["metric"] == "external.imaging_quality"] == [0.8, 0.8]
    assert len(again) == 4


def test_vbench2_scores_are_imported_beside_those_of_vbench(exported: Path, tmp_path: Path) -> None:
    """VBench-2.0 writes -1 for clips that it could not judge, and the diversity of a prompt at its first clip."""
    for arm, identity in (("none", [0.5, 0.75]), ("nag", [-1, 1])):
        first = vbench_file(exported, arm, {"scene": [0.25, 0.5]})
        first = first.rename(exported / f"{arm}_1.json")
        second = vbench_file(exported, arm, {"Human_Identity": identity, "Multi-View_Consistency": [-1, 0.125]})
        content = json.loads(second.read_text())
        clip = content["Human_Identity"][1][0]["video_path"]
        content["Diversity"] = [0.4, [{"video_path": clip, "video_results": 0.4}]]
        second.write_text(json.dumps(content, indent=4))
        import_scores([first, second], exported, tmp_path / arm)
    rows = {(row["metric"], row["seed"]): row for row in results.load(tmp_path / "nag")}
    assert rows["external.scene", 0]["value"] == 0.25
    invalid = rows["external.Human_Identity", 0]
    assert (invalid["value"], invalid["status"]) == (None, "undefined")
    assert "could not judge" in invalid["reason"]
    assert rows["external.Human_Identity", 1]["value"] == 1
    assert rows["external.Human_Identity", 1]["version"].startswith("VBench-2.0")
    assert rows["external.Multi-View_Consistency", 1]["value"] == 0.125
    assert rows["external.Diversity", None]["value"] == 0.4
    comparison = evaluate([], arms=(str(tmp_path / "none"), str(tmp_path / "nag"))).comparisons[0]
    lines = {line.metric: line for line in comparison.lines}
    assert lines["external.Diversity"].paired.pairs == 1
    assert lines["external.Human_Identity"].paired.pairs == 1  # of the seed that has a score in both arms
    assert lines["external.Human_Identity"].paired.difference.mean == pytest.approx(0.25)


def test_dimensions_are_those_of_vbench2() -> None:
    """18 dimensions, of which five accept any prompts (VBench-2.0/vbench2/__init__.py)."""
    assert len(DIMENSIONS_2) == len(set(DIMENSIONS_2)) == 18
    assert len(CUSTOM_DIMENSIONS_2) == 5
    assert not set(DIMENSIONS) & set(DIMENSIONS_2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"scene": [0.5, []], "scene": [0.5, []]}', "x.json: duplicate key 'scene'"),
        ('{"scene": 0.5}', "must be a pair"),
        ('{"scene": [0.5, [{"video_path": "x"}]]}', "lacks 'video_results'"),
        ('{"scene": [0.5, [{"video_path": "nag/other.mp4", "video_results": 1}]]}', "not an exported clip"),
        ('{"scene": [0.5, [{"video_path": "nag/short a b-0.mp4", "video_results": NaN}]]}', "must be a finite number"),
        (
            '{"flavour": [0.5, [{"video_path": "nag/short a b-0.mp4", "video_results": 1}]]}',
            "not a dimension of VBench",
        ),
        ('{"scene": [NaN, []]}', "x.json 'scene': mean=nan: must be a finite number"),
        ('{"scene": ["1", []]}', "x.json 'scene': mean='1': must be a finite number"),
        ('{"scene": [true, []]}', "mean=True"),
        ('{"scene": [0.5, {}]}', "must be a pair"),
        ('{"scene": [0.5, [3]]}', "an entry is int; must be an object"),
        ('{"scene": [0.5, [{"video_results": 1}]]}', "x.json 'scene': lacks 'video_path'"),
        ('{"scene": [0.5, [{"video_path": 7, "video_results": 1}]]}', "video_path=7"),
        (scored("scene", "1.5"), "x.json 'scene': video_results=1.5: must be in -1..1$"),
        (scored("imaging_quality", "101"), r"video_results=101: must be in -100..100$"),
        (scored("Human_Anatomy", "2"), "video_results=2: must be in 0..1, or -1 for a clip without a score"),
        (scored("Human_Anatomy", "-0.5"), "video_results=-0.5: must be in 0..1"),
        (scored("Human_Anatomy", "NaN"), "'Human_Anatomy': video_results=nan: must be a finite number"),
        (scored("Human_Anatomy", "Infinity"), "must be a finite number"),
        (scored("Human_Anatomy", "null"), "video_results=None"),
        (scored("Human_Anatomy", '"0.5"'), "video_results='0.5'"),
        (scored("Human_Anatomy", "[0.5]"), "video_results="),
        (scored("human_anatomy", "0.5"), "not a dimension of VBench or VBench-2.0"),
        (scored("Human_Anatomy", "0.5", "0.5"), "external.Human_Anatomy of .*0.mkv twice"),
        ("{}", "no score of any clip"),
    ],
)
def test_invalid_vbench_results_raise(content: str, words: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ResultsError, match=words):
        import_scores([tmp_path / "x.json"], exported, tmp_path / "out")


def test_commands_export_and_import(exported: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["export-vbench", str(tmp_path / "nag"), "-o", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    file = vbench_file(exported, "nag", {"scene": [0.5, 0.25]})
    arguments = ["import-vbench", str(file), "--exported", str(exported), "-o", str(tmp_path / "out")]
    assert RUN.invoke(app, arguments).exit_code == 0
    assert len(results.load(tmp_path / "out")) == 2
    assert RUN.invoke(app, ["import-vbench", "gone.json", "--exported", str(exported)]).exit_code == 1
    Clip(frames=translation(frames=2, side=48).frames, fps=8).save(tmp_path / "bare" / "x.mkv")
    nameless = RUN.invoke(app, ["export-vbench", str(tmp_path / "bare"), "-o", str(tmp_path / "o")])
    assert nameless.exit_code == 1
    assert "has no prompt" in nameless.stderr
    assert RUN.invoke(app, ["export-vbench"]).exit_code == 1
