"""Clips that start from a video or have a last image, compared with plain calls of small random pipelines."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.small_checkpoints import ltx_folder, wan_folder, wan_image_folder
from vidguide import NAG, Clip, generate
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.provenance import arguments_from, load_provenance

PROMPT = "a large circle"
RANDOM = np.random.default_rng(3)
VIDEO = RANDOM.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
PICTURE = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
CALL: dict[str, Any] = dict(height=32, width=32, steps=4, guidance_scale=1.0, progress=False)
PLAIN: dict[str, Any] = dict(prompt=PROMPT, height=32, width=32, num_inference_steps=4, guidance_scale=1.0)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("video") / "wan")


@pytest.fixture(scope="module")
def pipe(wan: Path) -> Any:
    loaded = load(wan, device="cpu", video=True, progress=False)
    assert type(loaded) is diffusers.WanVideoToVideoPipeline
    return loaded


def plain(pipe: Any, **arguments: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(0)
    return to_frames(pipe(**PLAIN, **arguments, generator=generator, output_type="np").frames[0])


def test_a_clip_from_a_video_is_that_of_the_pipeline(pipe: Any) -> None:
    frames = [Image.fromarray(frame) for frame in VIDEO]
    clip = generate(PROMPT, pipe=pipe, video=VIDEO, strength=0.5, **CALL)
    assert np.array_equal(clip.frames, plain(pipe, video=frames, strength=0.5))
    assert np.array_equal(generate(PROMPT, pipe=pipe, video=VIDEO, **CALL).frames, plain(pipe, video=frames))
    shorter = generate(PROMPT, pipe=pipe, video=VIDEO, frames=5, **CALL)
    assert np.array_equal(shorter.frames, plain(pipe, video=frames[:5]))


def test_steps_count_from_the_strength_and_the_rate_is_that_of_the_video(pipe: Any) -> None:
    nag = NAG(negative_prompt="red")
    source = Clip(frames=VIDEO, fps=12)
    clip = generate(PROMPT, pipe=pipe, video=source, strength=0.5, guidance=[nag], **CALL)
    assert clip.provenance["trace"]["steps"] == 2
    assert (clip.fps, clip.provenance["frames"], clip.provenance["strength"]) == (12, 9, 0.5)
    assert generate(PROMPT, pipe=pipe, video=source, fps=6, strength=0.5, **CALL).fps == 6


def test_a_clip_from_a_video_is_made_again_from_its_json(wan: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "source.mkv", tmp_path / "clip.mkv"
    Clip(frames=VIDEO, fps=8).save(source)
    size = ["--size", "32x32", "--steps", "4", "--cfg", "1", "--device", "cpu", "-q"]
    given = ["--video", str(source), "--strength", "0.5", "-o", str(output)]
    command = ["generate", PROMPT, "-m", str(wan), *given, *size]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    again = ["generate", "--from", str(output.with_suffix(".json")), "-q", "-o", str(tmp_path / "again.mkv")]
    assert "the same frames, bit for bit" in CliRunner().invoke(app, again).output
    refused = CliRunner().invoke(app, [*again, "--strength", "0.7"])
    assert "leave out strength" in refused.stderr
    provenance = load_provenance(output.with_suffix(".json"))
    Clip(frames=255 - VIDEO, fps=8).save(source)
    with pytest.raises(ValueError, match="must be the clip's video, but its pixels differ"):
        arguments_from(provenance)
    provenance["video"]["path"] = None
    with pytest.raises(ValueError, match="must be given, since the clip's video was not a file"):
        arguments_from(provenance)
    assert np.array_equal(arguments_from(provenance, video=VIDEO)["video"], VIDEO)


def test_first_and_last_image_are_those_of_the_pipeline(tmp_path: Path) -> None:
    folder = wan_image_folder(tmp_path / "wan", encoder=False)
    pipe = load(folder, device="cpu", image=True, last_image=True, progress=False)
    clip = generate(PROMPT, pipe=pipe, image=PICTURE, last_image=255 - PICTURE, frames=5, **CALL)
    images = dict(image=Image.fromarray(PICTURE), last_image=Image.fromarray(255 - PICTURE))
    assert np.array_equal(clip.frames, plain(pipe, **images, num_frames=5))
    assert clip.sha256 != generate(PROMPT, pipe=pipe, image=PICTURE, frames=5, **CALL).sha256
    described = clip.provenance["last_image"]
    assert (described["path"], described["size"]) == (None, [32, 32])
    arguments = arguments_from({**clip.describe(), "model": str(folder)}, PICTURE, 255 - PICTURE)
    assert np.array_equal(arguments["last_image"], 255 - PICTURE)
    with pytest.raises(ValueError, match="must be the clip's last image"):
        arguments_from({**clip.describe(), "model": str(folder)}, PICTURE, PICTURE)


def test_a_pipeline_that_continues_a_video_gets_all_of_it(tmp_path: Path) -> None:
    pipe = load(ltx_folder(tmp_path / "ltx", "LTXConditionPipeline"), device="cpu", video=True, progress=False)
    clip = generate(PROMPT, pipe=pipe, video=VIDEO, frames=17, **CALL)
    frames = [Image.fromarray(frame) for frame in VIDEO]
    expected = plain(pipe, video=frames, num_frames=17, frame_rate=clip.fps, max_sequence_length=256)
    assert clip.frames.shape == (17, 32, 32, 3)
    assert np.array_equal(clip.frames, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(last_image=PICTURE), "last_image: needs the first image as well"),
        (dict(image=PICTURE, video=VIDEO), "video: cannot be combined with image"),
        (dict(strength=0.5), "strength=0.5: needs a video"),
        (dict(video=VIDEO, strength=0.0), "strength=0.0: must be above 0 and at most 1"),
        (dict(video=VIDEO, strength=float("nan")), "strength=nan: must be above 0"),
        (dict(video="nowhere.mkv"), "video: clip='nowhere.mkv': no such file"),
        (dict(video=np.zeros((3, 3))), "video: "),
        (dict(image=PICTURE, last_image="nowhere.png"), "last_image='nowhere.png': cannot be read"),
    ],
)
def test_wrong_inputs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        generate(PROMPT, progress=False, **arguments)


def test_inputs_that_a_model_does_not_take_are_refused_before_loading(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = wan_folder(tmp_path / "experts", boundary_ratio=0.9)
    text = ltx_folder(tmp_path / "text")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    for name in ("WanPipeline", "WanVideoToVideoPipeline", "LTXPipeline", "LTXImageToVideoPipeline"):
        monkeypatch.setattr(getattr(diffusers, name), "from_pretrained", fail)
    with pytest.raises(ValueError, match="video: WanPipeline takes no video; choose a video-to-video model"):
        generate(PROMPT, model=experts, video=VIDEO, device="cpu")
    with pytest.raises(ValueError, match="video: LTXPipeline takes no video"):
        generate(PROMPT, model=text, video=VIDEO, device="cpu")
    with pytest.raises(ValueError, match="last_image: LTXImageToVideoPipeline takes no last image"):
        generate(PROMPT, model=text, image=PICTURE, last_image=PICTURE, device="cpu")
    with pytest.raises(ValueError, match="video=None: WanVideoToVideoPipeline needs a video"):
        load(Model(source=str(wan), pipeline="WanVideoToVideoPipeline"), device="cpu", video=False)


def test_numbers_that_the_video_does_not_allow_are_refused(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames=13: the video has 9"):
        generate(PROMPT, pipe=pipe, video=VIDEO, frames=13, **CALL)
    with pytest.raises(ValueError, match=r"frames=8: must be 1 \+ a multiple of 2"):
        generate(PROMPT, pipe=pipe, video=VIDEO[:8], **CALL)
    with pytest.raises(ValueError, match=r"strength=0.2: takes no step of steps=4"):
        generate(PROMPT, pipe=pipe, video=VIDEO, strength=0.2, **CALL)
    with pytest.raises(ValueError, match="WanVideoToVideoPipeline needs a video; pass one"):
        generate(PROMPT, pipe=pipe, **CALL)
