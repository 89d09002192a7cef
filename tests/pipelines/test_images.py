"""Clips with a first image: image-to-video pipelines of diffusers with small random weights."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.more_pipelines import MORE_CASES
from tests.helpers.small_checkpoints import (
    SIZE,
    cogvideox_image_folder,
    ltx_folder,
    original_lora,
    wan_folder,
    wan_image_folder,
    wan_transformer,
)
from tests.helpers.tiny_pipelines import CASES
from vidguide import NAG, generate, guide
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.loading.assemble import vae_dtype
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.presets import PRESETS
from vidguide.pipelines.request.images import fit, read_image
from vidguide.pipelines.request.provenance import arguments_from, load_provenance

PROMPT = "a large circle"
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
CALL: dict[str, Any] = dict(**SIZE, steps=2, guidance_scale=1.0, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_image_folder(tmp_path_factory.mktemp("image") / "wan", encoder=True)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load(folder, device="cpu", image=True, progress=False)


def test_a_path_a_picture_and_an_array_give_the_same_clip(pipe: Any, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "first.png")
    images = (tmp_path / "first.png", str(tmp_path / "first.png"), Image.fromarray(PICTURE), PICTURE, PICTURE / 255.0)
    clips = [generate(PROMPT, pipe=pipe, image=image, **CALL) for image in images]
    assert len({clip.sha256 for clip in clips}) == 1
    assert clips[0].frames.shape == (5, 32, 32, 3)
    assert generate(PROMPT, pipe=pipe, image=255 - PICTURE, **CALL).sha256 != clips[0].sha256


def test_nag_does_not_change_image_attention(pipe: Any) -> None:
    """With zero values of the text, NAG changes nothing, although image attention still affects the output."""
    call = dict(prompt=PROMPT, image=Image.fromarray(PICTURE), height=32, width=32, num_frames=5, guidance_scale=1.0)
    call |= dict(num_inference_steps=2, output_type="latent")

    def sample(**changes: Any) -> torch.Tensor:
        return pipe(**call | changes, generator=torch.Generator().manual_seed(0)).frames

    pipe.set_progress_bar_config(disable=True)
    nag = NAG(negative_prompt="red", scale=11, alpha=0.5)
    with guide(pipe, nag):
        guided = sample()
    assert not torch.equal(guided, sample())
    values = [block.attn2.to_v for block in pipe.transformer.blocks]
    original = [(layer.weight.clone(), layer.bias.clone()) for layer in values]
    with torch.no_grad():
        for layer in values:
            layer.weight.zero_()
            layer.bias.zero_()
    try:
        with guide(pipe, nag) as run:
            without_text = sample()
        assert run.trace.summary()["change"] == 0
        assert torch.equal(without_text, sample())
        assert not torch.equal(without_text, sample(image=Image.fromarray(255 - PICTURE)))
    finally:
        with torch.no_grad():
            for layer, (weight, bias) in zip(values, original, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)


def test_default_nag_has_lower_tau_and_alpha_with_a_first_image(pipe: Any) -> None:
    default = generate(PROMPT, pipe=pipe, image=PICTURE, negative_prompt="red", **CALL).provenance["guidance"][0]
    assert default["tau"] < NAG.tau
    assert default["alpha"] < NAG.alpha
    explicit = generate(PROMPT, pipe=pipe, image=PICTURE, negative_prompt="red", guidance=[NAG()], **CALL)
    assert explicit.provenance["guidance"][0]["tau"] == NAG.tau


def test_two_experts_with_a_first_image(tmp_path: Path) -> None:
    folder = wan_image_folder(tmp_path / "wan", encoder=False)
    preset = PRESETS["wan2.2-i2v-14b-lightning"]
    for lora in preset.loras:
        file = tmp_path / Path(lora.file).name
        original_lora(file, wan_transformer(in_channels=18), seed=len(lora.component))
    loras = tuple(dataclasses.replace(lora, source=str(tmp_path), file=Path(lora.file).name) for lora in preset.loras)
    model = dataclasses.replace(preset, source=str(folder), loras=loras, **SIZE)
    plain = generate(PROMPT, model=model, image=PICTURE, device="cpu", progress=False)
    guided = generate(PROMPT, model=model, image=PICTURE, negative_prompt="red", device="cpu", progress=False)
    assert guided.provenance["trace"]["steps"] == 4
    assert plain.sha256 != guided.sha256
    with pytest.raises(ValueError, match="needs a first image; pass one"):
        generate(PROMPT, model=model, device="cpu")


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [("LTXPipeline", "LTXImageToVideoPipeline"), ("LTXConditionPipeline", "LTXConditionPipeline")],
)
def test_an_image_selects_the_image_to_video_pipeline_of_the_same_weights(
    saved: str, loaded: str, tmp_path: Path
) -> None:
    folder = ltx_folder(tmp_path / "ltx", saved)
    assert type(load(folder, device="cpu", progress=False)).__name__ == saved
    pipe = load(folder, device="cpu", image=True, progress=False)
    assert type(pipe).__name__ == loaded
    plain = generate(PROMPT, pipe=pipe, image=PICTURE, **CALL)
    assert generate(PROMPT, pipe=pipe, image=PICTURE, negative_prompt="red", **CALL).sha256 != plain.sha256
    assert generate(PROMPT, pipe=pipe, image=255 - PICTURE, **CALL).sha256 != plain.sha256
    assert generate(PROMPT, model=folder, device="cpu", **CALL).frames.shape == plain.frames.shape


def test_norm_per_frame_is_refused_where_tokens_are_not_a_grid(tmp_path: Path) -> None:
    pipe = load(ltx_folder(tmp_path / "ltx", "LTXConditionPipeline"), device="cpu", progress=False)
    with pytest.raises(ValueError, match="they are no grid"):
        generate(PROMPT, pipe=pipe, guidance=[NAG(negative_prompt="red", norm="frame")], **CALL)


def test_wan_with_a_timestep_per_token_takes_text_and_image(tmp_path: Path) -> None:
    both = wan_folder(tmp_path / "both", expand_timesteps=True)
    clip = generate(PROMPT, model=both, image=PICTURE, negative_prompt="red", device="cpu", **CALL)
    other = generate(PROMPT, model=both, image=255 - PICTURE, negative_prompt="red", device="cpu", **CALL)
    assert clip.sha256 != other.sha256
    assert clip.provenance["trace"]["steps"] == 2


def test_cogvideox_with_a_first_image(tmp_path: Path) -> None:
    pipe = load(cogvideox_image_folder(tmp_path / "cog"), device="cpu", image=True, progress=False)
    call = {**CALL, "frames": 9, "max_sequence_length": 16}
    plain = generate(PROMPT, pipe=pipe, image=PICTURE, **call)
    assert plain.frames.shape == (9, 32, 32, 3)
    assert generate(PROMPT, pipe=pipe, image=255 - PICTURE, **call).sha256 != plain.sha256
    guided = generate(PROMPT, pipe=pipe, image=PICTURE, negative_prompt="red", **call)
    assert guided.sha256 != plain.sha256


@pytest.mark.parametrize("write", [cogvideox_image_folder, ltx_folder])
def test_pipelines_that_do_not_convert_latents_run_in_bfloat16(write: Any, tmp_path: Path) -> None:
    call = {**CALL, "frames": 9, "max_sequence_length": 16, "device": "cpu", "dtype": "bfloat16"}
    clip = generate(PROMPT, model=write(tmp_path / "model"), image=PICTURE, negative_prompt="red", **call)
    assert clip.frames.shape == (9, 32, 32, 3)


def test_vaes_are_in_the_dtype_of_the_model_where_diffusers_does_not_convert_latents() -> None:
    """The pipelines' source files are read: those that convert latents, or images, name the dtype of the VAE."""
    kinds = [getattr(diffusers, name) for name in {case.pipeline for case in [*CASES, *MORE_CASES]}]
    for kind in kinds:
        source = Path(inspect.getfile(kind)).read_text()
        converts = "vae.dtype" in source or "vae.decode(" not in source
        assert (vae_dtype(kind.__name__, torch.bfloat16) == torch.float32) == converts, kind.__name__


def test_unexpected_and_missing_images_are_refused_before_loading(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = wan_folder(tmp_path / "text")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    for name in ("WanPipeline", "WanImageToVideoPipeline"):
        monkeypatch.setattr(getattr(diffusers, name), "from_pretrained", fail)
    with pytest.raises(ValueError, match="WanPipeline takes no image"):
        generate(PROMPT, model=text, image=PICTURE, device="cpu")
    with pytest.raises(ValueError, match="WanImageToVideoPipeline needs a first image"):
        generate(PROMPT, model=folder, device="cpu")
    with pytest.raises(ValueError, match=r"wan2\.1-14b-lightx2v takes no image"):
        generate(PROMPT, model="wan2.1-14b-lightx2v", image=PICTURE, device="cpu")
    with pytest.raises(ValueError, match="tiny takes no image"):
        generate(PROMPT, image=PICTURE, device="cpu")
    done = CliRunner().invoke(app, ["generate", PROMPT, "-m", str(folder), "-o", str(tmp_path / "clip.png")])
    assert done.exit_code == 2
    assert "pass one" in done.stderr


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "image=int: must be a path"),
        (np.zeros((4, 4)), r"image=float64 \(4, 4\): must be \(H, W, 3\)"),
        (np.full((4, 4, 3), 2.0), "must have values in 0..1"),
        (np.full((4, 4, 3), np.nan), "must have values in 0..1"),
        ("nowhere.png", "image='nowhere.png': cannot be read"),
        (__file__, "must be an image file"),
    ],
)
def test_other_values_are_refused_as_images(image: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        generate(PROMPT, image=image)


def test_an_image_is_cropped_to_the_aspect_ratio_of_the_clip() -> None:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = PICTURE
    assert np.array_equal(np.asarray(fit(read_image(wide), 32, 32)), PICTURE)
    assert fit(read_image(wide), None, None).size == (96, 32)


def test_a_clip_with_a_first_image_is_reproduced_from_its_json(folder: Path, tmp_path: Path) -> None:
    first, output = tmp_path / "first.png", tmp_path / "clip.png"
    Image.fromarray(PICTURE).save(first)
    size = ["--size", "32x32", "--frames", "5", "--steps", "2", "--cfg", "1", "--device", "cpu", "-q"]
    done = CliRunner().invoke(
        app, ["generate", PROMPT, "-m", str(folder), "--image", str(first), *size, "-o", str(output)]
    )
    assert done.exit_code == 0, done.output
    reproduce = ["generate", "--from", str(output.with_suffix(".json")), "-q", "-o", str(tmp_path / "again.png")]
    assert "the same frames, bit for bit" in CliRunner().invoke(app, reproduce).output
    provenance = load_provenance(output.with_suffix(".json"))
    Image.fromarray(255 - PICTURE).save(first)
    with pytest.raises(ValueError, match="must be the clip's first image, but its pixels differ"):
        arguments_from(provenance)
    provenance["image"]["path"] = None
    with pytest.raises(ValueError, match="must be given, since the clip's first image was not a file"):
        arguments_from(provenance)
    assert np.array_equal(arguments_from(provenance, PICTURE)["image"], PICTURE)
