"""Damaged files, wrong extensions, invalid manifests and impossible frames raise the error of their kind."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

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
from vidguide.eval.scoring.score import WORKING_FRAMES

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
    row = text | {"schema": results.SCHEMA, "metric": "guard.motion", "seed": 0, "value": 1.0, "status": "ok"}
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": "0.5"}, "value='0.5': must be a valid number"),
        ({"value": float("nan")}, "not JSON"),
        ({"value": float("inf")}, "not JSON"),
        ({"per_frame": ["a"]}, "per_frame"),
        ({"per_frame": 1.0}, "per_frame"),
        ({"marks": "lossy"}, "marks"),
        ({"details": "x"}, "details"),
        ({"details": {"remarks": "x"}}, "details"),
        ({"versions": [1]}, "versions"),
        ({"frames": "13"}, "frames='13'"),
        ({"fps": 0}, "fps=0"),
        ({"reason": 3}, "reason=3"),
        ({"metric": "temporal.gone"}, "metric='temporal.gone': no such metric"),
    ],
)
def test_field_of_the_wrong_type_in_results_is_named(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    text = dict.fromkeys(("clip", "arm", "prompt_id", "config_hash", "file_sha256"), "x")
    row = text | {"schema": results.SCHEMA, "metric": "guard.motion", "seed": 0, "value": 1.0, "status": "ok"}
    for name, content in (("whole", row), ("changed", row | changes)):
        (tmp_path / name).mkdir()
        (tmp_path / name / results.FINAL).write_text(json.dumps(content) + "\n")
    done = CliRunner().invoke(app, ["compare", *(str(tmp_path / name) for name in ("whole", "changed")), "-q"])
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert "results.jsonl" in done.stderr
    for encoding, expected in (("utf-8-sig", 1), ("utf-16", 0)):
        (tmp_path / "whole" / results.FINAL).write_text(json.dumps(row) + "\n", encoding=encoding)
        if expected:
            assert results.load(tmp_path / "whole") == [row]
        else:
            with pytest.raises(errors.ResultsError, match="not UTF-8"):
                results.load(tmp_path / "whole")


def test_grey_frames_of_16_bits_are_scaled(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (24, 32), dtype=np.uint16)
    grey[0, :2] = 0, 65535
    for name in ("a.png", "a.tif"):
        Image.fromarray(grey).save(tmp_path / name)
        expected = np.rint(grey / 65535 * 255).astype(np.uint8)
        np.testing.assert_array_equal(read(tmp_path / name).frames[0], np.repeat(expected[..., None], 3, -1))
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(errors.FramesError, match="32 bits"):
        read(tmp_path / "f.tif")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparent_frames_raise_and_opaque_ones_are_read(suffix: str, tmp_path: Path) -> None:
    rgba = np.concatenate([SMALL, np.full_like(SMALL[..., :1], 255)], -1)
    for index, frame in enumerate(rgba):
        Image.fromarray(frame).save(tmp_path / f"{index}{suffix}", lossless=True)
    np.testing.assert_array_equal(read(tmp_path).frames, SMALL)
    rgba[2, 3, 4, 3] = 254
    Image.fromarray(rgba[2]).save(tmp_path / f"2{suffix}", lossless=True)
    with pytest.raises(errors.FramesError, match=rf"2\{suffix}.*transparent pixels; composite"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["frame_0001.png", "frame_0002.png", "frame_0004.png"], "frame 3 is missing between 1 and 4"),
        (["a9-left.png", "a10-left.png", "a12-left.png"], "frame 11 is missing"),
        (["0.png", "0.jpg"], r"frame 0 occurs several times \(0.jpg, 0.png\)"),
        (["f1.png", "f01.png", "f2.png"], "frame 1 occurs several times"),
        (["0.png", "1.png", "1.webp", "2.png"], "frame 1 occurs several times"),
    ],
)
def test_gaps_and_repetitions_of_frame_numbers_raise(names: list[str], words: str, tmp_path: Path) -> None:
    for name in names:
        Image.fromarray(SMALL[0]).save(tmp_path / name)
    with pytest.raises(errors.FramesError, match=words):
        read(tmp_path)


def test_frame_names_without_a_common_number_are_read(tmp_path: Path) -> None:
    for name in ("first.png", "second.png", "third9.png"):
        Image.fromarray(SMALL[0]).save(tmp_path / name)
    assert len(read(tmp_path).frames) == 3


def uneven_avi(path: Path) -> bytes:
    """Return an MPEG-4 file of variable frame rate, in which empty chunks repeat the frame before."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(LARGE):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 70 * index + 30 * index**2, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def test_avi_of_variable_frame_rate_is_whole_and_a_truncated_one_is_not(tmp_path: Path) -> None:
    data = uneven_avi(tmp_path / "a.avi")
    clip = read(tmp_path / "a.avi")
    assert len(clip.frames) == COUNT
    assert any("variable frame rate" in mark for mark in clip.provenance["marks"])
    assert clip.provenance["times"] == pytest.approx([(70 * i + 30 * i**2) / 1000 for i in range(COUNT)])
    for length in range(6000, len(data) - 64, 1024):
        assert isinstance(outcome_of(tmp_path / "b.avi", data[:length]), Exception), length
    start = data.index(b"movi") + 4 + 8  # the content of the first frame
    lost = data[: start - 8] + b"99dc" + data[start - 4 :]  # the frame belongs to another stream now
    assert isinstance(outcome_of(tmp_path / "b.avi", lost), Exception)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_transport_stream_cut_within_a_packet_raises_and_a_whole_one_has_a_warning(codec: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 48, "yuv420p"
        for pixels in LARGE:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = (tmp_path / "a.ts").read_bytes()
    clip = read(tmp_path / "a.ts")
    assert len(clip.frames) == COUNT
    assert any("does not state its length" in mark for mark in clip.provenance["marks"])
    for length in range(3 * 188 + 50, len(data), 188):
        result = outcome_of(tmp_path / "b.ts", data[:length])
        assert isinstance(result, Exception), f"{length}: {result!r}"
    with pytest.raises(TruncatedError, match="end within a packet of 188"):
        read(write_bytes(tmp_path / "b.ts", data[:-1]))
    assert "read in part" in " ".join(read(write_bytes(tmp_path / "b.ts", data[:-1]), partial=True).provenance["marks"])


def test_symbolic_links_in_a_loop_score_a_clip_once(sources: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_bytes(folder / "a.mkv", sources["lossless.mkv"])
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    assert [entry.clip for entry in entries([tmp_path])] == [folder / "a.mkv"]
    assert [entry.clip for entry in entries([folder])] == [folder / "a.mkv"]


def test_clips_named_by_several_paths_are_scored_once(
    sources: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a.mkv", "b.mkv"):
        write_bytes(tmp_path / "clips" / name, sources["lossless.mkv"])
    monkeypatch.chdir(tmp_path)
    absolute = [{"clip": str(tmp_path / "clips" / name), "prompt": name, "seed": 1} for name in ("a.mkv", "b.mkv")]
    Path("m.json").write_text(json.dumps(absolute))
    for given in (Path("clips"), tmp_path / "clips", Path("clips/../clips"), Path("./clips/a.mkv")):
        listed = entries([given], Path("m.json"))
        assert sorted(str(entry.prompt) for entry in listed) == ["a.mkv", "b.mkv"], given
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    assert len(entries([tmp_path / "link"], Path("m.json"))) == 2
    assert len(entries([Path("clips"), tmp_path / "clips", Path("clips/a.mkv")])) == 2
    Path("m.json").write_text(json.dumps([{"clip": "clips/a.mkv"}, {"clip": str(tmp_path / "clips" / "a.mkv")}]))
    with pytest.raises(errors.ManifestError, match="are the same clip"):
        entries([], Path("m.json"))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.json", b'{"a.mkv": "one", "a.mkv": "two"}', "duplicate key 'a.mkv'"),
        ("m.jsonl", b'{"clip": "a", "prompt": "p", "prompt": "q"}', "line 1: duplicate key 'prompt'"),
        ("m.jsonl", '{"clip": "a", "prompt": "schön"}'.encode("latin-1"), "not UTF-8 .*save it in UTF-8"),
        ("m.json", '{"a": "p"}'.encode("utf-16"), "not UTF-8"),
        ("m.csv", b"clip,prompt\na,p,q\n", "line 2: must have 2 cells"),
        ("m.csv", b"clip,prompt\na\n", "line 2: must have 2 cells"),
        ("m.csv", b"clip,seed\na,x7\n", "line 2: seed='x7'"),
        ("m.csv", b"clip,promt\na,p\n", "unknown field 'promt'"),
        ("m.csv", b"prompt\np\n", "line 2: lacks 'clip'"),
        ("m.csv", b'clip,prompt\na,"p\n', "not CSV"),
        ("m.csv", b"", "lists no clip"),
    ],
)
def test_ambiguous_manifest_raises(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(errors.ManifestError, match=words):
        read_manifest(tmp_path / name)


def test_byte_order_mark_and_csv_are_understood(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(line, ensure_ascii=False) for line in LINES)
    (tmp_path / "m.jsonl").write_text(lines, encoding="utf-8-sig")
    expected = {line["clip"]: {name: value for name, value in line.items() if name != "clip"} for line in LINES}
    assert read_manifest(tmp_path / "m.jsonl") == expected
    text = "clip,arm,prompt,eval_prompt,negative_prompt,seed,prompt_id\n"
    text += "a.mkv,none,a large red circle moving left,,,3,one\n" + 'b.mkv,nag,"long ö",short,red,3,\n'
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "m.csv").write_text(text, encoding=encoding)
        assert read_manifest(tmp_path / "m.csv") == expected
    path = Clip(frames=SMALL, fps=8).save(tmp_path / "c.mkv")
    path.with_suffix(".json").write_text('{"prompt": "p", "seed": 1}', encoding="utf-8-sig")
    assert entries([path])[0].prompt == "p"


def test_frames_too_large_to_score_fail_with_the_cure(tmp_path: Path) -> None:
    path = Clip(frames=np.zeros((2, 256, 256, 3), np.uint8), fps=8).save(tmp_path / "a.mkv")
    arguments = [str(path), "-m", "guard.sharpness", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--memory", "8"])
    assert done.exit_code == 3
    assert "2 frames of 256 x 256 pixels needs 10 MiB, the limit is 8; scale it down or raise" in done.stderr
    assert CliRunner().invoke(app, [*arguments, "--memory", "16"]).exit_code == 0


MEASURE_MEMORY = """
import numpy as np, cv2, scipy.special
from vidguide.clip import Clip
from vidguide.eval.metrics.registry import select_metrics
from vidguide.eval.metrics.sample import Sample
def peak():
    lines = dict(line.split(':') for line in open('/proc/self/status') if line.startswith('Vm'))
    return int(lines['VmHWM'].split()[0]) << 10
def score(height, width):
    frames = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    sample = Sample(Clip(frames=frames, fps=8))
    before = peak()
    for metric in select_metrics(["temporal", "guard", "vbench.temporal_flickering"]):
        metric(sample)
    return (peak() - before) / frames[0].nbytes
score(64, 64)
print(score(900, 1200))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak memory from /proc")
def test_working_memory_of_the_metrics_is_bounded() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) <= WORKING_FRAMES
