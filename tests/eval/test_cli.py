"""The command line, its exit codes, and the files of the report."""

import html.parser
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.helpers.known_clips import translation
from vidguide.clip import Clip
from vidguide.eval import evaluate as evaluating
from vidguide.eval.cli import app
from vidguide.eval.clips.read import read
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report.html_tables import verdict_style
from vidguide.eval.world.scene import Scene, all_scenes, caption, render
from vidguide.pipelines.cli.app import app as whole_app

RUN = CliRunner()


def make_arm(folder: Path, count: int = 4, sigma: float = 0.0, negative: str | None = None) -> Path:
    """Write noisy clips of the synthetic world, each with its JSON file."""
    folder.mkdir(parents=True)
    for seed, scene in enumerate(all_scenes()[7 : 7 + 37 * count : 37]):
        random = np.random.default_rng(seed)
        frames = render(scene, random) + random.normal(0, sigma, (13, 64, 64, 3))
        provenance = {"prompt": caption(scene), "seed": seed, "negative_prompt": negative}
        whole = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
        Clip(frames=whole, fps=8, provenance=provenance).save(folder / f"{seed}.mkv")
    return folder


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("arms")
    return make_arm(root / "none", sigma=8), make_arm(root / "nag", sigma=1, negative="red")


class Page(html.parser.HTMLParser):
    """HTML parser that collects external resources and checks that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.external: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.external += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith(("data:", "#"))
        ]
        if tag not in ("meta", "img", "br", "li", "html"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("li", "html"):
            assert self.open.pop() == tag


def test_compare_writes_a_complete_report(arms: tuple[Path, Path], tmp_path: Path) -> None:
    done = RUN.invoke(app, ["compare", str(arms[0]), str(arms[1]), "-o", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    lines = {line["metric"]: line for line in summary["comparisons"][0]["lines"]}
    assert (summary["comparisons"][0]["reference"], summary["comparisons"][0]["other"]) == ("none", "nag")
    assert lines["temporal.warp_error"]["paired"]["difference"]["mean"] < 0
    assert lines["world.negative_present"]["paired"]["pairs"] == 4  # the negative prompt is shared with the arm without
    assert any("Smoke test: prompts: 4" in note for note in summary["notes"])
    page = Page()
    text = (tmp_path / "report.html").read_text()
    page.feed(text)
    assert page.open == []
    assert page.external == []
    assert "<script" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "results.csv", "results.jsonl"}
    again = RUN.invoke(app, ["compare", str(tmp_path), str(arms[1]), "-o", str(tmp_path / "two")])
    assert again.exit_code == 0, again.output  # results of one run against clips


def test_report_names_the_frames_of_cuts_and_flashes(tmp_path: Path) -> None:
    frames = translation().frames.copy()
    frames[5] = 0
    clip = Clip(frames=frames, fps=8).save(tmp_path / "black.mkv")
    done = RUN.invoke(app, [str(clip), "-m", "temporal", "-o", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    for name in ("report.md", "report.html"):
        assert "black.mkv: flash at frame 5" in (tmp_path / "o" / name).read_text()


def test_report_names_the_frames_that_repeat(tmp_path: Path) -> None:
    clip = Clip(frames=translation().frames[np.arange(12) % 5], fps=8).save(tmp_path / "loop.mkv")
    done = RUN.invoke(app, [str(clip), "-m", "temporal.periodicity", "-o", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    for name in ("report.md", "report.html"):
        assert "loop: frames 5 to 11 repeat 0 to 6" in (tmp_path / "o" / name).read_text()


def test_only_confirmed_verdicts_are_coloured() -> None:
    styles = {
        "better": "good",
        "worse": "bad",
        "better, exploratory": "same",
        "worse, exploratory": "same",
        "better, guard undecided: less motion (about 84 prompts needed)": "warn",
        "confounded: less motion": "warn",
        "not comparable: the clips differ in length": "warn",
        "too few prompts: p < 0.05 needs 6": "same",
    }
    assert {verdict: verdict_style(verdict) for verdict in styles} == styles


def test_half_length_copies_are_not_worse(arms: tuple[Path, Path], tmp_path: Path) -> None:
    half = tmp_path / "half"
    for path in sorted(arms[0].glob("*.mkv")):
        clip = read(path)
        texts = json.loads(path.with_suffix(".json").read_text())
        kept = {name: texts[name] for name in ("prompt", "seed")}
        Clip(frames=clip.frames[:7], fps=8, provenance=kept).save(half / path.name)
    done = RUN.invoke(app, ["compare", str(arms[0]), str(half), "-m", "temporal", "-o", str(tmp_path / "o"), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    verdicts = {line["verdict"] for line in summary["comparisons"][0]["lines"]}
    assert verdicts == {"not comparable: the clips differ in length"}
    assert any("length: 4 of 4 pairs, the first 13 and 7 frames" in note for note in summary["notes"])


def test_arms_can_be_names_within_one_set_of_clips(arms: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = [
        str(arms[0].parent),
        "-m",
        "temporal.warp_error",
        "-o",
        str(tmp_path),
        "--primary",
        "temporal.warp_error",
    ]
    done = RUN.invoke(app, ["compare", "none", "nag", *arguments, "--again", str(arms[0])])
    assert done.exit_code == 0, done.output
    assert "noise floor was not" not in done.output
    assert RUN.invoke(app, ["compare", "none", "gone", *arguments]).exit_code == 1


def test_failures_are_listed_and_set_the_exit_code(arms: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mkv"
    broken.write_bytes((arms[0] / "0.mkv").read_bytes()[:-6000])
    good = str(arms[0] / "0.mkv")
    partly = RUN.invoke(app, [good, str(broken), "-m", "guard", "-o", str(tmp_path / "o")])
    assert partly.exit_code == 2
    assert "failed:" in partly.stderr
    assert "broken.mkv" in partly.stderr
    none = RUN.invoke(app, [str(broken), "-m", "guard", "-o", str(tmp_path / "p"), "-q"])
    assert none.exit_code == 3
    assert "TruncatedError" in (tmp_path / "p" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no clip"),
        (["nowhere.mkv"], "no such file"),
        (["--flag"], "--flag"),
        (["--metrics", "fid", "."], "metrics='fid'"),
        (["compare", "a", "b", "--primary", "fid"], "primary='fid'"),
        (["compare", "a", "a"], "both arms"),
        (["compare", "a"], "other"),
        (["run", "--aesthetic", "gone.pth", "."], "gone.pth"),
        (["run", "--clip", "/no/such/model", "."], "no such folder"),
        (["--prompts", "nowhere.json"], "nowhere.json"),
        (["--reader", "cv2", "."], "reader='cv2'"),
        (["--fps", "-1", "."], "fps=-1"),
    ],
)
def test_usage_errors_exit_with_1(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = RUN.invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_list_shows_requirements_and_availability() -> None:
    rows = {row["metric"]: row for row in json.loads(RUN.invoke(app, ["list", "--json"]).stdout)}
    assert set(rows) == set(METRICS)
    assert rows["temporal.warp_error"]["available here"] == "yes"
    assert rows["world.attributes"]["needs"] == "eval_prompt"
    assert "--pickscore MODEL" in rows["pickscore.score"]["available here"]
    assert rows["vbench.dynamic_degree"]["needs"] == "raft weights, torchvision"
    assert "VBench itself" in rows["external.imaging_quality"]["available here"]
    assert all(row["licence"] and row["weights"] for row in rows.values())
    shown = RUN.invoke(app, ["list"])
    assert shown.exit_code == 0
    assert "xswu/HPSv2" in shown.output


def test_vidguide_evaluate_is_the_same_command(arms: tuple[Path, Path], tmp_path: Path) -> None:
    done = RUN.invoke(
        whole_app, ["evaluate", str(arms[1] / "0.mkv"), "-m", "world.colour", "-o", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["standings"]
    assert RUN.invoke(whole_app, ["evaluate", "--flag"]).exit_code == 1
    output = RUN.invoke(whole_app, ["evaluate", "list", "--json"])
    assert {"world.attributes", "temporal.warp_error"} <= {row["metric"] for row in json.loads(output.stdout)}


def test_markup_in_prompts_is_escaped(tmp_path: Path) -> None:
    clip = Clip(frames=render(Scene(**vars(all_scenes()[0])), np.random.default_rng(0)), fps=8)
    path = clip.save(tmp_path / "a.mkv")
    (tmp_path / "p.json").write_text(json.dumps({"a.mkv": "<script>alert(1)</script> [red]x[/] | y"}))
    arguments = [str(path), "-p", str(tmp_path / "p.json"), "-o", str(tmp_path / "o")]
    assert RUN.invoke(app, arguments).exit_code == 0
    assert "<script" not in (tmp_path / "o" / "report.html").read_text()


def test_arms_can_be_files_and_a_missing_package_is_named(
    arms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(arm / "1.mkv") for arm in arms]
    done = RUN.invoke(app, ["compare", *files, "-m", "guard.motion", "-o", str(tmp_path / "o"), "--json"])
    assert done.exit_code == 0, done.output
    assert "one prompt only" in done.stdout
    monkeypatch.setattr(evaluating, "find_spec", lambda name: None)
    done = RUN.invoke(app, [*files, "-o", str(tmp_path / "p")])
    assert done.exit_code == 1
    assert "vidguide[eval]" in done.stderr


def test_clip_above_the_memory_limit_fails_with_the_cure(arms: tuple[Path, Path], tmp_path: Path) -> None:
    path = Clip(frames=np.zeros((90, 64, 64, 3), np.uint8), fps=8).save(tmp_path / "a.mkv")
    done = RUN.invoke(app, [str(path), "--memory", "1", "-m", "guard.sharpness", "-o", str(tmp_path / "o")])
    assert done.exit_code == 3
    assert "--memory" in done.stderr
    assert RUN.invoke(app, [str(path), "-m", "guard.sharpness", "-o", str(tmp_path / "o")]).exit_code == 0
