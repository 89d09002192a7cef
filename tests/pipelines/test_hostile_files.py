"""Messages about model folders and JSON files that are broken, foreign or of a newer version."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from vidguide.clip import Clip
from vidguide.eval.files import parse_json, read_json, read_json_lines, read_text, read_yaml
from vidguide.guidances.nag import NAG
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import WEIGHTS
from vidguide.pipelines.request.fingerprint import fingerprints_of
from vidguide.pipelines.request.provenance import arguments_from, compare_clip, load_provenance

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(WEIGHTS / "tiny-4step", tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_weights(path: Path) -> None:
    weights = load_file(path)
    for name in list(weights)[:3]:
        del weights[name]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda index: edit(index, _class_name="WanPipelin"),
            r"model_index.json: _class_name='WanPipelin': diffusers .* has no WanPipelin \(did you mean 'WanPipeline'",
        ),
        (
            lambda index: edit(index, transformer=["diffusers", "WanTransformer9DModel"]),
            r"model_index.json: transformer=\['diffusers', 'WanTransformer9DModel'\]: diffusers .* has no Wan.*; pip",
        ),
        (
            lambda index: edit(index, text_encoder=["transformers", "UMT6EncoderModel"]),
            r"text_encoder=.*: transformers .* has no UMT6EncoderModel \(did you mean 'UMT5EncoderModel'\?\)",
        ),
        (lambda index: edit(index, vae=["diffusers"]), r"vae=\['diffusers'\]: must be a library and a class"),
        (lambda index: edit(index, _class_name=None), "model_index.json: lacks '_class_name'"),
        (lambda index: index.write_text("{"), "model_index.json: not JSON .*; download the folder again"),
        (lambda index: index.write_text("[]"), "model_index.json: is list, must be a JSON object; download"),
        (lambda index: index.write_bytes(b"\xff\xfe"), "model_index.json: not UTF-8 .*; download the folder again"),
        (lambda index: drop_weights(index.parent / TRANSFORMER), "transformer: its files lack 3 weights that its conf"),
        (lambda index: (index.parent / TRANSFORMER).unlink(), "no file named diffusion_pytorch_model"),
        (lambda index: (index.parent / TRANSFORMER).write_bytes(b""), "Unable to load weights"),
        (lambda index: edit(index.parent / "transformer/config.json", num_layers=9), "transformer: its files lack"),
        (
            lambda index: edit(index.parent / "transformer/config.json", num_layers="x"),
            r"transformer/config.json: num_layers='x': must be a number \(default 40\)",
        ),
        (
            lambda index: edit(index.parent / "scheduler/scheduler_config.json", shift="x"),
            r"scheduler/scheduler_config.json: shift='x': must be a number",
        ),
        (
            lambda index: (index.parent / "tokenizer/tokenizer_config.json").write_text("{"),
            "tokenizer/tokenizer_config.json: not JSON .*; download the folder again",
        ),
        (lambda index: edit(index, transformer=3), "model_index.json: transformer=3: must be a library and a class"),
        (lambda index: edit(index, scheduler="Euler"), "model_index.json: scheduler='Euler': must be a library"),
        (
            lambda index: drop_weights(index.parent / "text_encoder/model.safetensors"),
            r"its files lack weights; (.|\n)*text_encoder(.|\n)*SelfAttention",
        ),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_named_with_the_reason(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder / "model_index.json")
    with pytest.raises((OSError, ImportError), match=rf"^model='{folder}': cannot be loaded: .*{message}"):
        load(str(folder), device="cpu", progress=False)


def test_missing_weights_of_a_text_encoder_are_refused_whatever_the_verbosity(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drop_weights(folder / "text_encoder/model.safetensors")
    logger = logging.getLogger("transformers")
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with pytest.raises(OSError, match="its files lack weights"):
            load(str(folder), device="cpu", progress=False)
        assert logger.level == logging.ERROR
    finally:
        transformers.logging.set_verbosity(before)
    assert "MISSING" not in capfd.readouterr().err


def record() -> dict[str, Any]:
    """Return the JSON of a clip with every field that is read again."""
    guidance = [{**NAG(negative_prompt="red").describe(), "layers": [0]}]
    model = {"source": "a/b", "steps": 2}
    image = {"path": "image.png", "size": [2, 2], "sha256": "00"}
    fields = {"prompt": "a", "negative_prompt": "b", "model": "tiny", "seed": 0, "steps": 2, "fps": 8, "height": 64}
    return {**fields, "guidance": guidance, "preset": {"values": model, "files": {}}, "image": image, "versions": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": [{"name": "Evil"}]}, r"guidance\[0\]: name='Evil': unknown guidance 'Evil'.*must be one of NAG"),
        ({"guidance": [{"name": ["NAG"]}]}, r"guidance\[0\]: name=\['NAG'\]"),
        ({"guidance": [None]}, r"guidance\[0\]=None: must be a valid dict"),
        ({"guidance": None}, "guidance=None: must be a valid list"),
        (
            {"guidance": [{"name": "NAG", "force": 1}]},
            r"guidance\[0\]: NAG: unknown parameter 'force'.*a newer",
        ),
        ({"guidance": [{"name": "NAG", "scale": "x"}]}, r"guidance\[0\]: NAG\(scale='x'\): must be a number"),
        ({"guidance": [{"name": "NAG", "scale": None}]}, r"guidance\[0\]: NAG\(scale=None\): must be a number"),
        ({"guidance": [{"name": "NAG", "scale": 0.5}]}, r"guidance\[0\]: NAG\(scale=0.5\): must be at least 1"),
        ({"guidance": [{"name": "NAG", "layers": 3}]}, r"guidance\[0\]: NAG\(layers=3\): must be several"),
        ({"preset": {"values": None}}, r"preset\.values=None: must be a valid dict"),
        ({"preset": {"files": {}}}, r"lacks 'preset\.values'"),
        ({"preset": {"values": {"source": "a", "stepz": 1}, "files": {}}}, "preset.values: unknown field 'stepz'"),
        ({"preset": 3}, "preset=3: must be"),
        ({"image": {}}, r"lacks 'image\.path'"),
        ({"image": {"path": 3, "sha256": ""}}, r"image\.path=3: must be"),
        ({"steps": "4"}, "steps='4': must be an integer of at least 1"),
        ({"model": None}, "model=None: must be non-empty text"),
        ({"versions": []}, r"versions=\[\]: must be a valid dict"),
    ],
)
def test_foreign_provenance_names_file_field_value_and_cure(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "clip.json"
    path.write_text(json.dumps({**record(), **changes}))
    with pytest.raises((ValueError, TypeError), match=rf"^'{path}': .*{message}"):
        load_provenance(path)
    done = CliRunner().invoke(app, ["generate", "--from", str(path), "-o", str(tmp_path / "out.mkv")])
    assert (done.exit_code, str(path) in done.stderr) == (2, True)


def test_json_of_another_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.json"
    changes = {"guidance": [{"name": "NAG", "force": 1}], "versions": {"vidguide": "99.0"}}
    path.write_text(json.dumps({**record(), **changes}))
    with pytest.raises(ValueError, match=r"written by vidguide 99.0, this is .*: pip install -U vidguide"):
        load_provenance(path)


HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "Evil",
    "\0",
    [],
    [[]],
    {},
    {"x": 1},
    ["a"],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested JSON."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of nested JSON with another value at a path."""
    if not path:
        return value
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = put(content[path[0]], path[1:], value)
    return copy


def test_any_value_anywhere_is_accepted_or_refused_with_the_file(tmp_path: Path) -> None:
    path, content, refused = tmp_path / "clip.json", record(), 0
    for place in places(content):
        for value in HOSTILE:
            path.write_text(json.dumps(put(content, place, value)))
            try:
                provenance = load_provenance(path)
            except (ValueError, TypeError) as error:
                assert str(path) in str(error), (place, value)  # noqa: PT017
                refused += 1
            else:
                arguments_from({**provenance, "image": None})
    assert refused > 200


def test_any_damage_of_the_text_is_refused_with_the_file(tmp_path: Path) -> None:
    path, text, seed = tmp_path / "clip.json", json.dumps(record()).encode(), random.randrange(2**32)
    draw = random.Random(seed)
    for _ in range(200):
        damaged = bytearray(text[: draw.randrange(len(text))] if draw.random() < 0.5 else text)
        for _ in range(draw.randrange(1, 4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            arguments_from({**load_provenance(path), "image": None})
        except (ValueError, TypeError) as error:
            assert str(path) in str(error), (seed, bytes(damaged))  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"not JSON \("),
        (b"", r"not JSON \("),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'; remove all but one"),
        (b"\xff", "not UTF-8 .byte 0xff at 0"),
    ],
)
def test_files_that_are_not_json_are_named_with_the_cure(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: {message}") as caught:
        read_json(path, cure="write it again")
    assert type(caught.value) is ValueError
    assert str(caught.value).endswith(("; write it again", "remove all but one"))


def test_lines_yaml_and_constants(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a":\n')
    with pytest.raises(ValueError, match=r"a.jsonl line 3: not JSON"):
        read_json_lines(tmp_path / "a.jsonl")
    for text in ("a: [", "a: !!python/object/apply:os.system [ls]", "\0"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"a.yaml': must be YAML"):
            read_yaml(tmp_path / "a.yaml")
    assert parse_json("[NaN]", "x")[0] != parse_json("[0]", "x")[0]
    with pytest.raises(ValueError, match=r"x: not JSON .NaN is no JSON value"):
        parse_json("[NaN]", "x", finite=True)
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa")
    assert read_text(tmp_path / "bom.txt") == "a"


@pytest.mark.parametrize("content", ["a: &a [*a]", "prompts: &a [*a]\narms: [none]", "- " * 3000])
def test_yaml_that_contains_itself_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(content)
    done = CliRunner().invoke(app, ["sweep", str(path), "-o", str(tmp_path / "out")])
    assert (done.exit_code, str(path) in done.stderr) == (2, True), done.output


def test_a_changed_model_is_named_where_the_frames_differ(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(model=str(folder), steps=2, height=32, width=32, frames=5, device="cpu")
    settings["progress"] = False
    first: Clip = generate("a red circle", **settings)
    again = generate("a red circle", **settings)
    assert first.provenance["weights"] == again.provenance["weights"]
    assert {"transformer", "vae", "text_encoder", "scheduler"} <= set(first.provenance["weights"])
    weights = load_file(folder / TRANSFORMER)
    name = next(name for name, value in weights.items() if value.ndim == 2)
    save_file({**weights, name: weights[name] * 1.01}, folder / TRANSFORMER, metadata={"format": "pt"})
    edit(folder / "scheduler/scheduler_config.json", shift=2.0)
    changed = generate("a red circle", **settings)
    text = compare_clip(first.describe(), changed)
    assert "the frames differ" in text
    assert "weights of transformer: " in text
    assert "weights of scheduler: " in text
    assert "weights of vae" not in text


def test_fingerprints_change_with_any_parameter_and_not_with_the_device_or_a_copy() -> None:
    pipe = load("tiny-4step", device="cpu", progress=False)
    before = fingerprints_of(pipe)
    assert fingerprints_of(load("tiny-4step", device="cpu", progress=False)) == before
    for _, parameter in list(pipe.vae.named_parameters())[::7]:
        with torch.no_grad():
            parameter.mul_(1.001).add_(1e-4)
        after = fingerprints_of(pipe)
        assert after["vae"] != before["vae"]
        assert {**after, "vae": ""} == {**before, "vae": ""}
        before = after
