import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.known_clips import constant
from vidguide.clip import Clip
from vidguide.eval.clips.entries import entries, find_clips
from vidguide.eval.clips.errors import ManifestError
from vidguide.eval.clips.manifest import read_manifest

TWO = constant(frames=2, side=16)


def put(path: Path, **provenance: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Clip(frames=TWO.frames, fps=8, provenance=provenance).save(path)


def test_find_clips_searches_folders_and_prefers_lossless_files(tmp_path: Path) -> None:
    for name in ("a/one.mkv", "a/one.mp4", "a/two.mp4", "b/three.mkv", "a/sheet.png", "c/x.gif"):
        put(tmp_path / name)
    (tmp_path / "d").mkdir()
    for index in range(2):
        Image.fromarray(TWO.frames[index]).save(tmp_path / "d" / f"{index}.png")
    clips = [str(path.relative_to(tmp_path)) for path in find_clips(tmp_path)]
    assert clips == ["a/one.mkv", "a/two.mp4", "b/three.mkv", "c/x.gif", "d"]
    with pytest.raises(FileNotFoundError, match="no such"):
        find_clips(tmp_path / "none")


def test_texts_are_read_from_the_json_file_of_a_clip(tmp_path: Path) -> None:
    clip = put(tmp_path / "nag" / "one.mkv", prompt="a red square", negative_prompt="blue", seed=7, guidance=["NAG"])
    (entry,) = entries([clip])
    assert (entry.arm, entry.prompt_id, entry.seed) == ("nag", "a red square", 7)
    assert (entry.prompt, entry.eval_prompt, entry.negative_prompt) == ("a red square", "a red square", "blue")


def test_prompt_and_eval_prompt_are_separate_fields(tmp_path: Path) -> None:
    put(tmp_path / "nag" / "one.mkv", prompt="a long and flowery prompt")
    manifest = tmp_path / "prompts.jsonl"
    manifest.write_text('{"clip": "one", "eval_prompt": "short", "arm": "mine", "seed": 3}\n\n')
    (entry,) = entries([tmp_path / "nag"], manifest)
    assert (entry.prompt, entry.eval_prompt) == ("a long and flowery prompt", "short")
    assert (entry.arm, entry.prompt_id, entry.seed) == ("mine", "short", 3)


def test_negative_prompt_is_shared_by_prompt_and_seed(tmp_path: Path) -> None:
    put(tmp_path / "none" / "0.mkv", prompt="p", seed=0, negative_prompt=None)
    put(tmp_path / "none" / "1.mkv", prompt="q", seed=0)
    put(tmp_path / "nag" / "0.mkv", prompt="p", seed=0, negative_prompt="red")
    negatives = {(entry.arm, entry.prompt): entry.negative_prompt for entry in entries([tmp_path])}
    assert negatives == {("nag", "p"): "red", ("none", "p"): "red", ("none", "q"): None}


def test_missing_clip_of_a_manifest_is_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"one.mkv": "a red square", "gone.mkv": {"eval_prompt": "p"}}))
    put(tmp_path / "one.mkv")
    clips = entries([], tmp_path / "prompts.json")
    assert [entry.clip for entry in clips] == [tmp_path / "one.mkv", tmp_path / "gone.mkv"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.jsonl", '{"clip": "a"}\n{"clip": ', "line 2: not JSON"),
        ("m.jsonl", '{"prompt": "a"}', "line 1: lacks 'clip'"),
        ("m.jsonl", '{"clip": "a", "promt": "b"}', "unknown field 'promt'"),
        ("m.jsonl", '{"clip": "a", "seed": "7"}', "seed='7': must be a valid integer"),
        ("m.jsonl", '{"clip": "a", "seed": true}', "seed=True: must be a valid integer"),
        ("m.jsonl", '{"clip": "a", "prompt": ["b"]}', "must be a valid string"),
        ("m.jsonl", '{"clip": "a"}\n{"clip": "a"}', "line 2: duplicate clip 'a'"),
        ("m.jsonl", "[1]", "line 1: is list"),
        ("m.jsonl", "", "lists no clip"),
        ("m.json", "7", "must be a list"),
        ("m.json", '{"a": 7}', "is int"),
        ("m.json", "[7]", "entry 1: is int"),
        ("m.json", "\x00\xff", "not JSON"),
        ("m.json", "[" * 100_000, "not JSON"),
        ("m.json", '{"a": "\\ud800"}', "NUL or surrogate"),
        ("m.json", '{"a\\u0000": "p"}', "NUL or surrogate"),
    ],
)
def test_invalid_manifest_raises_with_its_line(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_manifest(tmp_path / name)


def test_ambiguous_name_and_invalid_json_file_raise(tmp_path: Path) -> None:
    put(tmp_path / "a" / "0.mkv")
    put(tmp_path / "b" / "0.mkv")
    (tmp_path / "m.json").write_text('{"0.mkv": "p"}')
    with pytest.raises(ManifestError, match="ambiguous"):
        entries([tmp_path / "a", tmp_path / "b"], tmp_path / "m.json")
    (tmp_path / "a" / "0.json").write_text("{")
    with pytest.raises(ManifestError, match="not JSON"):
        entries([tmp_path / "a"])
    with pytest.raises(FileNotFoundError, match="prompts="):
        entries([], tmp_path / "gone.json")
