"""Sweeps: what is made, that they go on where they ended, and what is refused before anything is loaded."""

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
from vidguide.pipelines.request.provenance import arguments_from, load_provenance
from vidguide.pipelines.sweep import run as sweeping
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.run import jobs, part_of, run

SMALL: dict[str, Any] = {
    "model": "tiny-4step",
    "prompts": ["a large circle", {"prompt": "a small square", "negative_prompt": "red", "id": "square"}],
    "seeds": [3],
    "arms": {"none": "none", "NAG": "nag", "strong CFG": {"guidance": "cfg:7", "steps": 3}},
    "negative_prompt": "blue",
    "steps": 2,
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return path


def read(folder: Path, **changes: Any) -> Sweep:
    return read_sweep(written(folder, **changes))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


@pytest.mark.filterwarnings("ignore:classifier-free guidance at scale 7")
def test_every_prompt_is_made_in_every_arm_and_scored(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = command(written(tmp_path), "-o", output, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    names = ("0000-a-large-circle-3.mkv", "0001-square-3.mkv")
    folders = ("none", "NAG", "strong-CFG")
    assert told["clips"] == [str(output / "clips" / arm / name) for name in names for arm in folders]
    assert [(one["reference"], one["other"]) for one in told["comparisons"]] == [
        ("none", "NAG"),
        ("none", "strong CFG"),
    ]
    rows = results.load(output)
    assert {row["arm"] for row in rows} == {"none", "NAG", "strong CFG"}
    assert {row["negative_prompt"] for row in rows} == {"blue", "red"}
    clip = load_provenance(output / "clips" / "strong-CFG" / "0001-square-3.json")
    assert (clip["steps"], clip["seed"], clip["guidance"][0]["scale"]) == (3, 3, 7)
    (own,) = load_provenance(output / "clips" / "NAG" / "0001-square-3.json")["guidance"]
    assert (own["tau"], own["alpha"]) == (1.25, 0.5)  # of the model
    assert arguments_from(clip)["prompt"] == "a small square"
    found = entries([output / "clips"])  # by what lies beside the clips alone
    assert {(one.prompt_id, one.seed) for one in found} == {("a large circle", 3), ("square", 3)}


def test_a_sweep_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made = read(tmp_path, arms=["none", "nag"]), []

    def tiring(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["seed"])
        if len(made) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(sweeping, "generate", tiring)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*"))) == 3 + 2 * 2  # folders, and of each clip both files
    assert len(run(asked, tmp_path / "out")) == 4
    assert len(made) == 5
    run(asked, tmp_path / "out")
    assert len(made) == 5
    monkeypatch.setattr(sweeping, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    message = r"was made with \{'settings': \{'steps': 2\}\}, and is now to be \{'settings': \{'steps': 3\}\}"
    with pytest.raises(ValueError, match=message):
        run(read(tmp_path, arms=["none", "nag"], steps=3), tmp_path / "out")


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_share_the_clips_and_keep_pairs_together(tmp_path: Path, parts: int) -> None:
    listed = jobs(read(tmp_path, seeds=3), tmp_path)
    shares = [part_of(listed, f"{number}/{parts}") for number in range(1, parts + 1)]
    assert sorted(job.path for share in shares for job in share) == sorted(job.path for job in listed)
    for share in shares:
        assert {(job.prompt.id, job.seed, job.arm.name) for job in share} == {
            (job.prompt.id, job.seed, arm) for job in share for arm in SMALL["arms"]
        }


def test_a_part_is_made_and_not_scored(tmp_path: Path) -> None:
    done = command(written(tmp_path, arms=["none"]), "-o", tmp_path / "out", "--part", "2/2", "-q")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clips"}
    assert len(list((tmp_path / "out").rglob("*.mkv"))) == 1


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_prompts_of_a_file(tmp_path: Path, name: str) -> None:
    lines = ["a red circle", "a blue square"]
    as_json = [json.dumps({"prompt": line, "negative_prompt": "green"}) for line in lines]
    (tmp_path / name).write_text("\n\n".join(as_json if name.endswith("l") else lines))
    asked = read(tmp_path, prompts=name, negative_prompt="black")
    assert [one.id for one in asked.prompts] == [one.prompt for one in asked.prompts] == lines
    assert {one.negative_prompt for one in asked.prompts} == {"green" if name.endswith("l") else "black"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promts": []}, "sweep: has an unknown field 'promts'; there are model, prompts"),
        ({"prompts": []}, r"prompts=\[\]: must be a list of prompts"),
        ({"prompts": None}, "prompts=None: must be a list of prompts"),
        ({"prompts": "none.txt"}, "none.txt"),
        ({"prompts": ["a", "a"]}, "prompts: 'a' is there twice"),
        ({"prompts": ["a", " "]}, "prompt=' ': is empty"),
        ({"prompts": [3]}, "prompts=3: must be fields and values, of prompt"),
        ({"prompts": [{"prompt": "a", "negativ": "b"}]}, "prompts: has an unknown field 'negativ'"),
        ({"prompts": [{"prompt": "a", "image": "gone.png"}]}, "gone.png': there is no such file"),
        ({"prompts": ["a!", {"prompt": "b", "image": "sweep.yaml"}]}, "image: some prompts have one"),
        ({"negative_prompt": None}, "negative_prompt: is missing for 'a large circle', and 'nag' needs one"),
        ({"negative_prompt": 3}, "negative_prompt=3: must be a text"),
        ({"seeds": 0}, "seeds=0: must be a list of seeds, or how many"),
        ({"seeds": [1, -1]}, "seed=-1: must be a whole number"),
        ({"seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"arms": {}}, "arms={}: must be guidance specs by name"),
        ({"arms": [1]}, "arms=1: must be a text"),
        ({"arms": ["magic"]}, "no guidance 'magic'"),
        ({"arms": {"a": {"guidance": "nag", "step": 3}}}, "arms, a: has an unknown field 'step'"),
        ({"arms": {"a": {"guidance": "nag", "steps": 0}}}, "steps=0: must be a whole number"),
        ({"arms": {"a b": "none", "a-b": "nag"}}, "arms: 'a b' would be written to 'a-b', as another is"),
        ({"steps": "four"}, "steps='four': must be a whole number"),
        ({"model": "huge"}, "model='huge': unknown"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        run(read(tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_that_is_none_and_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    for part in ("3/2", "0/2", "2", "a/b"):
        with pytest.raises(ValueError, match=f"part='{part}': must be as 2/4"):
            run(read(tmp_path), tmp_path / "out", part=part)
    (tmp_path / "bad.yaml").write_text("arms: [none")
    done = command(tmp_path / "bad.yaml")
    assert (done.exit_code, "is not YAML" in done.stderr) == (2, True)


def test_the_example_can_be_read() -> None:
    asked = read_sweep(Path(__file__).parents[2] / "examples" / "sweep.yaml")
    assert len(jobs(asked, Path())) == 48
