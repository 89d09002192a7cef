"""Clips of a calibration as latents: each supported family against its pipeline's own decoding; and bad clips."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.tiny_pipelines import ALL_CASES, Case
from vidguide import EMAG, Clip
from vidguide.eval.world.oracle import read as read_scene
from vidguide.eval.world.scene import ATTRIBUTES
from vidguide.pipelines.calibration import calibrate as module
from vidguide.pipelines.calibration.calibrate import calibrate
from vidguide.pipelines.calibration.clips import UNSAID, list_clips, random_renders
from vidguide.pipelines.calibration.latents import NORMALIZATIONS, check_encodable, encode
from vidguide.pipelines.calibration.playback import Playback, playing
from vidguide.pipelines.loading.load import load

CASES = {case.pipeline: case for case in reversed(ALL_CASES)}


class DecodedError(Exception):
    """Ends a pipeline's call with what it gives to its VAE."""


def wan_vae() -> Any:
    statistics: Any = {"latents_mean": [0.5, -1.0, 0.2, 3.0], "latents_std": [2.0, 0.7, 1.5, 3.0]}
    return diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics)


def ltx_vae() -> Any:
    sizes: Any = {"block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    sizes |= {"layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1, 1)}
    sizes |= {"spatio_temporal_scaling": (True, True, True, False), "scaling_factor": 1.3}
    sizes |= {"decoder_spatio_temporal_scaling": (True, True, True, False), "decoder_causal": False}
    vae = diffusers.AutoencoderKLLTXVideo(latent_channels=4, **sizes)
    vae.latents_mean.copy_(torch.tensor([0.5, -1.0, 0.2, 3.0]))
    vae.latents_std.copy_(torch.tensor([2.0, 0.7, 1.5, 3.0]))
    return vae


def mochi_vae() -> Any:
    sizes: Any = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (32, 32, 32, 32))
    sizes |= {"layers_per_block": (1, 1, 1, 1, 1), "add_attention_block": (False,) * 5, "scaling_factor": 1.3}
    statistics = {"latents_mean": torch.randn(12).tolist(), "latents_std": (0.5 + torch.rand(12)).tolist()}
    return diffusers.AutoencoderKLMochi(latent_channels=12, **sizes, **statistics)


def cogvideox_vae() -> Any:
    sizes: Any = {"block_out_channels": (4, 4, 4, 4), "norm_num_groups": 2, "layers_per_block": 1}
    return diffusers.AutoencoderKLCogVideoX(latent_channels=4, scaling_factor=0.7, **sizes)


def hunyuan_vae() -> Any:
    sizes: Any = {"block_out_channels": (4, 4, 4, 4), "norm_num_groups": 2, "layers_per_block": 1}
    return diffusers.AutoencoderKLHunyuanVideo(latent_channels=4, scaling_factor=0.7, **sizes)


VAES = {
    "WanPipeline": wan_vae,
    "SkyReelsV2Pipeline": wan_vae,
    "LTXPipeline": ltx_vae,
    "MochiPipeline": mochi_vae,
    "CogVideoXPipeline": cogvideox_vae,
    "HunyuanVideoPipeline": hunyuan_vae,
}
MOCHI: Any = {"in_channels": 12, "out_channels": 12}


def with_vae(case: Case) -> Any:
    """Return a pipeline of a case with a small random VAE in float32."""
    torch.manual_seed(0)
    changed = Case(**{**vars(case), "config": MOCHI}) if case.pipeline == "MochiPipeline" else case
    pipe = changed.pipe(False)
    components = {**pipe.components, "vae": VAES[case.pipeline]().eval().requires_grad_(False)}
    rebuilt = type(pipe)(**components)
    rebuilt.set_progress_bar_config(disable=True)
    return rebuilt


@pytest.mark.parametrize("pipeline", VAES)
def test_encoded_clips_are_the_latents_that_the_pipeline_decodes(pipeline: str, monkeypatch: Any) -> None:
    case = CASES[pipeline]
    pipe = with_vae(case)
    size = case.call
    frames = np.random.default_rng(0).integers(0, 256, (2, size["num_frames"], size["height"], size["width"], 3))
    frames = frames.astype(np.uint8)
    latents = encode(pipe, frames)
    received = []

    def decode(latents: Tensor, *arguments: Any, **named: Any) -> Any:
        received.append(latents)
        raise DecodedError

    monkeypatch.setattr(pipe.vae, "decode", decode)
    texts = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in case.text(case.text_inputs(2)).items()}
    call = {**texts, **case.call, **case.off, "num_inference_steps": 2, "latents": latents}
    with playing(pipe, Playback(lambda position, prediction, unchanged: unchanged)), pytest.raises(DecodedError):
        pipe(**call)
    video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3) / 127.5 - 1
    expected = pipe.vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(received[0], expected, atol=1e-5, rtol=1e-5)
    assert (latents.flatten() - expected.flatten()).abs().mean() > 0.01  # they are normalized


def test_every_supported_vae_is_tested() -> None:
    assert {type(make()).__name__ for make in VAES.values()} == set(NORMALIZATIONS)


def test_other_vaes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"AllegroPipeline: its VAE is NoneType; clips can be encoded by Auto"):
        check_encodable(CASES["AllegroPipeline"].pipe(False))


def test_renders_leave_one_attribute_unsaid_in_turn() -> None:
    for index, (frames, prompt) in enumerate(random_renders(8, 3)):
        scene = vars(read_scene(frames).scene)
        said = {name for name in ATTRIBUTES if scene[name] in prompt.replace("staying ", "").split()}
        assert said == set(ATTRIBUTES) - {UNSAID[index % 4]}


# Bad input is refused before any model runs.


@pytest.fixture
def _no_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a model ran")

    for name in ("schedule", "measure", "encode"):
        monkeypatch.setattr(module, name, refuse)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load("tiny", device="cpu", progress=False)


def pairs(count: int = 2, frames: int = 13, size: int = 64) -> list[tuple[np.ndarray, str]]:
    return [(np.zeros((frames, size, size, 3), np.uint8), "a red circle")] * count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}, "clips=None: give clips with prompts for 'Wan-AI.*tiny"),
        ({"clips": []}, "clips=the given pairs: has 0; must be at least 2"),
        ({"clips": pairs(1)}, "has 1; must be at least 2"),
        ({"clips": pairs(size=48)}, r"clips='clip 0': has 13 frames of 48x48; must have 13 of 64x64"),
        ({"clips": pairs(frames=9)}, r"has 9 frames of 64x64; must have 13 of 64x64"),
        ({"clips": pairs(frames=12), "frames": 12}, "frames=12: must be 1"),
        ({"clips": [*pairs(), (np.zeros((13, 64, 32, 3), np.uint8), "")]}, r"clips='clip 2': .* 32x64"),
        ({"prompts": "prompts.json"}, "prompts='prompts.json': are of given clips"),
        ({"at": ()}, r"at=\(\): must be fractions"),
        ({"at": (0.5, 1.0)}, r"at=\(0.5, 1.0\): must be fractions of the run"),
        ({"count": 0}, "count=0: must be an integer of at least 1"),
        ({"batch": True}, "batch=True: must be an integer"),
        ({"layers": (4, 5)}, r"layers=\(4, 5\): the model's blocks are 0 to 4"),
        ({"guidance": []}, r"guidance=\[\]: give at least one"),
        (
            {"guidance": [EMAG(select=(7,))]},
            r"select=7: left out: EMAG\(select=\(7,\)\): the model's blocks are 0 to 4",
        ),
        ({"guidance": [EMAG(), EMAG(scale=3)]}, "select=0 is given twice"),
    ],
)
@pytest.mark.usefixtures("_no_model_runs")
def test_bad_arguments_are_refused_before_the_model_runs(arguments: dict[str, Any], message: str, tiny: Any) -> None:
    loaded = {} if "model" in arguments else {"pipe": tiny}
    with pytest.raises(ValueError, match=message):
        calibrate(**loaded, **arguments)


@pytest.mark.usefixtures("_no_model_runs")
def test_bad_folders_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        calibrate("tiny", clips=tmp_path / "none")
    with pytest.raises(ValueError, match="has no videos or folders of frames"):
        calibrate("tiny", clips=tmp_path)
    for name in ("a", "b"):
        Clip(frames=pairs()[0][0], fps=8).save(tmp_path / f"{name}.mkv")
    for path in tmp_path.glob("*.json"):
        path.unlink()
    with pytest.raises(ValueError, match=r"a\.mkv': has no prompt; write one as the field prompt of a\.json"):
        calibrate("tiny", clips=tmp_path)


def test_a_folder_gives_clips_and_prompts_by_sidecar_or_manifest(tmp_path: Path) -> None:
    for number, (frames, prompt) in enumerate(random_renders(2, 0)):
        Clip(frames=frames, fps=8).save(tmp_path / f"{number}.mkv")
        (tmp_path / f"{number}.json").write_text(json.dumps({"prompt": prompt}))
    sources = list_clips(tmp_path, None, None)
    renders = list(random_renders(2, 0))
    assert sources.prompts == [prompt for _, prompt in renders]
    np.testing.assert_array_equal(sources.frames([1, 0]), np.stack([renders[1][0], renders[0][0]]))
    manifest = tmp_path / "prompts.csv"
    manifest.write_text("clip,prompt\n0,first\n1,second\n")
    assert list_clips(tmp_path, manifest, None).prompts == ["first", "second"]
