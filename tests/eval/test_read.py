import struct
import sys
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.known_clips import translation
from vidguide.clip import Clip
from vidguide.eval.clips import errors
from vidguide.eval.clips.read import read

FRAMES = translation(frames=12, side=48).frames


def encode(path: Path, *, codec: str = "libx264", pixels: str = "yuv420p", times: list[int] | None = None) -> Path:
    """Write FRAMES at 8 per second, or at given times in 1/1000 s."""
    options = {"x264-params": "keyint=4:bframes=0"} if codec == "libx264" else {}
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=8, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 48, pixels
        if times:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index, pixels_of in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(pixels_of, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def lossless(tmp_path: Path) -> Path:
    return Clip(frames=FRAMES, fps=8).save(tmp_path / "clip.mkv")


@pytest.mark.parametrize(
    "given",
    [
        FRAMES,
        FRAMES / 255,
        (FRAMES / 255).astype(np.float32)[None],
        FRAMES.astype(np.int64),
        FRAMES.transpose(0, 3, 1, 2),
        torch.from_numpy(FRAMES),
        torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float() / 255,
        [Image.fromarray(frame) for frame in FRAMES],
        list(FRAMES),
        np.concatenate([FRAMES, np.full_like(FRAMES[..., :1], 255)], -1),
    ],
    ids=["uint8", "float64", "batched", "int64", "channels-first", "tensor", "tensor01", "pil", "list", "opaque"],
)
def test_frames_in_memory_are_unchanged(given: object) -> None:
    clip = read(given, fps=8)
    np.testing.assert_array_equal(clip.frames, FRAMES)
    assert clip.frames.dtype == np.uint8
    assert clip.provenance["marks"] == []


def test_half_precision_and_grey_frames_are_converted() -> None:
    half = read(torch.from_numpy(FRAMES).to(torch.float32).div(255).to(torch.bfloat16)).frames
    assert np.abs(half.astype(int) - FRAMES).max() <= 1
    grey = read(FRAMES[..., 0], fps=8) if FRAMES[..., 0].ndim == 4 else read(FRAMES[..., :1], fps=8)
    np.testing.assert_array_equal(grey.frames[..., 2], FRAMES[..., 0])


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (np.full((2, 8, 8, 3), np.nan), errors.FramesError, "not finite"),
        (np.full((2, 8, 8, 3), -1.0), errors.FramesError, "float in 0..1"),
        (np.full((2, 8, 8, 3), 300), errors.FramesError, "0..255"),
        (np.zeros((2, 8, 8, 5), np.uint8), errors.FramesError, r"\(H, W, 3\)"),
        (np.zeros((2, 3, 8, 3), np.uint8), errors.FramesError, "unambiguous"),
        (np.zeros((8, 8, 3), np.uint8), errors.FramesError, "one clip"),
        (np.zeros((2, 2, 8, 8, 3), np.uint8), errors.FramesError, "one clip"),
        (np.zeros((0, 8, 8, 3), np.uint8), errors.EmptyError, "at least one"),
        ([], errors.EmptyError, "at least one"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], errors.FramesError, "frame 1"),
        (np.zeros((2, 8, 8, 4), np.uint8), errors.FramesError, "transparent"),
        (np.array([["a"]]), errors.FramesError, "uint8"),
    ],
)
def test_invalid_frames_raise(given: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        read(given)


def test_invalid_arguments_raise() -> None:
    with pytest.raises(errors.TooLargeError, match="max_bytes"):
        read(FRAMES, max_bytes=1000)
    with pytest.raises(ValueError, match="reader='cv2'"):
        read(FRAMES, reader="cv2")
    with pytest.raises(ValueError, match="fps=0"):
        read(FRAMES, fps=0)


def test_lossless_files_read_bit_equal(lossless: Path, tmp_path: Path) -> None:
    clip = read(lossless)
    np.testing.assert_array_equal(clip.frames, FRAMES)
    assert (clip.fps, clip.provenance["marks"], clip.provenance["codec"]) == (8, [], "ffv1")
    assert clip.provenance["times"] == pytest.approx(np.arange(12) / 8)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(FRAMES):  # frame 10 comes after frame 9, not after frame 1
        Image.fromarray(frame).save(folder / f"f{index}.png")
    np.testing.assert_array_equal(read(folder, fps=8).frames, FRAMES)
    assert "unknown frame rate" in read(folder).provenance["marks"][0]


def test_lossy_files_have_a_warning(tmp_path: Path) -> None:
    clip = read(encode(tmp_path / "clip.mp4"))
    assert len(clip.frames) == 12
    assert "lossy (h264)" in clip.provenance["marks"][0]


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_animations_read_every_frame(suffix: str, tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(frame) for frame in FRAMES]
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=rest, duration=120, lossless=True)
    clip = read(tmp_path / f"a{suffix}")
    assert clip.frames.shape == FRAMES.shape
    assert clip.fps == pytest.approx(1 / 0.12)
    if suffix != ".gif":
        np.testing.assert_array_equal(clip.frames, FRAMES)


def test_still_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.jpg", quality=95)
    clip = read(tmp_path / "a.jpg")
    assert len(clip.frames) == 1
    assert any("lossy" in mark for mark in clip.provenance["marks"])


def test_variable_frame_rate_has_a_warning_and_times(tmp_path: Path) -> None:
    times = np.cumsum([0] + [40, 200] * 6)[:12].tolist()
    clip = read(encode(tmp_path / "vfr.mkv", codec="ffv1", pixels="bgr0", times=times))
    assert any("variable frame rate: 0.0400 to 0.2000" in mark for mark in clip.provenance["marks"])
    assert clip.provenance["times"] == pytest.approx(np.array(times) / 1000)
    assert clip.fps == pytest.approx(11 / (times[-1] / 1000))


def test_rotated_file_is_rotated(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    level = read(path).frames
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    portrait = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a phone held upright
    data = path.read_bytes()
    place = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:place] + portrait + data[place + len(identity) :])
    clip = read(path)
    np.testing.assert_array_equal(clip.frames, np.rot90(level, -1, (1, 2)))
    assert "rotation" in clip.provenance["marks"][0]


def test_broken_files_raise_the_error_of_their_kind(lossless: Path, tmp_path: Path) -> None:
    def check(name: str, data: bytes, *kinds: type[Exception]) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(kinds) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)

    mp4 = encode(tmp_path / "clip.mp4").read_bytes()
    check("half.mp4", mp4[: len(mp4) // 2], errors.TruncatedError)
    check("half.mkv", lossless.read_bytes()[: lossless.stat().st_size // 2], errors.TruncatedError)
    check("head.mkv", lossless.read_bytes()[:40], errors.UnreadableError)
    check("empty.mp4", b"", errors.EmptyError)
    check("text.mp4", b"this is no video\n" * 50, errors.UnreadableError)
    check("text.png", b"this is no image\n" * 50, errors.UnreadableError)
    with pytest.raises(errors.MissingError):
        read(tmp_path / "none.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.EmptyError):
        read(tmp_path / "folder")
    with pytest.raises(errors.TooLargeError, match="MiB"):
        read(lossless, max_bytes=50_000)


def test_audio_file_raises_no_video_error(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(bytes(4000))
    with pytest.raises(errors.NoVideoError, match="audio"):
        read(tmp_path / "sound.avi")


def test_cover_picture_raises_no_video_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
        sound, cover = container.add_stream("aac", rate=8000, layout="mono"), container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 48, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(FRAMES[0], format="rgb24")))
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        heard.rate = 8000
        container.mux(sound.encode(heard))
        container.mux(sound.encode())
    with pytest.raises(errors.NoVideoError, match="no video stream"):
        read(tmp_path / "song.m4a")


def test_frames_hidden_by_an_edit_list_are_not_missing(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    whole, data = read(path), path.read_bytes()
    place = data.index(b"elst") + 12
    length, start = struct.unpack(">Ii", data[place : place + 8])
    edited = struct.pack(">Ii", length * 8 // 12, start + 4 * 16384 // 8)  # from the fifth frame on
    path.write_bytes(data[:place] + edited + data[place + 8 :])
    clip = read(path)
    np.testing.assert_array_equal(clip.frames, whole.frames[4:])
    assert "hides 4 frames" in clip.provenance["marks"][0]


def test_partial_read_of_a_broken_file_has_a_warning(tmp_path: Path) -> None:
    data = encode(tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) * 3 // 4])
    clip = read(tmp_path / "half.mp4", partial=True)
    assert 0 < len(clip.frames) < 12
    assert "read in part" in clip.provenance["marks"][0]


def test_missing_frame_number_raises(tmp_path: Path) -> None:
    for index in (0, 1, 3):
        Image.fromarray(FRAMES[index]).save(tmp_path / f"{index:03}.png")
    with pytest.raises(errors.FramesError, match="frame 2 is missing"):
        read(tmp_path)


def test_reader_that_is_not_installed_raises_with_the_cure(lossless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match=r"vidguide\[decord\]"):
        read(lossless, reader="decord")


def test_decord_reads_the_same_pixels(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="an extra, without wheels for some platforms")
    path = translation().save(tmp_path / "clip.mkv")
    by_av, by_decord = read(path), read(path, reader="decord")
    np.testing.assert_array_equal(by_av.frames, by_decord.frames)
    assert by_decord.provenance["times"] == pytest.approx(by_av.provenance["times"], abs=1e-4)
    for broken in (encode(tmp_path / "narrow.mp4"), tmp_path / "text.mp4"):
        if not broken.exists():
            broken.write_text("no video")
        with pytest.raises(errors.UnreadableError, match="decord"):
            read(broken, reader="decord")
