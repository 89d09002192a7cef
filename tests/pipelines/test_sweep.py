"""Sweeps: the clips they generate, resuming, and errors before any model is loaded."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from vidguide.eval.clips.entries import entries
from vidguide.eval.scoring import results
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request.provenance import arguments_from, load_provenance
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.sweep import run as sweep_run
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.jobs import jobs
from vidguide.pipelines.sweep.run import run

SMALL: dict[str, Any] = {
    "model": "tiny-4step",
    "prompts": ["a large circle", {"prompt": "a small square", "negative_prompt": "red", "id": "square"}],
    "seeds": [3],
    "arms": {"none": "none", "NAG": "nag", "strong CFG": {"guidance": "cfg:7", "steps": 3}},
    "negative_prompt": "blue",
    "steps": 2,
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return path


def read(folder: Path, **changes: Any) -> Sweep:
    return read_sweep(write(folder, **changes))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


@pytest.mark.filterwarnings("ignore:classifier-free guidance at scale 7")
def test_every_prompt_is_generated_in_every_arm_and_scored(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = command(write(tmp_path), "-o", output, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    names = ("0000-a-large-circle-3.mkv", "0001-square-3.mkv")
    folders = ("none", "NAG", "strong-CFG")
    assert result["clips"] == [str(output / "clips" / arm / name) for name in names for arm in folders]
    assert [(each["reference"], each["other"]) for each in result["comparisons"]] == [
        ("none", "NAG"),
        ("none", "strong CFG"),
    ]
    rows = results.load(output)
    assert {row["arm"] for row in rows} == {"none", "NAG", "strong CFG"}
    assert {row["negative_prompt"] for row in rows} == {"blue", "red"}
    clip = load_provenance(output / "clips" / "strong-CFG" / "0001-square-3.json")
    assert (clip["steps"], clip["seed"], clip["guidance"][0]["scale"]) == (3, 3, 7)
    (nag,) = load_provenance(output / "clips" / "NAG" / "0001-square-3.json")["guidance"]
    assert (nag["tau"], nag["alpha"]) == (1.25, 0.5)  # of the model
    assert arguments_from(clip)["prompt"] == "a small square"
    listed = entries([output / "clips"])  # from the JSON of the clips alone
    assert {(entry.prompt_id, entry.seed) for entry in listed} == {("a large circle", 3), ("square", 3)}


def test_an_interrupted_sweep_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, seeds = read(tmp_path, arms=["none", "nag"]), []

    def generate_until_interrupted(*args: Any, **kwargs: Any) -> Any:
        seeds.append(kwargs["seed"])
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(sweep_run, "generate", generate_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(sweep, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*"))) == 3 + 2 * 2  # folders, and of each clip both files
    assert len(run(sweep, tmp_path / "out").paths) == 4
    assert len(seeds) == 5
    run(sweep, tmp_path / "out")
    assert len(seeds) == 5
    monkeypatch.setattr(sweep_run, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    message = r"was generated with \{'settings': \{'steps': 2\}\}, not \{'settings': \{'steps': 3\}\}"
    with pytest.raises(ValueError, match=message):
        run(read(tmp_path, arms=["none", "nag"], steps=3), tmp_path / "out")


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_prompts_are_read_from_a_file(tmp_path: Path, name: str) -> None:
    lines = ["a red circle", "a blue square"]
    as_json = [json.dumps({"prompt": line, "negative_prompt": "green"}) for line in lines]
    (tmp_path / name).write_text("\n\n".join(as_json if name.endswith("l") else lines))
    sweep = read(tmp_path, prompts=name, negative_prompt="black")
    assert [prompt.id for prompt in sweep.prompts] == [prompt.prompt for prompt in sweep.prompts] == lines
    assert {prompt.negative_prompt for prompt in sweep.prompts} == {"green" if name.endswith("l") else "black"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"promts": []},
            r"sweep: unknown field 'promts' \(did you mean 'prompts'\?\); must be one of arms, .*, prompts",
        ),
        ({"prompts": []}, r"prompts=\[\]: must be a list of prompts, or a file"),
        ({"prompts": None}, "prompts=None: must be a list of prompts"),
        ({"prompts": "none.txt"}, "none.txt"),
        ({"prompts": ["a", "a"]}, "prompts: duplicate 'a'; prompts must be unique or carry a unique `id`"),
        ({"prompts": ["a", " "]}, r"prompts\[1\]\.prompt=' ': must be non-empty text"),
        ({"prompts": [{"id": "a"}]}, r"lacks 'prompts\[0\]\.prompt'"),
        ({"device": 3}, "device=3: must be non-empty text"),
        ({"prompts": [3]}, r"prompts\[0\]=3: must be a mapping with fields of eval_prompt"),
        (
            {"prompts": [{"prompt": "a", "negativ": "b"}]},
            r"prompts\[0\]: unknown field 'negativ' \(did you mean 'negative_prompt'\?\)",
        ),
        ({"prompts": [{"prompt": "a", "image": "gone.png"}]}, "gone.png': there is no such file"),
        ({"prompts": ["a!", {"prompt": "b", "image": "sweep.yaml"}]}, "image: some prompts have one"),
        ({"negative_prompt": None}, "negative_prompt: is missing for 'a large circle', and 'nag' needs one"),
        ({"negative_prompt": 3}, "negative_prompt=3: must be non-empty text"),
        ({"seeds": 0}, "seeds=0: must be a list of seeds, or the number of seeds"),
        ({"seeds": 10**12}, "1000000000000 seeds: must be at most 100000"),
        ({"seeds": 100_000}, "2 prompts, 100000 seeds and 3 arms are 600000 clips; must be at most 100000"),
        ({"seeds": [1, -1]}, r"seeds\[1\]=-1: must be an integer from 0"),
        ({"seeds": [1, 1]}, "seeds: duplicate 1"),
        ({"arms": {}}, "arms={}: must be guidance specs by name"),
        ({"arms": [1]}, r"arms=\[1\]: must be guidance specs by name"),
        ({"arms": ["magic"]}, "arms.magic.guidance: guidance 'magic': unknown guidance 'magic'"),
        ({"arms": {"a": {"guidance": "nag", "step": 3}}}, r"arms\.a: unknown field 'step' \(did you mean 'steps'\?\)"),
        ({"arms": {"a": {"guidance": "nag", "steps": 0}}}, "arms.a.steps=0: must be an integer of at least 1"),
        ({"arms": {"a b": "none", "a-b": "nag"}}, "arms: the file name 'a-b' of 'a b' must be unique"),
        ({"steps": "four"}, "steps='four': must be an integer"),
        ({"model": "huge"}, "model='huge': unknown"),
    ],
)
def test_bad_input_is_refused_before_any_model_is_loaded(
    tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_run, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        run(read(tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("arms: [none")
    done = command(tmp_path / "bad.yaml")
    assert (done.exit_code, "must be YAML" in done.stderr) == (2, True)


def test_the_example_is_a_valid_sweep() -> None:
    sweep = read_sweep(Path(__file__).parents[2] / "examples" / "sweep.yaml")
    assert len(jobs(sweep, Path())) == 48


def test_a_sweep_is_not_resumed_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = read(tmp_path, prompts=["a large circle"], arms={"none": "none", "other": "none"}, steps=2, frames=5)
    paths = run(sweep, tmp_path / "out").paths
    paths[1].unlink()

    def changed(*arguments: Any, **options: Any) -> Any:
        pipe = load(*arguments, **options)
        pipe.transformer.proj_out.weight.data.mul_(1.1)
        return pipe

    monkeypatch.setattr(sweep_run, "load", changed)
    with pytest.raises(ValueError, match=f"transformer of the model has changed since {paths[0]} was generated"):
        run(sweep, tmp_path / "out")
    assert not paths[1].exists()
    recorded = json.loads(paths[0].with_suffix(".json").read_text())
    recorded["dtype"] = "bfloat16"  # of another device; its weights differ
    paths[0].with_suffix(".json").write_text(json.dumps(recorded))
    assert not run(sweep, tmp_path / "out").failed


def test_a_setup_of_defaults_is_none_and_options_are_checked(tmp_path: Path) -> None:
    sweep, path = read(tmp_path), tmp_path / "out"
    placed = dataclasses.replace(sweep, placement={"setup": Setup()})
    assert [job.request for job in jobs(sweep, path)] == [job.request for job in jobs(placed, path)]
    emag = write(tmp_path, arms={"emag": "emag"})
    result = command(emag, "-o", path, "--cache", "FasterCache")
    assert result.exit_code == 2
    assert "EMAG with cache='FasterCache'" in " ".join(result.output.split())
    assert not path.exists()
