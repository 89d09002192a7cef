"""Damaged files, wrong extensions, invalid manifests and impossible frames raise the error of their kind."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.known_clips import translation
from vidguide.clip import Clip
from vidguide.eval.cli import app
from vidguide.eval.clips import errors
from vidguide.eval.clips.entries import entries
from vidguide.eval.clips.errors import (
    CorruptError,
    EmptyError,
    NoVideoError,
    ReadError,
    TruncatedError,
    UnreadableError,
)
from vidguide.eval.clips.manifest import read_manifest
from vidguide.eval.clips.read import read
from vidguide.eval.schemas import ManifestEntry
from vidguide.eval.scoring import results

COUNT = 6
SMALL, LARGE = translation(frames=COUNT, side=24).frames, translation(frames=COUNT, side=48).frames
Kinds = tuple[type[Exception], ...]
NOTHING: Kinds = (EmptyError,)
HEAD: Kinds = (UnreadableError, NoVideoError, EmptyError)  # nothing decoded yet
BODY: Kinds = (TruncatedError, CorruptError, UnreadableError)


def mp4(path: Path, faststart: bool) -> bytes:
    """Return an H.264 file with its index at the front or at the end."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=8, options={"x264-params": "keyint=4:bframes=0"})
        stream.height, stream.width, stream.pix_fmt = 48, 48, "yuv420p"
        for pixels in LARGE:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def animation(path: Path) -> bytes:
    """Return an animation of all frames, written by Pillow."""
    first, *rest = [Image.fromarray(frame) for frame in SMALL]
    first.save(path, save_all=True, append_images=rest, duration=120, lossless=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return one small intact file of each kind, by name."""
    folder = tmp_path_factory.mktemp("sources")
    Image.fromarray(LARGE[0]).save(folder / "still.jpg", quality=95)
    files = {name: animation(folder / name) for name in ("moving.gif", "moving.webp", "moving.png")}
    return files | {
        "lossless.mkv": Clip(frames=SMALL, fps=8).save(folder / "lossless.mkv").read_bytes(),
        "front.mp4": mp4(folder / "front.mp4", True),
        "end.mp4": mp4(folder / "end.mp4", False),
        "still.jpg": (folder / "still.jpg").read_bytes(),
    }


def first_picture(name: str, data: bytes) -> int:
    """Return the offset of the picture data; a file truncated before it has no frame."""
    marks = {".mkv": b"\x1f\x43\xb6\x75", ".mp4": b"mdat"}
    return data.index(marks[Path(name).suffix]) if Path(name).suffix in marks else 0


def cut_short(name: str, data: bytes) -> Iterator[tuple[int, Kinds]]:
    """Yield (length, expected kinds of error) at every 64th byte."""
    start = first_picture(name, data)
    for length in range(0, len(data) - 64, 64):
        images = (UnreadableError,) if not name.endswith(".gif") else (TruncatedError, UnreadableError)
        video = HEAD if length <= start or name == "end.mp4" else BODY + NOTHING
        yield length, NOTHING if not length else video if name.endswith(("mkv", "mp4")) else images


def outcome(path: Path) -> Clip | Exception:
    """Return the clip or the ReadError; any other error propagates and fails the test."""
    try:
        return read(path)
    except ReadError as error:
        return error if path.name in str(error) else AssertionError(f"does not name the file: {error}")


def write_bytes(path: Path, data: bytes) -> Path:
    """Write bytes to a path and return it."""
    path.write_bytes(data)
    return path


def outcome_of(path: Path, data: bytes) -> Clip | Exception:
    """Write bytes to a path and return the outcome of reading it."""
    return outcome(write_bytes(path, data))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("lossless.mkv", 90),
        ("front.mp4", 40),
        ("end.mp4", 40),
        ("moving.gif", 90),
        ("moving.webp", 90),
        ("moving.png", 90),
        ("still.jpg", 10),
    ],
)
def test_truncated_file_never_reads_as_a_shorter_clip(
    name: str, least: int, sources: dict[str, bytes], tmp_path: Path
) -> None:
    data, tried = sources[name], 0
    whole = read(write_bytes(tmp_path / name, data)).frames
    for length, kinds in cut_short(name, data):
        result = outcome_of(tmp_path / name, data[:length])
        if isinstance(result, Clip):  # the truncated part has no picture data, such as the name of the encoder
            assert length > len(data) - 128
            assert np.array_equal(result.frames, whole)
            continue
        assert isinstance(result, kinds), f"{name} cut at {length}: {result!r}, expected {kinds}"
        tried += 1
    assert tried >= least


@pytest.mark.parametrize("name", ["lossless.mkv", "moving.png"])
def test_flipped_byte_of_a_lossless_file_never_changes_a_pixel_silently(
    name: str, sources: dict[str, bytes], tmp_path: Path
) -> None:
    data, refused = bytearray(sources[name]), 0
    for place in range(5, len(data), 61):
        data[place] ^= 0xFF
        result = outcome_of(tmp_path / name, bytes(data))
        if isinstance(result, Clip):
            np.testing.assert_array_equal(result.frames, SMALL, f"{name}, byte {place}")
        refused += isinstance(result, Exception)
        data[place] ^= 0xFF
    assert refused > 90


@pytest.mark.parametrize("name", ["front.mp4", "end.mp4", "moving.gif", "moving.webp", "still.jpg"])
def test_flipped_byte_raises_or_warns_or_preserves_the_frame_count(
    name: str, sources: dict[str, bytes], tmp_path: Path
) -> None:
    data, refused = bytearray(sources[name]), 0
    whole = len(read(write_bytes(tmp_path / name, bytes(data))).frames)
    for place in range(5, len(data), max(len(data) // 60, 1)):
        data[place] ^= 0xFF
        result = outcome_of(tmp_path / name, bytes(data))
        data[place] ^= 0xFF
        if isinstance(result, Clip):
            warned = any("edit list" in mark for mark in result.provenance["marks"])  # the flip may have created one
            assert warned or len(result.frames) == whole, f"{name}, byte {place}"
        refused += isinstance(result, Exception)
    assert refused


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi", ".png", ".gif", ".jpg", ".webp"])
def test_wrong_extension_reads_by_content_or_raises(suffix: str, sources: dict[str, bytes], tmp_path: Path) -> None:
    foreign = {"text": b"this is no clip\n" * 60, "json": b'{"prompt": "a red circle"}', "zeros": bytes(4096)}
    for name, data in {**sources, **foreign}.items():
        result = outcome_of(tmp_path / f"named{suffix}", data)
        if name in foreign:
            assert isinstance(result, (UnreadableError, NoVideoError)), f"{name} as {suffix}: {result!r}"
        elif isinstance(result, Clip):
            still = read(write_bytes(tmp_path / name, data))
            assert len(result.frames) == len(still.frames), f"{name} as {suffix}"
        else:
            assert isinstance(result, (UnreadableError, CorruptError)), f"{name} as {suffix}: {result!r}"


BAD_FLOATS: dict[str, Callable[[np.ndarray], object]] = {
    "float32": lambda frames: frames.astype(np.float32),
    "float64": lambda frames: frames,
    "tensor": lambda frames: torch.from_numpy(frames).float(),
    "bfloat16": lambda frames: torch.from_numpy(frames).to(torch.bfloat16),
    "half": lambda frames: torch.from_numpy(frames).half(),
    "list": lambda frames: list(frames),
    "channels first": lambda frames: frames.transpose(0, 3, 1, 2),
}


@pytest.mark.parametrize("kind", BAD_FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_single_nonfinite_value_raises(kind: str, value: float) -> None:
    for place in ((0, 0, 0, 0), (3, 7, 5, 1), (COUNT - 1, 23, 23, 2)):
        frames = SMALL / 255
        frames[place] = value
        with pytest.raises(errors.FramesError, match="not finite"):
            read(BAD_FLOATS[kind](frames))


LINES = [
    {"clip": "a.mkv", "prompt": "a large red circle moving left", "seed": 3, "arm": "none", "prompt_id": "one"},
    {"clip": "b.mkv", "eval_prompt": "short", "prompt": "long ö", "negative_prompt": "red", "seed": 3, "arm": "nag"},
]


def whole_lines(data: bytes) -> bool:
    """Return whether every line is JSON, so that a truncated manifest is a valid shorter one."""
    try:
        return bool([json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()])
    except ValueError:
        return False


def test_truncated_manifest_raises_or_has_complete_lines(tmp_path: Path) -> None:
    data = "\n".join(json.dumps(line, ensure_ascii=False) for line in LINES).encode()
    path, refused = tmp_path / "m.jsonl", 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        if whole_lines(data[:length]):
            assert list(read_manifest(path)) == ["a.mkv"]
            continue
        with pytest.raises(errors.ManifestError, match=r"m\.jsonl"):
            read_manifest(path)
        refused += 1
    assert refused > 200
    listed = json.dumps(LINES).encode()
    for length in range(0, len(listed), 3):
        (tmp_path / "m.json").write_bytes(listed[:length])
        with pytest.raises(errors.ManifestError):
            read_manifest(tmp_path / "m.json")


def test_manifest_with_flipped_bytes_is_read_or_raises_manifest_error(tmp_path: Path) -> None:
    random, refused = np.random.default_rng(0), 0
    for name, text in (("m.jsonl", "\n".join(map(json.dumps, LINES))), ("m.json", json.dumps(LINES))):
        for turn in range(120):
            damaged = bytearray(text.encode())
            for place in random.integers(0, len(damaged), 1 + turn % 4):
                damaged[place] = random.integers(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                assert read_manifest(tmp_path / name)
            except errors.ManifestError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("field", ManifestEntry.model_fields)
@pytest.mark.parametrize("value", [True, [], {}, ["a"], {"a": 1}, 1.5, float("nan"), float("inf"), "\x00", "\ud800"])
def test_field_of_the_wrong_type_is_named(field: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({**LINES[0], field: value}) + "\n")
    with pytest.raises(errors.ManifestError, match=rf"line 1: {field}="):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("field", ManifestEntry.model_fields)
def test_missing_field_has_a_default_except_clip(field: str, tmp_path: Path) -> None:
    line = {name: value for name, value in LINES[0].items() if name != field}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n")
    if field == "clip":
        with pytest.raises(errors.ManifestError, match="lacks 'clip'"):
            read_manifest(tmp_path / "m.jsonl")
        return
    (entry,) = entries([], tmp_path / "m.jsonl")
    assert getattr(entry, field) == {"arm": tmp_path.name, "prompt_id": line.get("prompt"), "prompt": None}.get(
        field, None if field != "eval_prompt" else line["prompt"]
    )


def test_truncated_json_file_of_a_clip_raises(tmp_path: Path) -> None:
    path = Clip(frames=SMALL, fps=8, provenance={"prompt": "p", "seed": 1}).save(tmp_path / "a.mkv")
    data = path.with_suffix(".json").read_bytes().rstrip()
    for length in range(0, len(data), 5):
        path.with_suffix(".json").write_bytes(data[:length])
        with pytest.raises(errors.ManifestError, match=r"a\.json"):
            entries([path])


def test_truncated_results_raise_or_have_complete_rows(tmp_path: Path) -> None:
    text = dict.fromkeys(("clip", "arm", "prompt_id", "metric", "config_hash", "file_sha256"), "x")
    row = text | {"schema": results.SCHEMA, "seed": 0, "value": 1.0, "status": "ok"}
    data = (json.dumps(row) + "\n").encode() * 2
    for length in range(1, len(data)):
        (tmp_path / results.FINAL).write_bytes(data[:length])
        if whole_lines(data[:length]):
            assert results.load(tmp_path) == [row] * data[: length + 1].count(b"\n")
            continue
        with pytest.raises(errors.ResultsError, match="line"):
            results.load(tmp_path)


def test_every_broken_clip_is_reported(sources: dict[str, bytes], tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "good.mkv").write_bytes(sources["lossless.mkv"])
    for index, length in enumerate(range(0, len(sources["lossless.mkv"]) - 64, 512)):
        (clips / f"broken{index}.mkv").write_bytes(sources["lossless.mkv"][:length])
    done = CliRunner().invoke(app, [str(clips), "-m", "guard.sharpness", "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 2, done.output
    summary = json.loads(done.stdout)
    assert {Path(failure["clip"]).name for failure in summary["failures"]} == {
        f"broken{i}.mkv" for i in range(index + 1)
    }
    (standing,) = summary["standings"]
    assert (standing["scored"], standing["failed"]) == (1, index + 1)
