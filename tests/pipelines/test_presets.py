"""Presets: run end to end on small checkpoints in the upstream layouts, and checked against diffusers and the docs."""

import dataclasses
import inspect
import json
import re
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
from vidguide.eval.files import validate
from vidguide.pipelines.compare import compare
from vidguide.pipelines.loading.hub import fingerprints
from vidguide.pipelines.loading.load import load, resolve
from vidguide.pipelines.models.presets import MODELS, PRESETS
from vidguide.pipelines.models.sources import REVISIONS
from vidguide.pipelines.models.spec import SHIPPED, Checkpoint, Model
from vidguide.pipelines.models.table import markdown
from vidguide.pipelines.request.call_settings import SETTINGS, call_arguments, fill_settings, prepare_pipeline
from vidguide.pipelines.request.provenance import arguments_from, load_provenance
from vidguide.pipelines.request.visual_inputs import takes

PROMPT = "a large circle"
ROOT = Path(__file__).parents[2]


def relocate(name: str, folder: Path, files: dict[str, str] | None = None) -> Model:
    """Return a preset whose sources are local folders, at a small size; `files` has the LoRA file of each component."""
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
    """Return the sigmas of the scheduler at each step of a clip, and the timesteps."""
    sigmas: list[Any] = []
    steps: list[float] = []

    def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        steps.append(float(kwargs["timestep"].flatten()[0]))
        sigmas.append(pipe.scheduler.sigmas.tolist())

    handles = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for name in ("transformer", "transformer_2")
        if (module := getattr(pipe, name, None)) is not None
    ]
    generate(PROMPT, pipe=pipe, progress=False, **call)
    for handle in handles:
        handle.remove()
    return sigmas, steps


def merged_weight(linear: Any) -> Tensor:
    """Return the weight of a linear layer including its LoRAs: its output for the identity matrix."""
    weight = linear(torch.eye(linear.in_features)).T
    return weight if linear.bias is None else weight - linear.bias[:, None]


@pytest.mark.parametrize("write", [peft_lora, original_lora])
def test_a_lora_adds_its_product_times_its_strength(write: Any, wan: Path) -> None:
    added = write(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = relocate("wan2.1-14b-lightx2v", wan, {"transformer": "lora.safetensors"})
    model = dataclasses.replace(model, loras=(dataclasses.replace(model.loras[0], strength=0.5),))
    pipe, plain = load(model, device="cpu", progress=False), wan_transformer()
    for name, change in added.items():
        layer = name.removesuffix(".weight")
        expected = plain.get_submodule(layer).weight + 0.5 * change
        torch.testing.assert_close(merged_weight(pipe.transformer.get_submodule(layer)), expected, atol=1e-5, rtol=1e-4)


def test_lightx2v_runs_the_timesteps_of_its_distillation(wan: Path) -> None:
    """Timesteps 1000, 750, 500, 250 under a shift of 5, by Euler: s -> 5 s / (1 + 4 s)."""
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = relocate("wan2.1-14b-lightx2v", wan, {"transformer": "lora.safetensors"})
    pipe = load(model, device="cpu", progress=False)
    expected = [5 * s / (1 + 4 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    sigmas, steps = sigmas_of(pipe, {"model": model})
    assert type(pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    assert steps == pytest.approx([1000 * s for s in expected])
    assert sigmas[0] == pytest.approx([*expected, 0.0])
    with pytest.warns(UserWarning, match="steps=2: the model's noise levels are for 4 steps"):
        assert len(sigmas_of(pipe, {"model": model, "steps": 2})[1]) == 2


def test_each_expert_gets_its_lora_and_half_of_the_steps(experts: Path) -> None:
    files = {"transformer": "high.safetensors", "transformer_2": "low.safetensors"}
    transformers = {"transformer": wan_transformer(), "transformer_2": wan_transformer(1)}
    added = {
        name: original_lora(experts.parent / file, transformers[name], seed)
        for seed, (name, file) in enumerate(files.items())
    }
    model = relocate("wan2.2-14b-lightning", experts, files)
    pipe = load(model, device="cpu", progress=False)
    assert pipe.config.boundary_ratio == 0.875
    for name, changes in added.items():
        layer = "blocks.1.attn2.to_v"
        expected = transformers[name].get_submodule(layer).weight + changes[f"{layer}.weight"]
        weight = merged_weight(getattr(pipe, name).get_submodule(layer))
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)
    calls: list[str] = []
    handles = [
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: calls.append(name)) for name in transformers
    ]
    clip = generate(PROMPT, model=model, pipe=pipe, negative_prompt="red", progress=False)
    for handle in handles:
        handle.remove()
    # Two steps each, and one auxiliary forward of each expert for the negative prompt's keys and values.
    assert calls == ["transformer"] * 3 + ["transformer_2"] * 3
    assert clip.provenance["preset"]["files"] == fingerprints(
        {f"{experts.parent}/{file}": experts.parent / file for file in files.values()}
    )


def test_dmd_adds_fresh_noise_to_its_prediction(wan: Path) -> None:
    """FastWan's rule: x0 = x - sigma v, then (1 - s) x0 + s noise at the next level."""
    model = dataclasses.replace(relocate("fastwan2.2-5b", wan), image="no")
    pipe = load(model, device="cpu", progress=False)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(sigmas=list(model.sigmas or ()), device="cpu")
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.757, 0.522, 0.0])
    sample, velocity = torch.randn(1, 8, 3, 4, 4), torch.randn(1, 8, 3, 4, 4)
    torch.manual_seed(3)
    stepped = scheduler.step(velocity, scheduler.timesteps[0], sample)[0]
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(stepped, (1 - 0.757) * (sample - velocity) + 0.757 * noise)
    _, steps = sigmas_of(pipe, {"model": model})
    assert steps == pytest.approx([1000.0, 757.0, 522.0])


def test_the_noise_of_each_step_depends_on_the_seed_and_differs_from_the_first(wan: Path) -> None:
    """Wan pipelines do not pass their generator to the scheduler, which would use the global one."""
    model = dataclasses.replace(relocate("fastwan2.2-5b", wan), image="no")
    pipe = load(model, device="cpu", progress=False)
    noises: list[Tensor] = []
    inputs: list[Tensor] = []

    def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        inputs.append(kwargs["hidden_states"].clone())

    def predict_zero(module: Any, args: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]),)

    before = torch.random.get_rng_state()
    clips = [generate(PROMPT, model=model, pipe=pipe, seed=seed, progress=False) for seed in (5, 5, 6)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert clips[0].sha256 == clips[1].sha256 != clips[2].sha256
    handles = [
        pipe.transformer.register_forward_pre_hook(record, with_kwargs=True),
        pipe.transformer.register_forward_hook(predict_zero),
    ]
    generate(PROMPT, model=model, pipe=pipe, seed=5, progress=False)
    for handle in handles:
        handle.remove()
    for now, then, level in zip(inputs[1:], inputs[:-1], (0.757, 0.522), strict=True):
        noises.append((now - (1 - level) * then) / level)  # for a velocity of zero
    for noise in noises:
        assert abs(float(noise.std()) - 1) < 0.1
        assert abs(float((noise * inputs[0]).mean())) < 0.2
    assert abs(float((noises[0] * noises[1]).mean())) < 0.2


def test_a_single_file_replaces_weights_of_the_folder(tmp_path: Path) -> None:
    folder = ltx_folder(tmp_path / "ltx", "LTXConditionPipeline")
    transformer = ltx_single_file(tmp_path / "single.safetensors")
    checkpoint = Checkpoint(source=str(tmp_path), file="single.safetensors")
    model = dataclasses.replace(PRESETS["ltx-0.9.8-2b-distilled"], source=str(folder), checkpoint=checkpoint, **SIZE)
    model = dataclasses.replace(model, call={"image_cond_noise_scale": 0.0})
    pipe = load(model, device="cpu", progress=False)
    weights = pipe.transformer.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in transformer.state_dict().items())
    sigmas, steps = sigmas_of(pipe, {"model": model})
    assert steps == pytest.approx(list(model.timesteps or ()))
    assert sigmas[0] == pytest.approx([step / 1000 for step in steps] + [0.0])


def test_a_clip_of_a_preset_is_reproduced_from_its_json(wan: Path, tmp_path: Path) -> None:
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = relocate("wan2.1-14b-causvid", wan, {"transformer": "lora.safetensors"})
    clip = generate(PROMPT, model=model, negative_prompt="red", seed=3, device="cpu", progress=False)
    clip.save(tmp_path / "clip.png")
    recorded = load_provenance(tmp_path / "clip.json")
    assert validate(Model, recorded["preset"]["values"]) == model
    reproduced = generate(**arguments_from(recorded), progress=False)
    assert reproduced.sha256 == clip.sha256
    assert json.loads(json.dumps(reproduced.provenance["preset"])) == recorded["preset"]
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 8)
    other = generate(**arguments_from(recorded), progress=False)
    assert other.sha256 != clip.sha256
    assert other.provenance["preset"]["files"] != recorded["preset"]["files"]


def test_the_nag_of_a_preset_is_the_default_and_cfg_is_warned_about(wan: Path) -> None:
    original_lora(wan.parent / "lora.safetensors", wan_transformer(), 7)
    model = relocate("wan2.1-14b-causvid", wan, {"transformer": "lora.safetensors"})
    pipe = load(model, device="cpu", progress=False)
    provenance = generate(PROMPT, model=model, pipe=pipe, negative_prompt="red", steps=1, progress=False).provenance
    (nag,) = provenance["guidance"]
    assert (nag["name"], nag["scale"], nag["tau"], nag["alpha"]) == ("NAG", 11.0, 3.5, 0.5)
    assert provenance["guidance_scale"] == 1.0
    compared = compare(PROMPT, ["nag", "nag:tau=2"], negative_prompt="red", model=model, steps=1, progress=False)
    taus = {arm: clip.provenance["guidance"][0]["tau"] for arm, clip in compared.clips.items()}
    assert taus == {"nag": 3.5, "nag:tau=2": 2.0}
    for request in (dict(guidance_scale=5.0), dict(guidance=[CFG(scale=5.0)]), dict(guidance=[NAG(), CFG(scale=5.0)])):
        with pytest.warns(UserWarning, match="scale 5: .* is distilled to run without it.*use NAG"):
            generate(PROMPT, model=model, pipe=pipe, negative_prompt="red", steps=1, progress=False, **request)


def test_missing_parts_are_named_before_anything_is_loaded(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    model = relocate("wan2.1-14b-lightx2v", wan, {"transformer": "absent.safetensors"})
    monkeypatch.setattr(diffusers.WanPipeline, "from_pretrained", fail)
    with pytest.raises(OSError, match=r"has no file 'absent\.safetensors'"):
        load(model, device="cpu")
    with pytest.raises(ValueError, match=r"unknown.*tiny.*wan2\.1-14b-lightx2v"):
        load("wan2.1-14b-lightx2", device="cpu")
    with pytest.raises(ImportError, match="has no AbsentScheduler: pip install -U diffusers"):
        load(dataclasses.replace(model, scheduler="AbsentScheduler"), device="cpu")
    with pytest.raises(ImportError, match="WanPipeline has no argument magic"):
        load(dataclasses.replace(model, call={"magic": 1}), device="cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"'model_index.json' of Hugging Face repo id 'Wan-AI.*the Hub cannot be reached"):
        load("wan2.1-14b-lightx2v", device="cpu")
    monkeypatch.setattr("vidguide.pipelines.loading.assemble.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"LoRA needs the package peft: pip install 'vidguide\[lora\]'"):
        load("wan2.1-14b-lightx2v", device="cpu")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "no such repository"),
        ("RevisionNotFoundError", "revision 'v1': the repository has no such revision"),
        ("GatedRepoError", "access is gated: request it"),
        ("EntryNotFoundError", "has no such file"),
    ],
)
def test_errors_of_the_hub_are_explained(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        error = getattr(huggingface_hub.errors, kind)
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(OSError, match=message):
        load("some/model", revision="v1", device="cpu")


def test_loras_that_do_not_fit_are_refused(wan: Path) -> None:
    ltx_single_file(wan.parent / "other.safetensors")
    model = relocate("wan2.1-14b-lightx2v", wan, {"transformer": "other.safetensors"})
    with pytest.raises(OSError, match="cannot be loaded"):
        load(model, device="cpu", progress=False)
    second = dataclasses.replace(model.loras[0], component="transformer_2")
    with pytest.raises(OSError, match="WanPipeline takes no LoRA on its transformer_2"):
        load(dataclasses.replace(model, loras=(second,)), device="cpu", progress=False)
    with pytest.raises(OSError, match=r"boundary=0\.9: .* has one transformer"):
        load(dataclasses.replace(model, loras=(), boundary=0.9), device="cpu", progress=False)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_cite_their_sources_and_agree_with_diffusers(name: str) -> None:
    preset = PRESETS[name]
    assert preset.cites
    assert all(link.startswith("https://") for link in preset.cites)
    assert preset.about
    assert preset.distilled
    assert preset.guidance_scale == 1
    assert preset.ran is None
    nag: Any = preset.nag
    NAG(**nag)
    assert validate(Model, json.loads(json.dumps(preset.values()))) == preset
    pipeline = getattr(diffusers, preset.pipeline or "", None)
    if pipeline is None:
        pytest.skip(f"this diffusers has no {preset.pipeline}")
    use = takes(pipeline, "image")
    assert preset.image == use or (preset.image, use) == ("may", "no")  # by the image-to-video partner
    assert resolve(name) is preset


def test_hunyuans_guidance_scale_is_an_input_and_its_cfg_scale_is_true_cfg_scale() -> None:
    pipe = object.__new__(diffusers.HunyuanVideoPipeline)
    preset = PRESETS["fasthunyuan"]
    settings = dict.fromkeys(SETTINGS)
    call = call_arguments(pipe, preset, fill_settings(pipe, preset, (), settings))
    assert (call["guidance_scale"], call["true_cfg_scale"]) == (6.0, 1.0)
    call = call_arguments(pipe, preset, fill_settings(pipe, preset, (), {**settings, "guidance_scale": 4.0}))
    assert (call["guidance_scale"], call["true_cfg_scale"]) == (6.0, 4.0)
    filled = fill_settings(pipe, Model(source="x"), (CFG(scale=4.0),), settings)
    assert "guidance_scale" not in call_arguments(pipe, Model(source="x"), filled)


def test_a_guider_has_the_scale_during_the_call_only() -> None:
    parts = dict.fromkeys(inspect.signature(diffusers.HunyuanVideo15Pipeline.__init__).parameters)
    parts.pop("self")
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=6.0)
    vae: Any = torch.nn.Module()
    vae.config = SimpleNamespace(latent_channels=32)
    vae.temporal_compression_ratio, vae.spatial_compression_ratio = 4, 16
    pipe = diffusers.HunyuanVideo15Pipeline(**{**parts, "guider": guider, "vae": vae})
    assert fill_settings(pipe, Model(source="x"), (), dict.fromkeys(SETTINGS))["guidance_scale"] == 6.0
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with prepare_pipeline(pipe, {"num_frames": 5}, 1.0, torch.Generator()) as call:
        assert pipe.guider.guidance_scale == 1.0
        assert call == {"num_frames": 5}
    assert pipe.guider is guider


def test_the_documentation_has_the_table_of_presets() -> None:
    assert markdown(PRESETS) in (ROOT / "docs" / "models.md").read_text()


def test_noise_levels_of_another_number_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Model\(sigmas=\.\.\.\): has 2 values for steps=4"):
        Model(source="x", steps=4, sigmas=(1.0, 0.5))
    assert set(MODELS) == set(SHIPPED) | set(PRESETS)


def test_repositories_are_pinned_to_whole_commits() -> None:
    used = set()
    for model in PRESETS.values():
        parts: list[Any] = [model, *([model.checkpoint] if model.checkpoint else []), *model.loras]
        for part in parts:
            names = [part.source, f"{part.source}/{getattr(part, 'file', '')}"]
            commits = [REVISIONS[name] for name in names if name in REVISIONS]
            assert part.revision == (commits[0] if commits else None)
            used |= set(names) & set(REVISIONS)
    assert used == set(REVISIONS)
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in REVISIONS.values())
