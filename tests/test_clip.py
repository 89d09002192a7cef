"""Writing of clips: lossless and viewable formats, audio, JSON, and complete files only."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np
import pytest

from vidguide import Clip
from vidguide.clip import describe_file


def clip(frames: int = 5, height: int = 20, width: int = 31) -> Clip:
    pixels = np.random.default_rng().integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(frames=pixels, fps=8, provenance={"prompt": "a red circle"})


def decode(path: Path) -> tuple[np.ndarray, float, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate or 0), stream.codec_context.name


def test_a_mkv_file_is_lossless(tmp_path: Path) -> None:
    original = clip()
    frames, rate, codec = decode(original.save(tmp_path / "clip.mkv"))
    assert np.array_equal(frames, original.frames)
    assert (rate, codec) == (8, "ffv1")


def test_an_mp4_file_is_h264_upscaled_by_an_integer_with_even_sides(tmp_path: Path) -> None:
    original = clip()
    frames, rate, codec = decode(original.save(tmp_path / "clip.mp4"))
    assert frames.shape == (5, 240, 372, 3)
    assert (rate, codec) == (8, "h264")


def test_odd_sides_are_padded(tmp_path: Path) -> None:
    frames, _, _ = decode(clip(2, 401, 399).save(tmp_path / "clip.mp4"))
    assert frames.shape == (2, 402, 400, 3)


def test_gif_and_contact_sheet_have_every_frame(tmp_path: Path) -> None:
    original = clip()
    assert iio.imread(original.save(tmp_path / "clip.gif")).shape[0] == 5
    sheet = iio.imread(original.save(tmp_path / "clip.png"))
    assert sheet.shape == (20 * 6, 31 * 5 * 6, 3)
    assert np.array_equal(sheet[::6, ::6], np.concatenate(list(original.frames), axis=1))


def test_the_json_file_has_provenance_rate_and_hash(tmp_path: Path) -> None:
    original = clip()
    original.save(tmp_path / "clip.mkv")
    provenance = json.loads((tmp_path / "clip.json").read_text())
    files = {"clip.mkv": describe_file(tmp_path / "clip.mkv")}
    assert provenance == {"prompt": "a red circle", "fps": 8, "sha256": original.sha256, "files": files}


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.gif").write_bytes(b"an older file")

    def fail(path: Path, *args: object, **kwargs: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(iio, "imwrite", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        clip().save(tmp_path / "clip.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.gif"]
    assert (tmp_path / "clip.gif").read_bytes() == b"an older file"


def test_invalid_output_paths_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix must be one of \.mp4"):
        clip().save(tmp_path / "clip.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="folder cannot be made"):
        clip().save(tmp_path / "file" / "clip.mp4")
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(OSError, match="cannot be written"):
        clip().save(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_invalid_frames_raise(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Clip"):
        Clip(frames=frames, fps=8)


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_an_invalid_frame_rate_raises(fps: float) -> None:
    with pytest.raises(ValueError, match="fps"):
        Clip(frames=np.zeros((2, 4, 4, 3), np.uint8), fps=fps)


RATES = (16000, 24000, 32000, 44100, 48000)


def with_audio(samples: int, channels: int = 2, rate: int = 24000, frames: int = 5) -> Clip:
    """Return a clip with samples of every value that int16 has."""
    audio = np.random.default_rng().integers(-(2**15), 2**15, (samples, channels), dtype=np.int16)
    return replace(clip(frames), audio=audio, audio_sample_rate=rate)


def audio_of(original: Clip) -> np.ndarray:
    assert original.audio is not None
    return original.audio


def decode_audio(path: Path, channels: int) -> np.ndarray:
    """Return the samples of a file `(N, channels)` as its decoder returns them."""
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(container.streams.audio[0])]
    planar = len(parts[0]) == channels and channels > 1
    return np.concatenate([part.T if planar else part.reshape(-1, channels) for part in parts])


@pytest.mark.parametrize("samples", [1, 777, 4608, 24001])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_audio_in_a_mkv_file_is_exact_to_the_sample(rate: int, channels: int, samples: int, tmp_path: Path) -> None:
    original = with_audio(samples, channels, rate)
    path = original.save(tmp_path / "clip.mkv")
    assert np.array_equal(decode_audio(path, channels), audio_of(original))
    assert np.array_equal(decode(path)[0], original.frames)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("flac", rate, channels)


def tones(seconds: float, rate: int) -> np.ndarray:
    """Return a tone for each of two channels, `(N, 2)` int16."""
    times = np.arange(round(seconds * rate)) / rate
    return np.round(12000 * np.sin(2 * np.pi * np.outer(times, [440, 1000]))).astype(np.int16)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_audio_in_an_mp4_file_is_aac_in_time_with_the_frames(rate: int, channels: int, tmp_path: Path) -> None:
    audio = tones(1.2345, rate)[:, :channels]
    path = replace(clip(10), audio=audio, audio_sample_rate=rate).save(tmp_path / "clip.MP4")
    with av.open(str(path)) as container:
        sound: Any = container.streams.audio[0]
        video: Any = container.streams.video[0]
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", rate, channels)
        assert (sound.duration * sound.time_base, sound.start_time) == (Fraction(len(audio), rate), 0)
        assert float(video.duration * video.time_base) == pytest.approx(10 / 8, abs=1e-3)
        decoded = [frame.to_ndarray() for frame in container.decode(sound)]
    heard = np.concatenate(decoded, axis=1)[:, : len(audio)].T
    for mine, theirs in zip(heard.T, audio.T / 32768, strict=True):
        assert np.corrcoef(mine, theirs)[0, 1] > 0.99  # a shift by a frame of the encoder would lower it


def test_packets_of_frames_and_audio_are_written_in_the_order_of_their_times(tmp_path: Path) -> None:
    path = with_audio(24000 * 20, frames=8 * 20).save(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    for at in range(0, len(kinds) - 100, 100):
        assert {*kinds[at : at + 100]} == {"audio", "video"}


def test_the_json_file_has_the_rate_and_the_hash_of_the_audio(tmp_path: Path) -> None:
    original = with_audio(1000)
    original.save(tmp_path / "clip.mkv")
    assert json.loads((tmp_path / "clip.json").read_text()) == {
        "prompt": "a red circle",
        "fps": 8,
        "sha256": clip_hash(original.frames),
        "audio_sample_rate": 24000,
        "audio_sha256": clip_hash(audio_of(original)),
        "files": {"clip.mkv": describe_file(tmp_path / "clip.mkv")},
    }
    assert replace(original, audio=audio_of(original)[:-1]).audio_sha256 != original.audio_sha256


def clip_hash(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_a_format_without_audio_warns(suffix: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=rf"output='{suffix}': has no audio.*write \.mp4 or \.mkv"):
        with_audio(1000).save(tmp_path / f"clip{suffix}")


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (
            np.zeros((9, 2)),
            24000,
            r"Clip\(audio=float64 \(9, 2\)\): must be a numpy array \(samples, channels\) of int16",
        ),
        (np.full((9, 2), np.nan, np.float32), 24000, r"audio=float32 \(9, 2\)\): must be"),
        (np.zeros(9, np.int16), 24000, r"audio=int16 \(9,\)\): must be"),
        ([[0], [1]], 24000, r"audio=list\): must be"),
        (np.zeros((0, 2), np.int16), 24000, r"audio=\(0, 2\)\): must have at least one sample, of 1 or 2 channels"),
        (np.zeros((2, 9), np.int16), 24000, r"audio=\(2, 9\)\): must have .* 1 or 2 channels"),
        (np.zeros((9, 2), np.int16), 0, r"audio_sample_rate=0\): must be an integer above 0"),
        (np.zeros((9, 2), np.int16), -24000, r"audio_sample_rate=-24000\): must be"),
        (np.zeros((9, 2), np.int16), 24000.5, r"audio_sample_rate=24000.5\): must be"),
        (np.zeros((9, 2), np.int16), None, r"audio_sample_rate=None\): must be an integer above 0"),
        (None, 24000, r"audio_sample_rate=24000\): must be None without audio"),
    ],
)
def test_invalid_audio_raises(audio: Any, rate: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clip(frames=np.zeros((2, 4, 4, 3), np.uint8), fps=8, audio=audio, audio_sample_rate=rate)


def test_a_rate_that_aac_does_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    odd = with_audio(1000, rate=12345)
    with pytest.raises(ValueError, match=r"audio_sample_rate=12345\): \.mp4 has audio at 7350, .*96000; write \.mkv"):
        odd.save(tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())
    assert np.array_equal(decode_audio(odd.save(tmp_path / "clip.mkv"), 2), audio_of(odd))
