"""Presets: whole ones run from small checkpoints in the layouts of real ones, and the table they are read from."""

import dataclasses
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import huggingface_hub
import pytest
import torch
from torch import Tensor

from tests.helpers.small_checkpoints import (
    SIZE,
    ltx_folder,
    ltx_single_file,
    original_lora,
    peft_lora,
    wan_folder,
    wan_transformer,
)
from vidguide import CFG, NAG, generate
from vidguide.pipelines.compare import compare
from vidguide.pipelines.loading.hub import fingerprints
from vidguide.pipelines.loading.load import load, resolve
from vidguide.pipelines.models.presets import MODELS, PRESETS
from vidguide.pipelines.models.spec import SHIPPED, Checkpoint, Model
from vidguide.pipelines.models.table import markdown
from vidguide.pipelines.request.call_settings import SETTINGS, call_arguments, fill_settings, prepared
from vidguide.pipelines.request.images import takes_image
from vidguide.pipelines.request.provenance import arguments_from, load_provenance

PROMPT = "a large circle"
ROOT = Path(__file__).parents[2]


def moved(name: str, folder: Path, files: dict[str, str] | None = None) -> Model:
    """A preset whose ids point to local folders, small enough for a test; `files` by the component they are for."""
    preset = PRESETS[name]
    loras = tuple(
        dataclasses.replace(lora, source=str(folder.parent), file=(files or {})[lora.component])
        for lora in preset.loras
    )
    return dataclasses.replace(preset, source=str(folder), loras=loras, **SIZE)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("one") / "wan")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("two") / "wan", boundary_ratio=0.5)


def sigmas_of(pipe: Any, call: dict[str, Any]) -> tuple[list[Tensor], list[float]]:
    """Noise levels and timesteps that a call of a pipeline went through."""
    seen: list[Any] = []
    steps: list[float] = []

    def watch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        steps.append(float(kwargs["timestep"].flatten()[0]))
        seen.append(pipe.scheduler.sigmas.tolist())

    handles = [
        module.register_forward_pre_hook(watch, with_kwargs=True)
        for name in ("transformer", "transformer_2")
        if (module := getattr(pipe, name, None)) is not None
    ]
    generate(PROMPT, pipe=pipe, progress=False, **call)
    for handle in handles:
        handle.remove()
    return seen, steps


def effective(linear: Any) -> Tensor:
    """Weight of a linear layer with its adapters: its answer to the identity."""
    weight = linear(torch.eye(linear.in_features)).T
    return weight if linear.bias is None else weight - linear.bias[:, None]


@pytest.mark.parametrize("write", [peft_lora, original_lora])
def test_an_adapter_adds_its_product_at_its_strength(write: Any, wan: Path) -> None:
    added = write(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = moved("wan2.1-14b-lightx2v", wan, {"transformer": "lora.safetensors"})
    model = dataclasses.replace(model, loras=(dataclasses.replace(model.loras[0], strength=0.5),))
    pipe, plain = load(model, device="cpu", progress=False), wan_transformer()
    for name, change in added.items():
        layer = name.removesuffix(".weight")
        expected = plain.get_submodule(layer).weight + 0.5 * change
        torch.testing.assert_close(effective(pipe.transformer.get_submodule(layer)), expected, atol=1e-5, rtol=1e-4)


def test_the_steps_of_lightx2v_are_those_it_was_distilled_for(wan: Path) -> None:
    """Timesteps 1000, 750, 500, 250 under a shift of 5, by Euler: s -> 5 s / (1 + 4 s)."""
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = moved("wan2.1-14b-lightx2v", wan, {"transformer": "lora.safetensors"})
    pipe = load(model, device="cpu", progress=False)
    expected = [5 * s / (1 + 4 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    seen, steps = sigmas_of(pipe, {"model": model})
    assert type(pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    assert steps == pytest.approx([1000 * s for s in expected])
    assert seen[0] == pytest.approx([*expected, 0.0])
    with pytest.warns(UserWarning, match="steps=2: the model's own noise levels are for 4 steps"):
        assert len(sigmas_of(pipe, {"model": model, "steps": 2})[1]) == 2


def test_two_experts_get_their_own_adapters_and_share_the_steps(experts: Path) -> None:
    files = {"transformer": "high.safetensors", "transformer_2": "low.safetensors"}
    transformers = {"transformer": wan_transformer(), "transformer_2": wan_transformer(1)}
    added = {
        name: original_lora(experts.parent / file, transformers[name], seed)
        for seed, (name, file) in enumerate(files.items())
    }
    model = moved("wan2.2-14b-lightning", experts, files)
    pipe = load(model, device="cpu", progress=False)
    assert pipe.config.boundary_ratio == 0.875
    for name, changes in added.items():
        layer = "blocks.1.attn2.to_v"
        expected = transformers[name].get_submodule(layer).weight + changes[f"{layer}.weight"]
        weight = effective(getattr(pipe, name).get_submodule(layer))
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)
    calls: list[str] = []
    handles = [
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: calls.append(name)) for name in transformers
    ]
    clip = generate(PROMPT, model=model, pipe=pipe, negative_prompt="red", progress=False)
    for handle in handles:
        handle.remove()
    # Two steps each, and NAG asks each expert once for the negative's keys and values.
    assert calls == ["transformer"] * 3 + ["transformer_2"] * 3
    assert clip.provenance["preset"]["files"] == fingerprints(
        {f"{experts.parent}/{file}": experts.parent / file for file in files.values()}
    )


def test_dmd_noises_its_prediction_anew(wan: Path) -> None:
    """FastWan's rule: x0 = x - sigma v, then (1 - s) x0 + s noise at the next level."""
    model = dataclasses.replace(moved("fastwan2.2-5b", wan), image="no")
    pipe = load(model, device="cpu", progress=False)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(sigmas=list(model.sigmas or ()), device="cpu")
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.757, 0.522, 0.0])
    sample, velocity = torch.randn(1, 8, 3, 4, 4), torch.randn(1, 8, 3, 4, 4)
    torch.manual_seed(3)
    got = scheduler.step(velocity, scheduler.timesteps[0], sample)[0]
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(got, (1 - 0.757) * (sample - velocity) + 0.757 * noise)
    _, steps = sigmas_of(pipe, {"model": model})
    assert steps == pytest.approx([1000.0, 757.0, 522.0])


def test_noise_of_the_steps_is_of_the_seed_too_and_not_the_first_noise_again(wan: Path) -> None:
    """No pipeline of Wan hands its generator to the scheduler, which would draw from the global one."""
    model = dataclasses.replace(moved("fastwan2.2-5b", wan), image="no")
    pipe = load(model, device="cpu", progress=False)
    noises: list[Tensor] = []
    first: list[Tensor] = []

    def watch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        first.append(kwargs["hidden_states"].clone())

    def predict_nothing(module: Any, args: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]),)

    before = torch.random.get_rng_state()
    clips = [generate(PROMPT, model=model, pipe=pipe, seed=seed, progress=False) for seed in (5, 5, 6)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert clips[0].sha256 == clips[1].sha256 != clips[2].sha256
    handles = [
        pipe.transformer.register_forward_pre_hook(watch, with_kwargs=True),
        pipe.transformer.register_forward_hook(predict_nothing),
    ]
    generate(PROMPT, model=model, pipe=pipe, seed=5, progress=False)
    for handle in handles:
        handle.remove()
    for now, then, level in zip(first[1:], first[:-1], (0.757, 0.522), strict=True):
        noises.append((now - (1 - level) * then) / level)  # of a velocity of zero
    for noise in noises:
        assert abs(float(noise.std()) - 1) < 0.1
        assert abs(float((noise * first[0]).mean())) < 0.2
    assert abs(float((noises[0] * noises[1]).mean())) < 0.2


def test_a_single_file_takes_the_place_of_the_folders_weights(tmp_path: Path) -> None:
    folder = ltx_folder(tmp_path / "ltx", "LTXConditionPipeline")
    transformer = ltx_single_file(tmp_path / "single.safetensors")
    checkpoint = Checkpoint(source=str(tmp_path), file="single.safetensors")
    model = dataclasses.replace(PRESETS["ltx-0.9.8-2b-distilled"], source=str(folder), checkpoint=checkpoint, **SIZE)
    model = dataclasses.replace(model, call={"image_cond_noise_scale": 0.0})
    pipe = load(model, device="cpu", progress=False)
    weights = pipe.transformer.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in transformer.state_dict().items())
    seen, steps = sigmas_of(pipe, {"model": model})
    assert steps == pytest.approx(list(model.timesteps or ()))
    assert seen[0] == pytest.approx([step / 1000 for step in steps] + [0.0])


def test_a_clip_of_a_preset_is_made_again_from_its_json(wan: Path, tmp_path: Path) -> None:
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = moved("wan2.1-14b-causvid", wan, {"transformer": "lora.safetensors"})
    clip = generate(PROMPT, model=model, negative_prompt="red", seed=3, device="cpu", progress=False)
    clip.save(tmp_path / "clip.png")
    told = load_provenance(tmp_path / "clip.json")
    assert Model.from_values(told["preset"]["values"]) == model
    again = generate(**arguments_from(told), progress=False)
    assert again.sha256 == clip.sha256
    assert json.loads(json.dumps(again.provenance["preset"])) == told["preset"]
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 8)
    other = generate(**arguments_from(told), progress=False)
    assert other.sha256 != clip.sha256
    assert other.provenance["preset"]["files"] != told["preset"]["files"]


def test_the_presets_own_guidance_is_used_and_cfg_is_warned_of(wan: Path) -> None:
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = moved("wan2.1-14b-causvid", wan, {"transformer": "lora.safetensors"})
    pipe = load(model, device="cpu", progress=False)
    told = generate(PROMPT, model=model, pipe=pipe, negative_prompt="red", steps=1, progress=False).provenance
    (nag,) = told["guidance"]
    assert (nag["name"], nag["scale"], nag["tau"], nag["alpha"]) == ("NAG", 11.0, 3.5, 0.5)
    assert told["guidance_scale"] == 1.0
    compared = compare(PROMPT, ["nag", "nag:tau=2"], negative_prompt="red", model=model, steps=1, progress=False)
    taus = {arm: clip.provenance["guidance"][0]["tau"] for arm, clip in compared.clips.items()}
    assert taus == {"nag": 3.5, "nag:tau=2": 2.0}
    for asked in (dict(guidance_scale=5.0), dict(guidance=[CFG(scale=5.0)]), dict(guidance=[NAG(), CFG(scale=5.0)])):
        with pytest.warns(UserWarning, match="scale 5: .* is distilled to run without it.*by NAG"):
            generate(PROMPT, model=model, pipe=pipe, negative_prompt="red", steps=1, progress=False, **asked)


def test_what_is_missing_is_named_before_anything_is_loaded(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    model = moved("wan2.1-14b-lightx2v", wan, {"transformer": "absent.safetensors"})
    monkeypatch.setattr(diffusers.WanPipeline, "from_pretrained", fail)
    with pytest.raises(OSError, match=r"has no file 'absent\.safetensors'"):
        load(model, device="cpu")
    with pytest.raises(ValueError, match=r"unknown.*tiny.*wan2\.1-14b-lightx2v"):
        load("wan2.1-14b-lightx2", device="cpu")
    with pytest.raises(ImportError, match="has no AbsentScheduler: pip install -U diffusers"):
        load(dataclasses.replace(model, scheduler="AbsentScheduler"), device="cpu")
    with pytest.raises(ImportError, match="WanPipeline takes no magic"):
        load(dataclasses.replace(model, call={"magic": 1}), device="cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"'model_index.json' of hub id 'Wan-AI.*the hub cannot be reached"):
        load("wan2.1-14b-lightx2v", device="cpu")
    monkeypatch.setattr("vidguide.pipelines.loading.assemble.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="LoRA needs the package peft: pip install peft"):
        load("wan2.1-14b-lightx2v", device="cpu")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "no such repository"),
        ("RevisionNotFoundError", "revision 'v1': the repository has no such revision"),
        ("GatedRepoError", "access must be asked for"),
        ("EntryNotFoundError", "has no such file"),
    ],
)
def test_what_the_hub_says_is_told(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        error = getattr(huggingface_hub.errors, kind)
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(OSError, match=message):
        load("some/model", revision="v1", device="cpu")


def test_adapters_that_do_not_fit_are_refused(wan: Path) -> None:
    ltx_single_file(wan.parent / "other.safetensors")
    model = moved("wan2.1-14b-lightx2v", wan, {"transformer": "other.safetensors"})
    with pytest.raises(OSError, match="cannot be loaded"):
        load(model, device="cpu", progress=False)
    second = dataclasses.replace(model.loras[0], component="transformer_2")
    with pytest.raises(OSError, match="WanPipeline takes no LoRA on its transformer_2"):
        load(dataclasses.replace(model, loras=(second,)), device="cpu", progress=False)
    with pytest.raises(OSError, match=r"boundary=0\.9: .* has one transformer"):
        load(dataclasses.replace(model, loras=(), boundary=0.9), device="cpu", progress=False)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_agree_with_diffusers_and_say_where_they_are_from(name: str) -> None:
    preset = PRESETS[name]
    assert preset.cites
    assert all(link.startswith("https://") for link in preset.cites)
    assert preset.about
    assert preset.distilled
    assert preset.guidance_scale == 1
    assert preset.ran is None
    nag: Any = preset.nag
    NAG(**nag)
    assert Model.from_values(json.loads(json.dumps(preset.values()))) == preset
    pipeline = getattr(diffusers, preset.pipeline or "", None)
    if pipeline is None:
        pytest.skip(f"this diffusers has no {preset.pipeline}")
    own = takes_image(pipeline)
    assert preset.image == own or (preset.image, own) == ("may", "no")  # by the partner of its weights
    assert resolve(name) is preset


def test_hunyuans_guidance_scale_is_an_input_and_its_cfg_goes_by_another_name() -> None:
    pipe = object.__new__(diffusers.HunyuanVideoPipeline)
    preset = PRESETS["fasthunyuan"]
    asked = dict.fromkeys(SETTINGS)
    call = call_arguments(pipe, preset, fill_settings(pipe, preset, (), asked))
    assert (call["guidance_scale"], call["true_cfg_scale"]) == (6.0, 1.0)
    call = call_arguments(pipe, preset, fill_settings(pipe, preset, (), {**asked, "guidance_scale": 4.0}))
    assert (call["guidance_scale"], call["true_cfg_scale"]) == (6.0, 4.0)
    own = fill_settings(pipe, Model(source="x"), (CFG(scale=4.0),), asked)
    assert "guidance_scale" not in call_arguments(pipe, Model(source="x"), own)


def test_a_guider_takes_the_scale_for_the_length_of_a_call() -> None:
    parts = dict.fromkeys(inspect.signature(diffusers.HunyuanVideo15Pipeline.__init__).parameters)
    parts.pop("self")
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=6.0)
    vae: Any = torch.nn.Module()
    vae.config = SimpleNamespace(latent_channels=32)
    vae.temporal_compression_ratio, vae.spatial_compression_ratio = 4, 16
    pipe = diffusers.HunyuanVideo15Pipeline(**{**parts, "guider": guider, "vae": vae})
    assert fill_settings(pipe, Model(source="x"), (), dict.fromkeys(SETTINGS))["guidance_scale"] == 6.0
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with prepared(pipe, {"num_frames": 5}, 1.0, torch.Generator()) as call:
        assert pipe.guider.guidance_scale == 1.0
        assert call == {"num_frames": 5}
    assert pipe.guider is guider


def test_the_readme_shows_the_table() -> None:
    assert markdown(PRESETS) in (ROOT / "README.md").read_text()


def test_declarations_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Model\(sigmas=\.\.\.\): has 2 values for steps=4"):
        Model(source="x", steps=4, sigmas=(1.0, 0.5))
    assert set(MODELS) == set(SHIPPED) | set(PRESETS)
