"""Reading of audio: sample-exact from FLAC, cut to its length from AAC, and errors instead of damaged sound."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.known_clips import translation
from vidguide.clip import Clip
from vidguide.eval.clips import errors
from vidguide.eval.clips.read import read

FRAMES = translation(frames=12, side=48).frames


def clip(samples: int, channels: int = 2, rate: int = 24000) -> Clip:
    """Return a clip with a random walk as audio, whose low tones lossy codecs preserve."""
    steps = np.random.default_rng().normal(0, 300, (samples, channels))
    audio = np.clip(np.cumsum(steps, axis=0) % 20000 - 10000, -30000, 30000).astype(np.int16)
    return Clip(frames=FRAMES, fps=8, audio=audio, audio_sample_rate=rate)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("samples", "rate"), [(36001, 24000), (1, 16000), (777, 44100), (72000, 48000)])
def test_a_lossless_clip_is_read_back_with_the_same_hashes(
    samples: int, rate: int, channels: int, tmp_path: Path
) -> None:
    original = clip(samples, channels, rate)
    restored = read(original.save(tmp_path / "clip.mkv"), audio=True)
    assert (restored.sha256, restored.audio_sha256) == (original.sha256, original.audio_sha256)
    assert restored.audio_sample_rate == rate
    assert restored.provenance["marks"] == []


@pytest.mark.parametrize("rate", [16000, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 777, 1024, 24001])
def test_aac_is_cut_to_the_number_of_samples(samples: int, rate: int, tmp_path: Path) -> None:
    original = clip(samples, rate=rate)
    restored = read(original.save(tmp_path / "clip.mp4"), audio=True)
    assert original.audio is not None
    assert restored.audio is not None
    assert (restored.audio.shape, restored.audio_sample_rate) == (original.audio.shape, rate)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_audio_changes_no_frame_and_is_read_on_request(suffix: str, tmp_path: Path) -> None:
    silent = Clip(frames=FRAMES, fps=8).save(tmp_path / f"silent{suffix}")
    audible = clip(36000).save(tmp_path / f"audible{suffix}")
    assert read(silent).sha256 == read(audible).sha256
    assert read(audible).audio is None
    assert read(silent, audio=True).audio is None
    assert read(FRAMES, audio=True).audio is None


def test_24_bits_are_rounded_to_16(tmp_path: Path) -> None:
    values = np.random.default_rng().integers(-(2**31), 2**31, 5000, dtype=np.int32) >> 8 << 8
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("ffv1", rate=8), container.add_stream("flac", rate=24000, layout="mono")
        video.width, video.height, video.pix_fmt, sound.format = 48, 48, "bgr0", "s32"
        container.mux(video.encode(av.VideoFrame.from_ndarray(FRAMES[0], format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(values[None, :4096], format="s32", layout="mono")
        frame.sample_rate, frame.pts = 24000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    audio = read(path, audio=True).audio
    assert audio is not None
    assert len(audio) == 4096
    assert np.abs(audio[:, 0] - values[:4096] / 2**16).max() <= 1


def six_channels(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("ffv1", rate=8), container.add_stream("flac", rate=24000, layout="5.1")
        video.width, video.height, video.pix_fmt = 48, 48, "bgr0"
        container.mux(video.encode(av.VideoFrame.from_ndarray(FRAMES[0], format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 6 * 4096), np.int16), format="s16", layout="5.1")
        frame.sample_rate, frame.pts = 24000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def test_more_than_two_channels_are_refused_where_audio_is_read(tmp_path: Path) -> None:
    path = six_channels(tmp_path / "clip.mkv")
    assert read(path).audio is None
    with pytest.raises(errors.AudioError, match="its audio has 6 channels, must have 1 or 2; mix them down"):
        read(path, audio=True)


@pytest.mark.parametrize("seed", range(5))
def test_one_wrong_bit_of_lossless_audio_is_refused(seed: int, tmp_path: Path) -> None:
    """FLAC has a checksum in each frame; FFmpeg's decoder ignores it by default, and returns other samples."""
    path = clip(20000).save(tmp_path / "clip.mkv")
    with av.open(str(path)) as container:
        packet = next(bytes(packet) for packet in container.demux(container.streams.audio[0]))
    content = bytearray(path.read_bytes())
    content[content.index(packet) + int(np.random.default_rng(seed).integers(20, len(packet)))] ^= 4
    path.write_bytes(content)
    assert read(path).audio is None
    with pytest.raises(errors.CorruptError, match="damaged audio"):
        read(path, audio=True)


def test_an_mp4_file_with_fewer_samples_than_it_states_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(24001).save(tmp_path / "clip.mp4")
    monkeypatch.setattr("vidguide.eval.clips.audio.stated_samples", lambda container, stream: 10**6)
    with pytest.raises(errors.TruncatedError, match="truncated: 24576 of 1000000 audio samples"):
        read(path, audio=True)


def test_audio_of_a_file_without_frames_is_no_clip(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(bytes(4000))
    with pytest.raises(errors.NoVideoError, match="audio"):
        read(tmp_path / "sound.avi", audio=True)
