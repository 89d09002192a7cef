"""`Setup`: its values, what it refuses before any download, and how it is recorded and given."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from diffusers import UniPCMultistepScheduler
from typer.testing import CliRunner

from tests.helpers.setups import LORA_STRENGTH, OPTIONS, PROMPT, lora_weights, plain_sample, sample, write_files
from vidguide import EMAG, STG, generate
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.cli.setup_options import OPTIONS as COMMAND_LINE
from vidguide.pipelines.cli.setup_options import setup_from
from vidguide.pipelines.loading import load as loading
from vidguide.pipelines.loading.hub import read_index
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.loading.scheduler import convert, scheduler_of
from vidguide.pipelines.loading.set_up import SETUPS
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.models.spec import Lora
from vidguide.pipelines.request.provenance import arguments_from, load_provenance
from vidguide.pipelines.request.setup import CONFLICTS, LORA_FILE, Setup, parse_lora
from vidguide.pipelines.sweep.config import read_sweep
from vidguide.pipelines.sweep.jobs import jobs

TOGETHER = ("gguf", "LoRA", "offload blocks", "backend", "shift", "tiling", "slicing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    target = tmp_path_factory.mktemp("files")
    write_files(target)
    return target


def together(folder: Path) -> Setup:
    return Setup(**{name: value for option in TOGETHER for name, value in OPTIONS[option].filled(folder).items()})


def test_the_command_line_has_an_option_for_every_field() -> None:
    assert list(COMMAND_LINE) == [field.name for field in dataclasses.fields(Setup)]
    assert setup_from({}) == Setup()
    assert Setup().values() == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(offload="disk"), "offload='disk': must be one of auto, none, model, sequential, blocks, leaves"),
        (dict(quantization="torchao-int9"), r"quantization='torchao-int9': .*did you mean 'torchao-int8'"),
        (dict(layerwise_casting="int8"), "layerwise_casting='int8': must be one of float8_e4m3fn"),
        (dict(compile="all"), "compile='all': must be one of blocks, whole"),
        (dict(cache="FirstCache:threshold=1"), r"cache='FirstCache:threshold=1': .*did you mean 'FirstBlockCache'"),
        (dict(blocks_per_group=0, offload="blocks"), "blocks_per_group=0: must be an integer of at least 1"),
        (dict(blocks_per_group=2), "blocks_per_group=2: needs offload='blocks', not 'auto'"),
        (dict(stream=True, offload="model"), "stream=True: needs offload='blocks' or 'leaves', not 'model'"),
        (dict(shift=-1.0), "shift=-1.0: must be a finite number above 0"),
        (dict(shift=float("nan")), "shift=nan: must be a finite number above 0"),
        (dict(quantized=()), r"quantized=\(\): must name a component"),
        (dict(quantized=("text_encoder",)), r"quantized=\('text_encoder',\): needs quantization"),
        (dict(compile_backend="eager"), "compile_backend='eager': needs compile='blocks' or 'whole'"),
        (dict(offload=None), "offload=None: must be one of auto, none, model"),
        (dict(loras="a/b"), "loras='a/b': must be a tuple"),
        (dict(loras=("style",)), "lora='style': must be a file, or owner/name/FILE or owner/name"),
        (dict(loras=("a/b:x",)), "lora 'a/b:x': strength 'x' must be a number"),
        (dict(loras=("a/b:nan",)), "lora 'a/b:nan': strength 'nan' must be a number"),
        (dict(loras=("a/b:1:vae",)), "lora 'a/b:1:vae': component 'vae' must be one of transformer, transformer_2"),
        (dict(loras=("a/b:1:transformer:2",)), "must be FILE_OR_REPO:STRENGTH:COMPONENT"),
        (dict(gguf="a/b"), "gguf='a/b': must be a file, or owner/name/FILE of a Hugging Face repository"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Setup(**values)


EXAMPLES: dict[str, dict[str, Any]] = {
    "quantization": dict(quantization="torchao-int8"),
    "gguf": dict(gguf="a/b/c.gguf"),
    "layerwise_casting": dict(layerwise_casting="float8_e4m3fn"),
    "loras": dict(loras=("a/b",)),
    "cache": dict(cache="FirstBlockCache"),
}


def example(option: str) -> dict[str, Any]:
    """Return values for an option of the table, `name` or `name=value`."""
    name, equals, value = option.partition("=")
    if name == "quantization" and equals and "-" not in value:
        value = f"{value}-int8"
    return {name: value} if equals else EXAMPLES[option]


@pytest.mark.parametrize("conflict", CONFLICTS, ids=lambda conflict: f"{conflict.first} {conflict.second}")
def test_options_that_do_not_go_together_are_refused(conflict: Any) -> None:
    first, second = example(conflict.first), example(conflict.second)
    Setup(**first), Setup(**second)
    with pytest.raises(ValueError, match=f"^{conflict.first} with {conflict.second}: .*; "):
        Setup(**{**first, **second})


@pytest.mark.parametrize("name", ["stream", "vae_tiling", "vae_slicing"])
def test_switches_are_no_texts(name: str) -> None:
    values: dict[str, Any] = {name: "false"}
    with pytest.raises(TypeError, match=f"{name}='false': must be True or False"):
        Setup(**values)


def test_loras_are_files_or_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loras" / "style").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_lora("loras/style:0.5") == Lora(source="loras/style", file=LORA_FILE, strength=0.5)
    path = tmp_path / "style.safetensors"
    path.touch()
    local = Lora(source=str(tmp_path), file=path.name, strength=0.8)
    assert parse_lora(f"{path}:0.8") == local
    assert parse_lora(f"{path}:0.8:transformer_2") == dataclasses.replace(local, component="transformer_2")
    assert parse_lora("a/b") == Lora(source="a/b", file=LORA_FILE)
    assert parse_lora("a/b/c/d.safetensors:-2") == Lora(source="a/b", file="c/d.safetensors", strength=-2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(quantization="bitsandbytes-nf4"), "bitsandbytes"),  # is missing, or needs a GPU
        (dict(offload="sequential"), "offload='sequential': needs a GPU, not cpu"),
        (dict(offload="blocks", stream=True), "stream=True: needs a CUDA device, not cpu"),
        (dict(attention_backend="fast"), "attention_backend='fast': must be one of .*_native_math"),
        (dict(attention_backend="_flash_3"), "attention_backend='_flash_3': Flash Attention 3"),
        (dict(cache="FirstBlockCache:treshold=1"), "unknown field 'treshold' .did you mean 'threshold'"),
        (
            dict(cache="FirstBlockCache:threshold=x"),
            "threshold=x': threshold='x': must be a number",
        ),
        (dict(cache="MagCache"), "cache='MagCache':.*mag_ratios"),
        (dict(cache="TaylorSeer:taylor_factors_dtype=x"), "taylor_factors_dtype='x': must be"),
        (dict(scheduler="AbsentScheduler"), "has no AbsentScheduler"),
        (dict(scheduler="DDIMScheduler"), "scheduler='DDIMScheduler': cannot sample flow matching"),
        (dict(gguf="{here}/x.bin"), "gguf='.*x.bin': must be a file whose name ends in .gguf"),
        (dict(gguf="{here}/x.gguf"), "has no file 'x.gguf'"),
        (dict(loras=("{here}/x.safetensors",)), "has no file 'x.safetensors'"),
    ],
)
def test_what_the_model_or_machine_cannot_do_is_refused_before_weights_are_read(
    values: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import WanPipeline

    monkeypatch.setattr(WanPipeline, "from_pretrained", lambda *args, **kwargs: pytest.fail("read"))

    def fill(value: Any) -> Any:
        return tuple(map(fill, value)) if isinstance(value, tuple) else str(value).replace("{here}", str(tmp_path))

    filled = {name: fill(value) if name in ("gguf", "loras") else value for name, value in values.items()}
    with pytest.raises((ValueError, ImportError, OSError), match=message):
        load("tiny", device="cpu", setup=Setup(**filled), progress=False)


@pytest.mark.parametrize(
    ("guidance", "cache", "message"),
    [
        (EMAG(start=0.2), "TaylorSeer", "EMAG with cache='TaylorSeer': .*start=0"),
        (STG(), "PyramidAttentionBroadcast:x=1", "STG with cache='PyramidAttentionBroadcast:x=1': .*one state"),
        (EMAG(start=0.2), "MagCache", "EMAG with cache='MagCache': its ratios count"),
    ],
)
def test_guidances_that_a_cache_does_not_go_with_are_refused_before_loading(
    guidance: Any, cache: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "read_index", lambda *args: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        generate(PROMPT, guidance=[guidance], setup=Setup(cache=cache), device="cpu")


def test_a_setup_is_refused_with_a_loaded_pipeline_and_a_cache_for_other_steps() -> None:
    cache = "MagCache:num_inference_steps=3,mag_ratios=1/1/1"
    pipe = load("tiny", device="cpu", setup=Setup(cache=cache), progress=False)
    with pytest.raises(ValueError, match="setup: applies to a model that is loaded here"):
        generate(PROMPT, pipe=pipe, setup=Setup())
    with pytest.raises(ValueError, match="dtype='bfloat16': pipe= is in float32; load it in bfloat16, or leave"):
        generate(PROMPT, pipe=pipe, dtype="bfloat16")
    with pytest.raises(ValueError, match="device='meta': pipe= is on cpu; move it"):
        generate(PROMPT, pipe=pipe, device="meta")
    with pytest.raises(ValueError, match="must have num_inference_steps=2, the number of steps"):
        generate(PROMPT, pipe=pipe, steps=2)


@pytest.mark.slow
def test_options_together_give_the_clip_of_the_plain_pipeline_and_its_json_makes_it_again(
    folder: Path, tmp_path: Path
) -> None:
    setup = together(folder)
    pipe = load("tiny", device="cpu", setup=setup, progress=False)
    assert SETUPS[pipe] == setup
    assert pipe.vae.use_tiling
    difference = (sample(pipe) - plain_sample(folder, *TOGETHER)).abs().mean().item()
    assert difference < 0.1
    output = tmp_path / "clip.mkv"
    lora = f"{folder / LORA_FILE}:{LORA_STRENGTH}"
    arguments = ["--steps", "2", "--frames", "5", "--size", "32x32", "--device", "cpu", "-q", "-o", str(output)]
    options = ["--gguf", str(folder / "tiny.gguf"), "--lora", lora, "--offload", "blocks", "--blocks-per-group", "2"]
    options += ["--attention-backend", "_native_math", "--shift", "2", "--vae-tiling", "--vae-slicing"]
    done = CliRunner().invoke(app, ["generate", PROMPT, *arguments, *options])
    assert done.exit_code == 0, done.output
    recorded = load_provenance(output.with_suffix(".json"))
    assert arguments_from(recorded)["setup"] == setup
    assert recorded["dtype"] == "float32"
    assert {Path(name).name for name in recorded["setup"]["files"]} == {"tiny.gguf", LORA_FILE}
    again = CliRunner().invoke(
        app, ["generate", "--from", str(output.with_suffix(".json")), "-q", "-o", str(tmp_path / "again.mkv")]
    )
    assert "the same frames, bit for bit" in again.output


def test_a_json_of_the_command_line_has_the_setup_and_makes_the_clip_again(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    pipe = load("tiny", device="cpu", progress=False)
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=lora_weights(pipe))
    setup = Setup(loras=(f"{tmp_path / LORA_FILE}:0.7",), offload="leaves", shift=2.0)
    small = ["--steps", "1", "--frames", "1", "--size", "32x32", "--device", "cpu", "-q", "-o"]
    options = ["--lora", setup.loras[0], "--offload", "leaves", "--shift", "2"]
    done = CliRunner().invoke(app, ["generate", PROMPT, *small, str(tmp_path / "clip.mkv"), *options])
    assert done.exit_code == 0, done.output
    recorded = load_provenance(tmp_path / "clip.json")
    assert arguments_from(recorded)["setup"] == setup
    assert list(recorded["setup"]["files"]) == [f"{tmp_path}/{LORA_FILE}"]
    clip = generate(**arguments_from(recorded), progress=False)
    plain = generate(**{**arguments_from(recorded), "setup": None}, progress=False)
    assert clip.sha256 == recorded["sha256"] != plain.sha256


def test_a_json_with_a_wrong_setup_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.json"
    content = {
        "prompt": "a",
        "model": "tiny",
        "seed": 0,
        "guidance": [],
        "setup": {"values": {"offlaod": "none"}, "files": {}},
    }
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"setup\.values: unknown field 'offlaod' \(did you mean 'offload'\?\)"):
        load_provenance(path)


def test_a_sweep_has_a_setup_which_options_replace(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    content: dict[str, Any] = {"prompts": ["a"], "arms": ["none"], "setup": {"loras": ["a/b:0.5"], "vae_tiling": True}}
    path.write_text(yaml.safe_dump(content))
    sweep = read_sweep(path)
    assert sweep.placement["setup"] == Setup(loras=("a/b:0.5",), vae_tiling=True)
    assert jobs(sweep, tmp_path)[0].request["setup"] == content["setup"]
    changed = setup_from({"vae_tiling": False, "offload": "none"}, sweep.placement["setup"])
    assert changed == Setup(loras=("a/b:0.5",), vae_tiling=False, offload="none")
    path.write_text(yaml.safe_dump({**content, "setup": {"vae_tilin": True}}))
    with pytest.raises(ValueError, match=r"setup\.vae_tilin|unknown field"):
        read_sweep(path)


def test_an_attention_backend_is_that_of_its_model_only() -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    before = Registry._active_backend
    pipe = load("tiny", device="cpu", setup=Setup(attention_backend="_native_math"), progress=False)
    assert Registry._active_backend == before
    assert pipe.transformer.blocks[0].attn1.processor._attention_backend.value == "_native_math"


def test_a_scheduler_has_the_levels_of_the_models() -> None:
    model = MODELS["tiny"]
    index = read_index(model.source, None)
    shift = scheduler_of(Setup(shift=3.0), model, index)
    assert type(shift).__name__ == index["scheduler"][1]
    assert (shift.config.shift, shift.config.use_dynamic_shifting) == (3.0, False)
    unipc = scheduler_of(Setup(scheduler="UniPCMultistepScheduler", shift=3.0), model, index)
    unipc.set_timesteps(7)
    levels = torch.linspace(1, 1 / 1000, 8)[:-1]
    torch.testing.assert_close(unipc.sigmas[:-1].float(), 3 * levels / (1 + 2 * levels), atol=1e-3, rtol=0)
    assert scheduler_of(Setup(), model, index) is None
    four = dataclasses.replace(model, steps=4, sigmas=(1.0, 0.75, 0.5, 0.25))
    with pytest.raises(ValueError, match="'FlowMatchHeunDiscreteScheduler': does not take the model's sigmas"):
        scheduler_of(Setup(scheduler="FlowMatchHeunDiscreteScheduler"), four, index)


@pytest.mark.parametrize("chosen", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_a_shift_of_a_model_without_flow_matching_is_refused(chosen: str) -> None:
    current = UniPCMultistepScheduler()
    assert type(convert(current, getattr(diffusers, chosen), None)).__name__ == chosen
    with pytest.raises(ValueError, match=r"shift=3\.0: is of flow matching"):
        convert(current, getattr(diffusers, chosen), 3.0)
