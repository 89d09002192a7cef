"""generate() with the shipped models: the diffusers pipeline and trained weights."""

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
from vidguide.pipelines.request.guidance_spec import fill_negative_prompt, parse
from vidguide.pipelines.request.provenance import arguments_from, load_provenance

PROMPT = "a large circle moving right"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load("tiny", device="cpu")


def call(pipe: Any, seeds: int = 1, **changes: Any) -> torch.Tensor:
    """Return the latents of a short direct call of the pipeline."""
    arguments = dict(prompt=[PROMPT] * seeds, height=64, width=64, num_frames=13, num_inference_steps=2)
    arguments |= dict(guidance_scale=1.0, output_type="latent")
    arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    pipe.set_progress_bar_config(disable=True)
    return pipe(**arguments | changes).frames


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_loads_as_a_wan_pipeline(name: str) -> None:
    pipe = WanPipeline.from_pretrained(SHIPPED[name].path)
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder)} == {torch.float32}


def test_shipped_models_have_at_most_15_megabytes() -> None:
    for model in SHIPPED.values():
        assert sum(path.stat().st_size for path in model.path.rglob("*") if path.is_file()) <= 15e6


def test_a_clip_is_reproduced_bit_for_bit_from_its_json(pipe: Any, tmp_path: Path) -> None:
    clip = generate(PROMPT, negative_prompt="red", pipe=pipe, steps=3, seed=4, progress=False)
    clip.save(tmp_path / "clip.mkv")
    arguments = arguments_from(load_provenance(tmp_path / "clip.json"))
    assert generate(**arguments, progress=False).sha256 == clip.sha256
    assert generate(**{**arguments, "seed": 5}, progress=False).sha256 != clip.sha256


def test_provenance_records_texts_guidance_trace_and_versions(pipe: Any) -> None:
    clip = generate(PROMPT, negative_prompt="red", pipe=pipe, steps=2, progress=False)
    provenance = clip.provenance
    assert provenance["prompt"] == PROMPT
    assert provenance["guidance"][0]["name"] == "NAG"
    assert provenance["guidance"][0]["negative_prompt"] == "red"
    assert provenance["trace"]["steps"] == 2
    assert {"torch", "diffusers", "transformers", "vidguide", "python"} == set(provenance["versions"])


def test_steps_are_counted_and_an_error_of_the_counter_ends_the_run(pipe: Any) -> None:
    steps: list[tuple[int, int]] = []

    def stop(step: int, steps: int) -> None:
        if step == 2:
            raise RuntimeError(f"step {step} of {steps}")

    small: dict[str, Any] = dict(pipe=pipe, steps=3, frames=5, negative_prompt="red", progress=False)
    expected = generate(PROMPT, on_step=lambda *step: steps.append(step), **small).sha256
    assert steps == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(RuntimeError, match="step 2 of 3"):
        generate(PROMPT, on_step=stop, **small)
    assert generate(PROMPT, **small).sha256 == expected


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_follows_its_prompt(name: str) -> None:
    clip = generate("a large blue circle moving left on a white background", model=name, device="cpu", progress=False)
    scene = read(clip.frames).scene
    assert (scene.size, scene.colour, scene.motion, scene.background) == ("large", "blue", "left", "white")
    assert clip.provenance["steps"] == SHIPPED[name].steps


def test_the_distilled_model_has_four_distinct_noise_levels() -> None:
    """diffusers' default four-step schedule ends at 0.009, which leaves three effective steps."""
    scheduler = WanPipeline.from_pretrained(SHIPPED["tiny-4step"].path).scheduler
    scheduler.set_timesteps(SHIPPED["tiny-4step"].steps)
    assert torch.allclose(scheduler.sigmas, torch.tensor([1.0, 0.928, 0.799, 0.5, 0.0]), atol=1e-3)


def test_the_default_for_a_negative_prompt_is_nag_with_the_models_parameters() -> None:
    clip = generate(PROMPT, model="tiny-4step", negative_prompt="red", device="cpu", progress=False)
    (nag,) = clip.provenance["guidance"]
    assert (nag["name"], nag["scale"], nag["tau"], nag["alpha"]) == ("NAG", 11, 1.25, 0.5)


def test_nag_removes_the_colour_of_the_negative_prompt(pipe: Any) -> None:
    """Seeds whose clip is red without a colour in the prompt give another colour with `red` as negative prompt."""
    prompt, red_clips = "a large circle moving right on a white background", 0
    for seed in range(16):
        plain = generate(prompt, seed=seed, pipe=pipe, progress=False)
        if read(plain.frames).scene.colour == "red":
            red_clips += 1
            guided = generate(
                prompt, negative_prompt="red", guidance=[NAG(alpha=0.5)], seed=seed, pipe=pipe, progress=False
            )
            scene = read(guided.frames).scene
            assert scene.colour != "red"
            assert (scene.size, scene.motion, scene.background) == ("large", "right", "white")
        if red_clips == 2:
            break
    assert red_clips


def test_neutral_guidance_does_not_change_the_output_bitwise(pipe: Any) -> None:
    expected = call(pipe)
    with guide(pipe, NAG(negative_prompt="red", scale=1)):
        assert torch.equal(call(pipe), expected)
    assert torch.equal(call(pipe), expected)


def test_our_cfg_equals_the_pipelines_cfg_bitwise(pipe: Any) -> None:
    expected = call(pipe, guidance_scale=4.0, negative_prompt=["blue"])
    with guide(pipe, CFG(scale=4.0, negative_prompt="blue")):
        assert torch.equal(call(pipe), expected)


def test_nag_gives_the_same_output_with_either_cfg(pipe: Any) -> None:
    """NAG guides the conditional branch of the pipeline's CFG and of ours."""
    nag = NAG(negative_prompt="red")
    with guide(pipe, nag):
        with_pipeline_cfg = call(pipe, guidance_scale=4.0, negative_prompt=["blue"])
    with guide(pipe, nag, CFG(scale=4.0, negative_prompt="blue")):
        assert torch.equal(call(pipe), with_pipeline_cfg)
    assert not torch.equal(call(pipe, guidance_scale=4.0, negative_prompt=["blue"]), with_pipeline_cfg)


def test_emag_gives_the_same_output_with_either_cfg(pipe: Any) -> None:
    emag = EMAG(decay=0.5, start=0.25, stop=1.0)
    with guide(pipe, emag):
        with_pipeline_cfg = call(pipe, guidance_scale=4.0, num_inference_steps=4)
    with guide(pipe, emag, CFG(scale=4.0)) as run:
        assert torch.allclose(call(pipe, num_inference_steps=4), with_pipeline_cfg, atol=1e-5)
    assert [choice.step for choice in run.trace.choices] == [1, 2, 3]
    assert not torch.allclose(call(pipe, guidance_scale=4.0, num_inference_steps=4), with_pipeline_cfg, atol=1e-3)


def test_two_cfgs_at_once_are_refused_before_any_step(pipe: Any) -> None:
    calls = []
    handle = pipe.transformer.register_forward_hook(lambda *args: calls.append(1))
    try:
        with guide(pipe, CFG(scale=4.0)), pytest.raises(ValueError, match="pass guidance_scale=1"):
            call(pipe, guidance_scale=5.0)
    finally:
        handle.remove()
    assert not calls


@pytest.mark.parametrize("length", [16, 512])
def test_a_negative_prompt_is_encoded_as_the_pipeline_encodes_a_prompt(pipe: Any, length: int) -> None:
    """A text, and embeddings from `encode_prompt` at the text length of the call, give the same output."""
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt("red", do_classifier_free_guidance=False, max_sequence_length=length)
    with guide(pipe, NAG(negative_prompt_embeds=embeds)):
        expected = call(pipe, max_sequence_length=length)
    with guide(pipe, NAG(negative_prompt="red")):
        assert torch.equal(call(pipe, max_sequence_length=length), expected)


def test_a_batch_of_three_equals_three_of_one(pipe: Any) -> None:
    negatives = ["red", "circle", "moving left"]
    with guide(pipe, NAG(negative_prompt=negatives)):
        batch = call(pipe, seeds=3)
    for index, negative in enumerate(negatives):
        with guide(pipe, NAG(negative_prompt=negative)):
            single = call(pipe, generator=torch.Generator().manual_seed(index))
        assert torch.allclose(single[0], batch[index], atol=1e-4)


def test_one_guide_serves_several_calls(pipe: Any) -> None:
    with guide(pipe, NAG(negative_prompt="red")) as run:
        assert torch.equal(call(pipe), call(pipe))
    assert len(run.traces) == 2


def test_to_frames_inverts_division_by_255() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert np.array_equal(to_frames(frames / 255.0), frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prompt="  "), "prompt='  ': must be non-empty text"),
        (dict(negative_prompt=""), "negative_prompt='': must be non-empty text"),
        (dict(height=60), "height=60: .*nearest is 64"),
        (dict(width=4096), "width=4096: .*nearest is 512"),
        (dict(frames=12), "frames=12: .*nearest is 13"),
        (dict(frames=9999), "frames=9999: .*nearest is 63"),
        (dict(steps=0), "steps=0: must be an integer of at least 1"),
        (dict(steps=2.5), "steps=2.5"),
        (dict(seed=-1), "seed=-1"),
        (dict(guidance_scale=float("nan")), "guidance_scale=nan"),
        (dict(fps=0), "fps=0"),
        (dict(prompt="a red circle " * 300), "prompt=.*: must be at most 512 tokens, not 901"),
    ],
)
def test_bad_arguments_are_refused_before_any_step(pipe: Any, changes: dict[str, Any], message: str) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("a step was taken")

    handle = pipe.transformer.register_forward_pre_hook(fail)
    try:
        with pytest.raises((ValueError, TypeError), match=message):
            generate(**dict(prompt=PROMPT, pipe=pipe, progress=False) | changes)
    finally:
        handle.remove()


def test_words_outside_the_vocabulary_are_warned_about(pipe: Any) -> None:
    with pytest.warns(UserWarning, match="does not know panda.*black, blue"):
        generate("a red panda", pipe=pipe, steps=1, progress=False)


def test_unknown_models_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    for unknown in ("huge", "a/b/c", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=r"unknown.*tiny"):
            resolve(unknown)
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        resolve(tmp_path)
    assert resolve("org/name").source == "org/name"
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}'
    )
    with pytest.raises(OSError, match="cannot be loaded"):
        load(tmp_path, device="cpu")


def test_unknown_devices_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="device='gpu'"):
        choose_device("gpu")
    with pytest.raises(ValueError, match=r"dtype='int8'.*float32"):
        choose_dtype("int8", torch.device("cpu"))


def test_one_step_with_a_terminal_noise_level_and_nan_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=1: must be at least 2"):
        generate(PROMPT, model="tiny-4step", steps=1, progress=False)
    broken = np.zeros((2, 4, 4, 3))
    broken[0] = np.nan
    with pytest.raises(FloatingPointError, match="frames: 50% of the values are NaN"):
        to_frames(broken)


def test_specs_are_parsed_by_the_types_of_the_parameters() -> None:
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
    filled: Any = fill_negative_prompt((nag, CFG(negative_prompt="blue")), "red")
    assert [guidance.negative_prompt for guidance in filled] == ["red", "blue"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("magic", "unknown guidance 'magic'.*; must be one of none, nag, vsf, emag"),
        ("nag:force=3", "unknown nag parameter 'force'; must be one of .*scale"),
        ("nag:taw=3", "did you mean 'tau'"),
        ("nag:scale=big", "scale='big': must be a number"),
        ("nag:tau=0", "tau=0"),
        ("nag:layers=a", "layers='a': must be several, each an integer, such as 3/5/7 or none"),
        ("seg:over_frames=2", "over_frames='2': must be true or false"),
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_generate_returns_a_clip_of_the_default_size_of_the_model(pipe: Any) -> None:
    clip = generate(PROMPT, pipe=pipe, steps=1, progress=False)
    assert isinstance(clip, Clip)
    assert (clip.frames.shape, clip.fps) == ((13, 64, 64, 3), 8)


def test_a_list_of_prompts_gives_the_clips_that_are_made_alone(pipe: Any) -> None:
    """Bit for bit, also with a guidance that has a state for a run, and after other clips of the pipeline."""
    call: dict[str, Any] = dict(steps=2, frames=5, height=32, width=32, pipe=pipe, progress=False)
    call |= dict(negative_prompt="red")
    prompts = [PROMPT, "a small square"]
    clips = generate(prompts, seed=4, num_videos_per_prompt=2, **call)
    alone = [generate(text, seed=seed, **call) for text in reversed(prompts) for seed in (5, 4)][::-1]
    assert [(clip.provenance["prompt"], clip.provenance["seed"]) for clip in clips] == [
        (text, seed) for text in prompts for seed in (4, 5)
    ]
    for clip, single in zip(clips, alone, strict=True):
        assert np.array_equal(clip.frames, single.frames)
        changing = ("seconds",)
        assert {k: v for k, v in clip.provenance.items() if k not in changing} == {
            k: v for k, v in single.provenance.items() if k not in changing
        }
    assert len({clip.sha256 for clip in clips}) == 4


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        ([], 1, r"prompt=\[\]: must be a text, or a list of at least one"),
        (["a", " "], 1, r"prompt\[1\]=' ': must be non-empty text"),
        (["a", 3], 1, r"prompt\[1\]=3: must be non-empty text"),
        (["a"], 0, "num_videos_per_prompt=0: must be an integer of at least 1"),
        ("a", 2, r"num_videos_per_prompt=2: needs a list of prompts, such as \['a'\]"),
    ],
)
def test_wrong_lists_of_prompts_are_refused(prompt: Any, count: int, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        generate(prompt, num_videos_per_prompt=count)
