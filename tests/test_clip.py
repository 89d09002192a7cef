"""Writing of clips: lossless and viewable formats, JSON, and complete files only."""

import json
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest

from vidguide import Clip


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
    assert provenance == {"prompt": "a red circle", "fps": 8, "sha256": original.sha256}


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
