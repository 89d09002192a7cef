"""Command line: files, output and errors."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from vidguide.eval.scoring import results
from vidguide.pipelines.cli.app import app


def invoke(*arguments: str) -> Result:
    """Run a command of `vidguide`."""
    return CliRunner().invoke(app, list(arguments))


def test_generate_writes_a_clip_and_a_json_that_reproduces_it(tmp_path: Path) -> None:
    output = tmp_path / "clip.mp4"
    done = invoke("generate", "a red circle", "-n", "blue", "--steps", "2", "-q", "-o", str(output), "--lossless")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.json", "clip.mkv", "clip.mp4"]
    refused = invoke("generate", "a circle", "--from", str(tmp_path / "clip.json"), "--seed", "3", "--offload", "model")
    assert refused.exit_code != 0
    assert "--from: makes the clip of its JSON again; leave out prompt, seed, offload" in refused.stderr
    reproduction = invoke("generate", "--from", str(tmp_path / "clip.json"), "-q", "-o", str(tmp_path / "again.gif"))
    assert "the same frames, bit for bit" in reproduction.output


def test_several_prompts_make_several_clips_each_with_its_json(tmp_path: Path) -> None:
    prompts = ("a red circle", "a small square")
    small = ("--steps", "1", "--frames", "5", "--seed", "7", "-q", "-o", str(tmp_path / "clip.mkv"))
    done = invoke("generate", *prompts, "--num-videos-per-prompt", "2", *small)
    assert done.exit_code == 0, done.output
    names = [f"clip-{number}-{seed}" for number in (0, 1) for seed in (7, 8)]
    assert sorted(path.stem for path in tmp_path.glob("*.mkv")) == names
    recorded = [json.loads((tmp_path / f"{name}.json").read_text()) for name in names]
    assert [(each["prompt"], each["seed"]) for each in recorded] == [(p, seed) for p in prompts for seed in (7, 8)]
    assert len({each["sha256"] for each in recorded}) == 4


def test_generate_prints_json(tmp_path: Path) -> None:
    done = invoke("generate", "a red circle", "-g", "none", "--steps", "1", "--json", "-o", str(tmp_path / "clip.png"))
    output = json.loads(done.stdout)
    assert output["guidance"] == []
    assert all(Path(path).is_file() for path in output["files"])


def test_compare_writes_a_video_a_contact_sheet_and_a_report(tmp_path: Path) -> None:
    done = invoke(
        "compare",
        "a large circle",
        "-n",
        "red",
        "-g",
        "none",
        "-g",
        "nag:alpha=0.5",
        "--steps",
        "2",
        "-q",
        "-o",
        str(tmp_path),
    )
    assert done.exit_code == 0, done.output
    assert {"comparison.mp4", "contact-sheet.png", "report.html", "arm-0.mkv", "arm-1.mkv"} <= {
        path.name for path in tmp_path.iterdir()
    }
    report = (tmp_path / "report.html").read_text()
    assert "nag:alpha=0.5 against none" in report
    assert "<script" not in report
    rows = results.load(tmp_path)
    assert {row["arm"] for row in rows} == {"none", "nag:alpha=0.5"}
    assert {row["eval_prompt"] for row in rows} == {"a large circle"}
    assert {"world.negative_present", "dual.negative_similarity", "temporal.warp_error"} <= {
        row["metric"] for row in rows if row["status"] == "ok"
    }


def test_compare_scores_one_arm_and_compares_several_with_the_first(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="prompt: the model does not know car"):
        single = invoke("compare", "a car", "--steps", "1", "--json", "-o", str(tmp_path / "one"))
    (row,) = json.loads(single.stdout)["arms"]
    assert row["arm"] == "none"
    assert row["warping error"]
    assert "as asked" not in row  # the world metrics do not apply to this prompt
    assert " against " not in (tmp_path / "one" / "report.md").read_text()
    specs = ["none", "cfg:2", "nag", "pag+s2"]
    arguments = [part for spec in specs for part in ("-g", spec)] + ["--steps", "1", "--json"]
    several = invoke("compare", "a large circle", "-n", "red", *arguments, "-o", str(tmp_path / "three"))
    rows = json.loads(several.stdout)["arms"]
    assert [row["arm"] for row in rows] == specs
    assert [row["features changed"] == "-" for row in rows] == [True, True, False, True]
    report = (tmp_path / "three" / "report.md").read_text()
    assert "`cfg:2` against `none`" in report
    assert "`nag` against `none`" in report
    assert "not over arms" in report


def test_compare_escapes_html_in_the_prompt(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="prompt: the model does not know <b>red</b>"):
        done = invoke("compare", "a <b>red</b> circle", "--steps", "1", "-q", "-o", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "<b>red</b>" not in (tmp_path / "report.html").read_text()


def test_locate_lists_attention_sites() -> None:
    done = invoke("locate", "tiny", "--json")
    sites = json.loads(done.stdout)
    assert {site["role"] for site in sites} == {"self", "text"}
    assert sites[0]["path"] == "blocks.0.attn1"


def test_locate_profiles_heads() -> None:
    small = ("--steps", "2", "--frames", "5", "--size", "32x32")
    heads = json.loads(invoke("locate", "tiny", "--profile", "--json", *small).stdout)
    assert [(head["layer"], head["head"]) for head in heads] == [(i, j) for i in range(5) for j in range(4)]
    assert all(0 < head["within_frame"] <= 1 and head["extent"] in ("spatial", "temporal", "neither") for head in heads)
    done = invoke("locate", "tiny", "--profile", "-q", *small)
    assert done.exit_code == 0
    assert "Attention along time as a percentage" in done.stdout
    assert all(f"{extent} " in done.stdout for extent in ("temporal", "spatial", "neither"))


def test_locate_lists_families() -> None:
    families = json.loads(invoke("locate", "--list", "--json").stdout)
    wan = next(family for family in families if family["family"] == "Wan")
    assert (wan["transformers"], wan["text"], wan["here"]) == ("WanTransformer3DModel", "cross-attention", "yes")
    assert invoke("locate", "--list").exit_code == 0


def test_models_lists_shipped_models_and_presets() -> None:
    models = json.loads(invoke("models", "--json").stdout)
    assert models["tiny"]["steps"] == 20
    assert models["wan2.2-14b-lightning"]["loras"][1]["component"] == "transformer_2"
    done = invoke("models")
    assert done.exit_code == 0, done.output


def test_quiet_prints_nothing_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = invoke("generate", "a red circle", "--steps", "1", "-q", "-o", str(tmp_path / "clip.png"))
    assert done.exit_code == 0, done.output
    assert capfd.readouterr().err + done.stderr == ""


def test_doctor_checks_the_environment() -> None:
    topics = json.loads(invoke("doctor", "--json").stdout)
    assert topics["families"]["WanTransformer3DModel"] == "Wan"
    assert topics["encoders"] == dict.fromkeys(("libx264", "aac", "ffv1", "flac"), "yes")
    assert "missing" not in topics["shipped models"]["tiny"]
    assert topics["kernels"]["joint attention, cpu, float32"] == "aten CPU"
    assert topics["kernels"]["NAG, EMAG"].startswith(("eager formulas: no GPU", "Triton on the GPU"))
    assert invoke("doctor").exit_code == 0


def test_doctor_reports_disabled_kernels_and_a_wrong_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGUIDE_KERNELS", "eager")
    topics = json.loads(invoke("doctor", "--json").stdout)
    assert topics["kernels"]["NAG, EMAG"] == "eager formulas: VIDGUIDE_KERNELS=eager"
    monkeypatch.setenv("VIDGUIDE_KERNELS", "fast")
    done = invoke("doctor")
    assert done.exit_code == 2
    assert "VIDGUIDE_KERNELS='fast': must be one of auto, eager" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a red circle", "-m", "huge"], "model='huge': unknown. Pass a shipped name (tiny,"),
        (["generate", "a red circle", "-m", "tiny-4steps"], "unknown (did you mean 'tiny-4step'?)"),
        (["generate", "a red circle", "--size", "64"], "size='64': must be WIDTHxHEIGHT"),
        (["generate", "a red circle", "--size", "60x64"], "width=60"),
        (["generate", "a red circle", "-g", "magic"], "unknown guidance 'magic'"),
        (["generate", "a red circle", "-g", "nag:taw=2"], "did you mean 'tau'"),
        (["generate"], "prompt: is missing"),
        (["generate", " "], "prompt=' ': must be non-empty text"),
        (["generate", "a red circle", "-o", "clip.avi"], "suffix must be one of"),
    ],
)
def test_bad_input_prints_one_line_and_writes_no_file(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_the_trace_and_of_the_heads_are_written(tmp_path: Path) -> None:
    trace, heads = tmp_path / "trace.svg", tmp_path / "heads.svg"
    arguments = ["a large circle", "-n", "red", "--steps", "1", "-q", "-o", str(tmp_path / "clip.mkv")]
    done = invoke("generate", *arguments, "--trace", str(trace))
    assert done.exit_code == 0, done.output
    assert "'change':" in done.stdout
    assert "video: relative change of the features" in "".join(ElementTree.parse(trace).getroot().itertext())
    several = ["a large circle", "a small square", "-n", "red", "--steps", "1", "-q", "-o", str(tmp_path / "two.mkv")]
    assert invoke("generate", *several, "--trace", str(trace)).exit_code == 0
    assert {path.name for path in tmp_path.glob("trace*")} == {"trace.svg", "trace-0-0.svg", "trace-1-0.svg"}
    done = invoke("locate", "tiny", "--profile", "--steps", "1", "--plot", str(heads), "-q")
    assert done.exit_code == 0, done.output
    assert "layer / head" in "".join(ElementTree.parse(heads).getroot().itertext())
    for command in (["generate", *arguments, "--trace", "t.png"], ["locate", "--profile", "--plot", "h.png"]):
        done = invoke(*command)
        assert done.exit_code == 2
        assert "the suffix must be .svg" in done.stderr
    done = invoke("locate", "--plot", "h.svg")
    assert done.exit_code == 2
    assert "plot='h.svg': needs --profile" in done.stderr
