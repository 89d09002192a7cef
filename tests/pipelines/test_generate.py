"""From prompt to clip with the shipped model: the real pipeline, the real weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from vidguide import CFG, EMAG, NAG, STG, VSF, Clip, EnhanceAVideo, S2Guidance, generate, guide
from vidguide.eval.world.oracle import read
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.loading.load import choose_device, choose_dtype, load, resolve
from vidguide.pipelines.models.spec import SHIPPED
from vidguide.pipelines.request.guidance_spec import parse, with_negative
from vidguide.pipelines.request.provenance import arguments_from, load_provenance

PROMPT = "a large circle moving right"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load("tiny", device="cpu")


def call(pipe: Any, seeds: int = 1, **changes: Any) -> torch.Tensor:
    """Latents of a short sampling of the pipeline as diffusers' users call it."""
    arguments = dict(prompt=[PROMPT] * seeds, height=64, width=64, num_frames=13, num_inference_steps=2)
    arguments |= dict(guidance_scale=1.0, output_type="latent")
    arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    pipe.set_progress_bar_config(disable=True)
    return pipe(**arguments | changes).frames


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_loads_as_a_plain_wan_pipeline(name: str) -> None:
    pipe = WanPipeline.from_pretrained(SHIPPED[name].path)
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder)} == {torch.float32}


def test_the_shipped_model_is_at_most_15_megabytes() -> None:
    for model in SHIPPED.values():
        assert sum(path.stat().st_size for path in model.path.rglob("*") if path.is_file()) <= 15e6


def test_a_clip_is_the_same_again_bit_for_bit(pipe: Any, tmp_path: Path) -> None:
    clip = generate(PROMPT, negative_prompt="red", pipe=pipe, steps=3, seed=4, progress=False)
    clip.save(tmp_path / "clip.mkv")
    arguments = arguments_from(load_provenance(tmp_path / "clip.json"))
    assert generate(**arguments, progress=False).sha256 == clip.sha256
    assert generate(**{**arguments, "seed": 5}, progress=False).sha256 != clip.sha256


def test_provenance_tells_what_made_the_clip(pipe: Any) -> None:
    clip = generate(PROMPT, negative_prompt="red", pipe=pipe, steps=2, progress=False)
    told = clip.provenance
    assert told["prompt"] == PROMPT
    assert told["guidance"][0]["name"] == "NAG"
    assert told["guidance"][0]["negative_prompt"] == "red"
    assert told["trace"]["steps"] == 2
    assert {"torch", "diffusers", "transformers", "vidguide", "python"} == set(told["versions"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_follows_its_prompt(name: str) -> None:
    clip = generate("a large blue circle moving left on a white background", model=name, device="cpu", progress=False)
    scene = read(clip.frames).scene
    assert (scene.size, scene.colour, scene.motion, scene.background) == ("large", "blue", "left", "white")
    assert clip.provenance["steps"] == SHIPPED[name].steps


def test_the_student_has_four_noise_levels_that_all_do_work() -> None:
    """diffusers' own four-step schedule ends at 0.009, which leaves three steps; the student's ends higher."""
    scheduler = WanPipeline.from_pretrained(SHIPPED["tiny-4step"].path).scheduler
    scheduler.set_timesteps(SHIPPED["tiny-4step"].steps)
    assert torch.allclose(scheduler.sigmas, torch.tensor([1.0, 0.928, 0.799, 0.5, 0.0]), atol=1e-3)


def test_a_negative_prompt_brings_the_students_own_nag() -> None:
    clip = generate(PROMPT, model="tiny-4step", negative_prompt="red", device="cpu", progress=False)
    (told,) = clip.provenance["guidance"]
    assert (told["name"], told["scale"], told["tau"], told["alpha"]) == ("NAG", 11, 1.25, 0.5)


def test_nag_takes_the_unwanted_colour_away(pipe: Any) -> None:
    """From noise that shows red where no colour is asked for, the same noise with red as the negative does not."""
    prompt, reds = "a large circle moving right on a white background", 0
    for seed in range(16):
        plain = generate(prompt, seed=seed, pipe=pipe, progress=False)
        if read(plain.frames).scene.colour == "red":
            reds += 1
            guided = generate(
                prompt, negative_prompt="red", guidance=[NAG(alpha=0.5)], seed=seed, pipe=pipe, progress=False
            )
            scene = read(guided.frames).scene
            assert scene.colour != "red"
            assert (scene.size, scene.motion, scene.background) == ("large", "right", "white")
        if reds == 2:
            break
    assert reds


def test_neutral_guidance_leaves_the_pipelines_output_bitwise(pipe: Any) -> None:
    expected = call(pipe)
    with guide(pipe, NAG(negative_prompt="red", scale=1)):
        assert torch.equal(call(pipe), expected)
    assert torch.equal(call(pipe), expected)


def test_our_cfg_equals_the_pipelines_own_bitwise(pipe: Any) -> None:
    expected = call(pipe, guidance_scale=4.0, negative_prompt=["blue"])
    with guide(pipe, CFG(scale=4.0, negative_prompt="blue")):
        assert torch.equal(call(pipe), expected)


def test_nag_beneath_either_cfg_is_the_same(pipe: Any) -> None:
    """Drop-in on the pipeline's own CFG, and with ours: the conditional half is guided in both."""
    nag = NAG(negative_prompt="red")
    with guide(pipe, nag):
        dropped_in = call(pipe, guidance_scale=4.0, negative_prompt=["blue"])
    with guide(pipe, nag, CFG(scale=4.0, negative_prompt="blue")):
        assert torch.equal(call(pipe), dropped_in)
    assert not torch.equal(call(pipe, guidance_scale=4.0, negative_prompt=["blue"]), dropped_in)


def test_emag_beneath_either_cfg_is_the_same(pipe: Any) -> None:
    emag = EMAG(decay=0.5, start=0.25, stop=1.0)
    with guide(pipe, emag):
        dropped_in = call(pipe, guidance_scale=4.0, num_inference_steps=4)
    with guide(pipe, emag, CFG(scale=4.0)) as run:
        assert torch.allclose(call(pipe, num_inference_steps=4), dropped_in, atol=1e-5)
    assert [choice.step for choice in run.trace.choices] == [1, 2, 3]
    assert not torch.allclose(call(pipe, guidance_scale=4.0, num_inference_steps=4), dropped_in, atol=1e-3)


def test_both_cfgs_at_once_are_refused_before_any_step(pipe: Any) -> None:
    calls = []
    handle = pipe.transformer.register_forward_hook(lambda *args: calls.append(1))
    try:
        with guide(pipe, CFG(scale=4.0)), pytest.raises(ValueError, match="pass guidance_scale=1"):
            call(pipe, guidance_scale=5.0)
    finally:
        handle.remove()
    assert not calls


@pytest.mark.parametrize("length", [16, 512])
def test_a_negative_is_encoded_as_the_pipeline_encodes_a_prompt(pipe: Any, length: int) -> None:
    """Text and embeddings made the pipeline's way guide alike, at the call's own text length."""
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt("red", do_classifier_free_guidance=False, max_sequence_length=length)
    with guide(pipe, NAG(negative_prompt_embeds=embeds)):
        expected = call(pipe, max_sequence_length=length)
    with guide(pipe, NAG(negative_prompt="red")):
        assert torch.equal(call(pipe, max_sequence_length=length), expected)


def test_a_batch_of_three_equals_three_of_one(pipe: Any) -> None:
    negatives = ["red", "circle", "moving left"]
    with guide(pipe, NAG(negative_prompt=negatives)):
        together = call(pipe, seeds=3)
    for index, negative in enumerate(negatives):
        with guide(pipe, NAG(negative_prompt=negative)):
            alone = call(pipe, generator=torch.Generator().manual_seed(index))
        assert torch.allclose(alone[0], together[index], atol=1e-4)


def test_one_guide_serves_several_calls(pipe: Any) -> None:
    with guide(pipe, NAG(negative_prompt="red")) as run:
        assert torch.equal(call(pipe), call(pipe))
    assert len(run.traces) == 2


def test_a_clip_of_frames_needs_no_rounding_twice() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert np.array_equal(to_frames(frames / 255.0), frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prompt="  "), "prompt='  ': is empty"),
        (dict(negative_prompt=""), "negative_prompt='': is empty"),
        (dict(height=60), "height=60: .*nearest is 64"),
        (dict(width=4096), "width=4096: .*nearest is 512"),
        (dict(frames=12), "frames=12: .*nearest is 13"),
        (dict(frames=9999), "frames=9999: .*nearest is 63"),
        (dict(steps=0), "steps=0: must be a whole number, at least 1"),
        (dict(steps=2.5), "steps=2.5"),
        (dict(seed=-1), "seed=-1"),
        (dict(guidance_scale=float("nan")), "guidance_scale=nan"),
        (dict(fps=0), "fps=0"),
        (dict(prompt="a red circle " * 300), "prompt: has 901 tokens and the encoder takes 512"),
    ],
)
def test_what_cannot_be_is_refused_before_any_step(pipe: Any, changes: dict[str, Any], message: str) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("a step was taken")

    handle = pipe.transformer.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ValueError, match=message):
            generate(**dict(prompt=PROMPT, pipe=pipe, progress=False) | changes)
    finally:
        handle.remove()


def test_words_the_model_does_not_know_are_told(pipe: Any) -> None:
    with pytest.warns(UserWarning, match="does not know panda.*black, blue"):
        generate("a red panda", pipe=pipe, steps=1, progress=False)


def test_unknown_models_are_refused_with_what_there_is(tmp_path: Path) -> None:
    for unknown in ("huge", "a/b/c", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=r"unknown.*tiny"):
            resolve(unknown)
    with pytest.raises(ValueError, match=r"without model_index\.json"):
        resolve(tmp_path)
    assert resolve("org/name").source == "org/name"
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}'
    )
    with pytest.raises(OSError, match="cannot be loaded"):
        load(tmp_path, device="cpu")


def test_devices_and_dtypes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="device='gpu'"):
        choose_device("gpu")
    with pytest.raises(ValueError, match=r"dtype='int8'.*float32"):
        choose_dtype("int8", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"offload='disk'.*sequential"):
        load("tiny", device="cpu", offload="disk")


def test_noise_levels_that_a_scheduler_cannot_spread_and_frames_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=1: this model's scheduler"):
        generate(PROMPT, model="tiny-4step", steps=1, progress=False)
    broken = np.zeros((2, 4, 4, 3))
    broken[0] = np.nan
    with pytest.raises(FloatingPointError, match="frames: 50% of them is NaN"):
        to_frames(broken)


def test_specs_are_read() -> None:
    (nag, cfg) = parse("nag:scale=7,tau=2,layers=1-3+cfg:4")
    assert isinstance(nag, NAG)
    assert (nag.scale, nag.tau, nag.layers) == (7.0, 2.0, (1, 2, 3))
    assert isinstance(cfg, CFG)
    assert cfg.scale == 4.0
    assert parse("none") == ()
    (emag, stg) = parse("emag:decay=auto,select=1/3+stg:mode=residual,layers=2")
    assert isinstance(emag, EMAG)
    assert isinstance(stg, STG)
    assert (emag.decay, emag.select, stg.mode, stg.layers) == ("auto", (1, 3), "residual", (2,))
    seg: Any
    mean: Any
    cads: Any
    (seg, mean) = (*parse("seg:sigma=2,over_frames=true,extent=temporal"), *parse("seg:sigma=none"))
    assert (seg.sigma, seg.over_frames, seg.extent, mean.sigma) == (2.0, True, "temporal", None)
    (cads,) = parse("cads:scale=0.1,seed=3")
    assert (cads.scale, cads.seed) == (0.1, 3)
    tpg: Any
    (tpg, s2, enhance) = parse("tpg:2,seed=4,extent=temporal+s2:0.5/0/1+enhance:weight=4")
    assert (tpg.scale, tpg.seed, tpg.extent) == (2.0, 4, "temporal")
    assert isinstance(s2, S2Guidance)
    assert isinstance(enhance, EnhanceAVideo)
    assert (s2.scale, enhance.weight) == ((0.5, 0.0, 1.0), 4.0)
    (vsf, by_frame) = (*parse("vsf:1.2,offset=0.2"), *parse("nag:norm=frame"))
    assert isinstance(vsf, VSF)
    assert isinstance(by_frame, NAG)
    assert (vsf.scale, vsf.offset, by_frame.norm) == (1.2, 0.2, "frame")
    filled: Any = with_negative((nag, CFG(negative_prompt="blue")), "red")
    assert [one.negative_prompt for one in filled] == ["red", "blue"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("magic", "no guidance 'magic'; there is none, nag, vsf, emag"),
        ("nag:force=3", "no parameter 'force'; it has .*scale"),
        ("nag:scale=big", "scale='big' is no number"),
        ("nag:tau=0", "tau=0"),
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_generate_returns_a_clip_of_the_models_size(pipe: Any) -> None:
    clip = generate(PROMPT, pipe=pipe, steps=1, progress=False)
    assert isinstance(clip, Clip)
    assert (clip.frames.shape, clip.fps) == ((13, 64, 64, 3), 8)
