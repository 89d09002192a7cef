"""generate(), compare(), sweep and --from with pipelines that make audio."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from tests.helpers.audio_pipelines import AUDIBLE, Audible
from tests.helpers.common_pipelines import case_of
from vidguide import NAG, Clip, generate, guide
from vidguide.eval.clips.read import read
from vidguide.pipelines import compare as compare_module
from vidguide.pipelines import generate as generate_module
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.compare import Comparison, compare
from vidguide.pipelines.generate import to_samples
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.provenance import arguments_from, compare_clip, load_provenance
from vidguide.pipelines.request.visual_inputs import takes
from vidguide.pipelines.sweep import run as sweep_run
from vidguide.pipelines.sweep.config import read_sweep

PROMPT, MODEL = "a red circle", "org/tiny"  # the model is a name in the provenance only
audible = pytest.mark.parametrize("case", AUDIBLE, ids=lambda case: case.pipeline)


Pipes = dict[str, Any]


@pytest.fixture(scope="module")
def pipes() -> Pipes:
    return {case.pipeline: case.pipe() for case in AUDIBLE}


def clip_of(case: Audible, pipe: Any, **changes: Any) -> Clip:
    return generate(**dict(prompt=PROMPT, model=MODEL, pipe=pipe, progress=False) | case.settings | changes)


def called(case: Audible, pipe: Any, **call: Any) -> Any:
    """Return the output of the pipeline's own call with the settings of the case."""
    names = {"steps": "num_inference_steps", "frames": "num_frames", "fps": "frame_rate"}
    settings = {names.get(name, name): value for name, value in case.settings.items()}
    if case.pipeline == "LTX2Pipeline":  # else it runs classifier-free guidance for the audio
        settings["audio_guidance_scale"] = 1.0
    return pipe(prompt=PROMPT, **settings | call, generator=torch.Generator().manual_seed(0), output_type="np")


@audible
def test_the_audio_is_the_pipelines(case: Audible, pipes: Pipes) -> None:
    pipe = pipes[case.pipeline]
    clip, output = clip_of(case, pipe), called(case, pipe)
    waveform = np.asarray(output.audio)[0].reshape(case.channels, -1).T.astype(np.float64)
    assert clip.audio is not None
    assert (clip.audio.shape, clip.audio_sample_rate) == ((len(waveform), case.channels), case.rate)
    assert np.abs(waveform).max() < 1
    assert np.abs(clip.audio / 32767 - waveform).max() <= 0.5001 / 32767
    assert all(len(np.unique(channel)) > 50 for channel in clip.audio.T)
    assert np.array_equal(clip.frames, np.round(output.frames[0] * 255))


@audible
def test_guidance_of_the_audio_changes_it_and_is_traced(case: Audible, pipes: Pipes) -> None:
    pipe = pipes[case.pipeline]
    guided = {on: clip_of(case, pipe, guidance=[NAG(negative_prompt="blue", on=on)]) for on in ("video", "audio")}
    assert len({clip_of(case, pipe).audio_sha256, *(clip.audio_sha256 for clip in guided.values())}) == 3
    traces = {on: clip.provenance["trace"] for on, clip in guided.items()}
    assert traces["video"].keys() == {"steps", "layers", "clamped", "change"}
    assert traces["audio"].keys() == {"steps", "layers", "audio_clamped", "audio_change"}
    assert [clip.provenance["guidance"][0]["on"] for clip in guided.values()] == ["video", "audio"]


@audible
def test_the_negative_prompt_of_a_call_guides_the_audio(case: Audible, pipes: Pipes) -> None:
    pipe, waveforms, off = pipes[case.pipeline], [], case_of(case.pipeline).off
    for guidance, call in (
        (NAG(on="audio"), {"negative_prompt": "blue"}),
        (NAG(negative_prompt="blue", on="audio"), {}),
    ):
        with guide(pipe, guidance) as run:
            waveforms.append(torch.as_tensor(called(case, pipe, **off | call).audio))
        assert {record.stream for record in run.trace} == {"audio"}
    assert torch.equal(*waveforms)
    assert not torch.equal(waveforms[0], torch.as_tensor(called(case, pipe, **off).audio))


@audible
def test_frames_and_audio_are_reproduced_from_the_json(case: Audible, pipes: Pipes, tmp_path: Path) -> None:
    pipe = pipes[case.pipeline]
    guidance = [NAG(negative_prompt="blue", on="audio")]
    clip = clip_of(case, pipe, guidance=guidance, seed=4)
    path = clip.save(tmp_path / "clip.mkv")
    restored = read(path, audio=True)
    assert (restored.audio_sha256, restored.audio_sample_rate) == (clip.audio_sha256, case.rate)
    provenance = load_provenance(tmp_path / "clip.json")
    assert (provenance["audio_sha256"], provenance["audio_sample_rate"]) == (clip.audio_sha256, case.rate)
    arguments = arguments_from(provenance)
    again = generate(**arguments, pipe=pipe, progress=False)
    assert compare_clip(provenance, again) == "the same frames and audio, bit for bit"


def test_frames_and_audio_are_compared_each() -> None:
    frames, audio = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((9, 1), np.int16)
    clip = Clip(frames=frames, fps=8, audio=audio, audio_sample_rate=16000)
    recorded, louder, silent = clip.describe(), replace(clip, audio=audio + 1), Clip(frames=frames, fps=8)
    unexplained = ": no recorded version, device, dtype, file or weight has changed"
    assert compare_clip(recorded, clip) == "the same frames and audio, bit for bit"
    assert compare_clip(recorded, louder) == f"the audio differs from the original's{unexplained}"
    assert (
        compare_clip(recorded, replace(louder, frames=frames + 1))
        == f"the frames and audio differ from the original's{unexplained}"
    )
    assert compare_clip(recorded, silent) == f"the audio differs from the original's{unexplained}"
    assert compare_clip(silent.describe(), silent) == "the same frames, bit for bit"
    without = "the same frames, bit for bit; the audio of the original was not recorded"
    assert compare_clip(silent.describe(), clip) == without


@pytest.mark.skipif(len(AUDIBLE) < 2, reason="this diffusers has no Kandinsky 6")
def test_a_clip_has_no_audio_where_the_call_makes_none(pipes: Pipes, tmp_path: Path) -> None:
    case = AUDIBLE[1]
    pipe = pipes[case.pipeline]
    clip = clip_of(case, pipe, model=Model(source=MODEL, call={"sample_audio": False}))
    assert (clip.audio, clip.audio_sample_rate) == (None, None)
    clip.save(tmp_path / "clip.mkv")
    assert not {name for name in load_provenance(tmp_path / "clip.json") if name.startswith("audio")}
    assert takes(type(pipe), "image") == "may"


@audible
def test_the_command_line_writes_the_audio_and_reproduces_it(
    case: Audible, pipes: Pipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, settings = pipes[case.pipeline], case.settings
    monkeypatch.setattr(generate_module, "load", lambda *args, **kwargs: pipe)
    size = f"{settings['width']}x{settings['height']}"
    options = ["-m", MODEL, "--cfg", "1", "--steps", "2", "--size", size, "--frames", str(settings["frames"]), "-q"]
    done = CliRunner().invoke(app, ["generate", PROMPT, *options, "--lossless", "-o", str(tmp_path / "clip.mp4")])
    assert done.exit_code == 0, done.output
    recorded = load_provenance(tmp_path / "clip.json")
    assert read(tmp_path / "clip.mkv", audio=True).audio_sha256 == recorded["audio_sha256"]
    heard, exact = (read(tmp_path / f"clip.{suffix}", audio=True).audio for suffix in ("mp4", "mkv"))
    assert heard is not None
    assert exact is not None
    assert heard.shape == exact.shape
    again = ["generate", "--from", str(tmp_path / "clip.json"), "-q", "-o", str(tmp_path / "again.mkv")]
    done = CliRunner().invoke(app, again)
    assert "the same frames and audio, bit for bit" in done.output
    printed = CliRunner().invoke(app, ["generate", PROMPT, *options, "--json", "-o", str(tmp_path / "third.mkv")])
    assert json.loads(printed.stdout)["audio_sha256"] == recorded["audio_sha256"]


@audible
def test_clips_of_a_sweep_have_their_audio(
    case: Audible, pipes: Pipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes[case.pipeline]
    monkeypatch.setattr(sweep_run, "load", lambda *args, **kwargs: pipe)
    content = {"model": MODEL, "prompts": [PROMPT], "seeds": [3], "negative_prompt": "blue", **case.settings}
    content["arms"] = {"none": "none", "audio": "nag:on=audio"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    paths = sweep_run.run(read_sweep(tmp_path / "sweep.yaml"), tmp_path / "out").paths
    guidance = [NAG(negative_prompt="blue", on="audio")]
    expected = [clip_of(case, pipe, seed=3), clip_of(case, pipe, seed=3, guidance=guidance)]
    written = [read(path, audio=True) for path in paths]
    assert [clip.audio_sha256 for clip in written] == [clip.audio_sha256 for clip in expected]
    assert written[0].audio_sha256 != written[1].audio_sha256


@audible
def test_compared_clips_have_their_audio(
    case: Audible, pipes: Pipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes[case.pipeline]
    monkeypatch.setattr(compare_module, "load", lambda *args, **kwargs: pipe)
    specs = ["none", "nag:on=audio"]
    result = compare(PROMPT, specs, negative_prompt="blue", model=MODEL, progress=False, **case.settings)
    files = {path.name for path in result.save(tmp_path)}
    clips = list(result.clips.values())
    assert files == {"comparison.mp4", "contact-sheet.png", "arm-0.mkv", "arm-1.mkv", "arm-0.mp4", "arm-1.mp4"}
    assert read(tmp_path / "comparison.mp4", audio=True).audio is None
    for index, clip in enumerate(clips):
        lossless, viewable = (read(tmp_path / f"arm-{index}.{kind}", audio=True) for kind in ("mkv", "mp4"))
        assert lossless.audio_sha256 == clip.audio_sha256
        assert viewable.audio is not None
        assert lossless.audio is not None
        assert viewable.audio.shape == lossless.audio.shape
    opening = result.opening(tmp_path)
    assert [(player.caption, player.silent) for player in opening.players] == [
        ("", True),
        ("none", False),
        ("nag:on=audio", False),
    ]
    embedded = opening.players[2].source.removeprefix("data:video/mp4;base64,")
    assert base64.b64decode(embedded) == (tmp_path / "arm-1.mp4").read_bytes()
    monkeypatch.setattr(compare_module, "MAX_EMBEDDED", 10)
    assert result.opening(tmp_path).players[2].source == "arm-1.mp4"
    silent = replace(clips[0], audio=None, audio_sample_rate=None)
    opening = Comparison(prompt="", negative_prompt=None, clips={"none": silent}).opening(tmp_path)
    assert len(opening.players) == 1
    none, nag = result.rows(result.evaluate(tmp_path))
    assert none["audio features changed"] == ""
    assert nag["audio features changed"].endswith("%")


def test_samples_are_clipped_and_rounded() -> None:
    values = torch.tensor([[-1.5, -1.0, 0.0, 0.4 / 32767, 0.6 / 32767, 1.0, 1.5]])
    expected = np.array([-32767, -32767, 0, 0, 1, 32767, 32767])
    for waveform in (values, values[0], values.numpy(), values.double()):
        samples = to_samples(waveform)
        assert samples.dtype == np.int16
        assert samples.shape == (7, 1)
        assert np.array_equal(samples[:, 0], expected)
    stereo = to_samples(torch.stack([values[0], -values[0]]).bfloat16())
    assert stereo.shape == (7, 2)
    assert np.array_equal(stereo[:, 0], -stereo[:, 1])


def test_nan_and_other_shapes_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="audio: 25% of the values are NaN; the model overflowed"):
        to_samples(torch.tensor([0.0, float("nan"), 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"audio\(1, 2, 9\): must be \(samples,\) or \(channels, samples\)"):
        to_samples(torch.zeros(1, 2, 9))


@audible
def test_nan_in_the_audio_is_refused(case: Audible) -> None:
    pipe = case.pipe()
    for parameter in pipe.vocoder.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="audio: 100% of the values are NaN"):
        clip_of(case, pipe)
